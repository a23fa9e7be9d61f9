"""Tables as spreadsheets, pandas and annotators write them: read rightly, or refused in a line."""

import os

import numpy as np
import pytest
import soundfile

from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.hold_out import hold_out
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError
from tests.helpers.errors import error_of

DOG_HEN = [("a.wav", ("dog",)), ("b.wav", ("hen",))]


@pytest.fixture
def table(tmp_path):
    """Returns a function that writes a table next to the files a.wav to d.wav."""
    for name in "abcd":
        (tmp_path / f"{name}.wav").touch()

    def write(content, name="farm.csv"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def examples(dataset):
    """Returns pairs of file name and labels, sorted."""
    return sorted(
        (os.path.basename(split.source_name(i)), tuple(dataset.labels.names[t] for t in targets))
        for split in dataset.splits.values()
        for i, targets in enumerate(split.targets)
    )


@pytest.mark.parametrize(
    "content",
    [
        "path;labels\na.wav;dog\nb.wav;hen\n",  # Excel in German
        "sep=;\npath;labels\na.wav;dog\nb.wav;hen\n",
        '"sep=,"\r\nPath,Labels\r\na.wav,dog\r\nb.wav,hen\r\n',
        "path\tlabels\na.wav\tdog\nb.wav\then\n",
        "path|labels\na.wav|dog\nb.wav|hen\n",
        "path,labels,,,\na.wav,dog,,,\nb.wav,hen\n",  # trailing empty columns
        "path,labels\na.wav,dog,,\nb.wav,hen,,,\n",
        ",path,labels\n0,a.wav,dog\n1,b.wav,hen\n",  # pandas with its index
        "filename,label\na.wav,dog\nb.wav,hen\n",
        "File,Class\na.wav,dog\nb.wav,hen\n",
        "fname,category,length\na.wav,dog,1\nb.wav,hen,2\n",
        'path,labels\na.wav,[\'dog\']\nb.wav,"[""hen""]"\n',
        "path,labels\n.\\a.wav,dog\nsub\\..\\b.wav,hen\n",  # Windows
        "path,labels\na.wav,dog \nb.wav,\u00a0hen;\n",
        'path, labels\na.wav, "dog"\nb.wav, hen;hen\n',
        "path,labels\na.wav,dog\u200b\nb.wav,\ufeffhen\n",
        "path,labels\na.wav,dog\nb.wav,hen\n".encode("utf-16"),
        "path\tlabels\r\na.wav\tdog\r\nb.wav\then\r\n".encode("utf-16"),  # Excel's Unicode text
        b"\xef\xbb\xbfpath;labels\ra.wav;dog\rb.wav;hen\r",
    ],
)
def test_the_same_table_in_other_forms_gives_the_same_examples(table, content):
    assert examples(load_dataset("manifest", table(content))) == DOG_HEN


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "null", "N/A", "NA", "<NA>", "#N/A"])
def test_a_missing_label_is_no_class(table, missing, tmp_path):
    path = table(f"path,labels\na.wav,dog\nb.wav,{missing}\nc.wav,hen\n")
    message = error_of(load_dataset, "manifest", path)
    assert message.startswith(f"{missing!r} looks like a missing value")
    assert message.endswith("farm.csv line 3")
    (tmp_path / "labels.txt").write_text(f"dog\nhen\n{missing}\n")
    dataset = load_dataset("manifest", path, labels_path=str(tmp_path / "labels.txt"))
    assert examples(dataset)[1] == ("b.wav", (missing,))


@pytest.mark.parametrize("separator", [",", ", ", "|", "/", "+", " & "])
def test_a_label_that_may_be_two_is_refused_unless_a_list_names_it(table, separator, tmp_path):
    both = f"dog{separator}hen"
    path = table(f'path,labels\na.wav,dog\nb.wav,hen\nc.wav,"{both}"\n')
    message = error_of(load_dataset, "manifest", path)
    assert f"{both!r} may be one label or several: write dog;hen for several" in message
    assert message.endswith("farm.csv line 4")
    (tmp_path / "labels.txt").write_text(f"dog\nhen\n{both}\n")
    dataset = load_dataset("manifest", path, labels_path=str(tmp_path / "labels.txt"))
    assert examples(dataset)[2] == ("c.wav", (both,))


def test_lists_of_labels_that_never_stand_alone_are_refused(table):
    path = table("path;labels\na.wav;dog,hen\nb.wav;hen,cow\nc.wav;cow,dog\n")
    assert "'dog,hen' may be one label or several" in error_of(load_dataset, "manifest", path)


def test_labels_of_one_class_may_contain_separators(table):
    path = table('path,labels\na.wav,"Male speech, man"\nb.wav,fan/broken\nc.wav,fan/good\n')
    dataset = load_dataset("manifest", path)
    assert dataset.labels.names == ("Male speech, man", "fan/broken", "fan/good")
    assert "each of these is one label: 'Male speech, man'" in dataset.notes[0]


def test_unicode_forms_of_a_label_and_of_a_path_are_one(table, tmp_path):
    (tmp_path / "Ka\u0308fer.wav").touch()
    path = table("path,labels\nK\u00e4fer.wav,V\u00f6gel\na.wav,Vo\u0308gel\nb.wav,hen\n")
    dataset = load_dataset("manifest", path)
    assert set(dataset.labels.names) == {"V\u00f6gel", "hen"}
    assert ("Ka\u0308fer.wav", ("V\u00f6gel",)) in examples(dataset)


def test_unused_columns_are_named(table):
    dataset = load_dataset("manifest", table(",path,labels,site\n0,a.wav,dog,x\n1,b.wav,hen,y\n"))
    assert dataset.notes[0] == "columns that are not used: (without a name), site"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,class,category\na.wav,dog,x\n", "Several columns may be the one named 'labels'"),
        ("path,name\na.wav,dog\n", "lacks the column 'labels'.*Known: path, name"),
        ("a.wav,dog\nb.wav,hen\n", "lacks the column 'path'.*line 1"),
        ("sep=;\npath,labels\na.wav,dog\n", "separated by semicolons.*line 2"),
        ("path,labels\na.wav,[dog\n", None),
        ("path,labels\na.wav,[dog]\n", "must hold quoted names.*line 2"),
        ("path,labels,group\na.wav,dog,nan\n", "missing group must be an empty cell.*line 2"),
        ("path,labels,start,end\na.wav,dog,5,4\n", "end after its start.*line 2: start=5, end=4"),
        ("path,labels,start,end\na.wav,dog,5,5\n", "end after its start"),
        ("path,labels,start,end\na.wav,dog,-1,4\n", "line 2: '-1'"),
        ("path,labels,start,end\na.wav,dog,0:10,0:12\n", "number of seconds.*line 2: '0:10'"),
        ("path,labels,start,end\na.wav,dog,nan,4\n", "line 2: 'nan'"),
        ("path,labels,start,end\na.wav,dog,1,2\na.wav,hen,1.0,2.0\n", "lines 2 and 3"),
        ("path,labels,end\na.wav,dog,2\n", "needs one named start"),
        ("path,labels,start_ms,end_ms\na.wav,dog,100,200\n", "in seconds.*column start_ms"),
        ("path,labels,Start (samples)\na.wav,dog,100\n", r"column start \(samples\)"),
    ],
)
def test_what_has_no_single_reading_is_refused_in_one_line(table, content, message):
    path = table(content)
    if message is None:
        assert len(load_dataset("manifest", path).labels) == 1
        return
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("manifest", path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


# --- Segments ---


@pytest.mark.parametrize(
    "header",
    [
        "path,labels,start,end",
        "filename,event_label,onset,offset",
        "File,Label,Start_Time,End_Time",
    ],
)
def test_start_and_end_make_examples_of_spans(table, tmp_path, header):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, 48_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    rows = "a.wav,dog,0.5,1.5\na.wav,hen,1.0,1.25\na.wav,dog,2,\nb.wav,hen,,\n"
    dataset = load_dataset("manifest", table(f"{header}\n{rows}"), test_fraction=0.0)
    split = dataset.split("train")
    a, b = str(tmp_path / "a.wav"), str(tmp_path / "b.wav")
    assert split.sources == [Segment(a, 0.5, 1.5), Segment(a, 1.0, 1.25), Segment(a, 2.0), b]
    assert split.targets == [(0,), (1,), (0,), (1,)]
    np.testing.assert_array_equal(split.sources[1].load(16_000), samples[16_000:20_000])
    assert "3 segments of 1 recordings; what lies between them is not used" in dataset.notes


def test_a_duration_ends_a_segment_unless_there_is_an_end(table, tmp_path):
    a = str(tmp_path / "a.wav")
    for text, segment in (
        ("path,labels,start,duration\na.wav,dog,0.5,2\n", Segment(a, 0.5, 2.5)),
        ("path,labels,onset,offset,duration\na.wav,dog,0.5,1,60\n", Segment(a, 0.5, 1.0)),
        ("path,labels,duration\na.wav,dog,60\n", a),  # of the file
    ):
        assert load_dataset("manifest", table(text)).split("train").sources == [segment]


def test_german_decimals_are_times(table, tmp_path):
    dataset = load_dataset("manifest", table("path;labels;start;end\na.wav;dog;0,5;1,25\n"))
    assert dataset.split("train").sources == [Segment(str(tmp_path / "a.wav"), 0.5, 1.25)]


# --- Groups ---


def members(dataset):
    """Returns the file names of each split."""
    return {
        name: {os.path.basename(split.source_name(i)) for i in range(len(split))}
        for name, split in dataset.splits.items()
    }


@pytest.fixture
def takes(tmp_path):
    """Writes 40 takes of 10 recordings of two classes; returns their names and labels."""
    rows = [(f"r{r}_{take}.wav", "dog" if r % 2 else "hen") for r in range(10) for take in range(4)]
    for name, _ in rows:
        (tmp_path / name).touch()
    return rows


@pytest.mark.parametrize("by_pattern", [False, True])
def test_a_group_never_crosses_a_split(table, takes, by_pattern):
    lines = [f"{name},{label},{name.split('_')[0]}" for name, label in takes]
    header = f"path,labels,{'note' if by_pattern else 'group'}"
    settings = {"group_pattern": "^(r[0-9]+)_"} if by_pattern else {}
    path = table("\n".join([header, *lines]))
    dataset = load_dataset("manifest", path, validation_fraction=0.2, **settings)
    found = {k: {name.split("_")[0] for name in names} for k, names in members(dataset).items()}
    assert {k: len(groups) for k, groups in found.items()} == {
        "train": 6, "validation": 2, "test": 2
    }  # fmt: skip
    assert len(set().union(*found.values())) == 10
    for split in dataset.splits.values():  # both classes everywhere
        assert {target for (target,) in split.targets} == {0, 1}
    assert "test holds 2 of 10 groups, 20% of the examples" in dataset.notes
    backwards = table("\n".join([header, *lines[::-1]]))
    again = load_dataset("manifest", backwards, validation_fraction=0.2, **settings)
    assert members(again) == members(dataset)


@pytest.mark.parametrize(("column", "parts"), [("split", ("train", "test")), ("fold", ("1", "2"))])
def test_a_split_that_divides_a_group_is_refused(table, column, parts):
    rows = [f"a.wav,dog,rex,{parts[0]}", f"b.wav,hen,ada,{parts[0]}", f"c.wav,dog,rex,{parts[1]}"]
    path = table("\n".join([f"path,labels,group,{column}", *rows]))
    message = error_of(load_dataset, "manifest", path, fold=2 if column == "fold" else None)
    assert "A group must not be in two splits" in message
    assert f"group 'rex' in {path} line 2 ({parts[0]}) and {path} line 4 ({parts[1]})" in message


def test_segments_of_a_recording_are_held_out_together(table):
    rows = [f"{name}.wav,{label},{i},{i + 1}" for name in "abcd" for i, label in
            enumerate(["dog", "hen"] * 3)]  # fmt: skip
    dataset = load_dataset("manifest", table("\n".join(["path,labels,start,end", *rows])))
    found = {k: {name.split("[")[0] for name in names} for k, names in members(dataset).items()}
    assert {k: len(v) for k, v in found.items()} == {"train": 3, "test": 1}
    given = [f"{row},{'test' if i % 6 == 5 else 'train'}" for i, row in enumerate(rows)]
    dataset = load_dataset("manifest", table("\n".join(["path,labels,start,end,split", *given])))
    assert dataset.notes[1] == (
        "4 recordings have segments in two splits: a.wav, b.wav, c.wav, ..."
    )


def test_patterns_that_find_nothing_are_refused(table):
    path = table("path,labels\na.wav,dog\nb.wav,hen\n")
    assert "in the paths" in error_of(load_dataset, "manifest", path, group_pattern="^x")
    assert "expression" in error_of(load_dataset, "manifest", path, group_pattern="(")
    path = table("path,labels,group\na.wav,dog,1\nb.wav,hen,2\n")
    assert "column group" in error_of(load_dataset, "manifest", path, group_pattern="(.)")


def test_one_huge_group_is_not_the_test():
    groups = ["huge"] * 80 + [f"small{i}" for i in range(20)]
    keys = [str(i) for i in range(100)]
    splits = hold_out(keys, [0] * 100, 0.2, 0.0, groups)
    assert {g for g, s in zip(groups, splits, strict=True) if s == "test"} == set(groups[80:])
    assert hold_out(["a", "b"], [0, 0], 0.5, 0.0, ["x", "x"]) == ["train", "train"]
    assert hold_out(["a", "b"], [0, 1], 1.0, 0.0) == ["test", "test"]


def test_a_pattern_groups_the_files_of_class_folders(tmp_path):
    names = [f"{label}/r{r}_{take}.wav" for label in ("dog", "hen") for r in range(5)
             for take in range(4)]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = load_dataset("folders", tmp_path, group_pattern="^(.+)_")
    found = {k: {name.split("_")[0] for name in names} for k, names in members(dataset).items()}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "test": 8}
    assert "test holds 2 of 10 groups, 20% of the examples" in dataset.notes
    for label in range(2):
        recordings = {
            name: {os.path.basename(split.sources[i]).split("_")[0]
                   for i in range(len(split)) if split.targets[i] == (label,)}
            for name, split in dataset.splits.items()
        }  # fmt: skip
        assert not recordings["train"] & recordings["test"], found
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    for label, split in (("dog", "train"), ("hen", "test")):
        (tmp_path / label).rename(tmp_path / split / label)
    message = error_of(load_dataset, "folders", tmp_path, group_pattern="(r[0-9])")
    assert "group 'r0' in " in message

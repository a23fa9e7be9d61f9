"""The manifest reader: splits, labels, and errors with line numbers."""

import os

import pytest

from ast_keras.data.readers import load_dataset
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet
from tests.helpers.errors import error_of


@pytest.fixture
def farm(tmp_path):
    """Returns a function that writes a manifest and empty files next to it."""

    def write(text, files=(), encoding="utf-8"):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "farm.csv").write_bytes(text.encode(encoding))
        return tmp_path / "farm.csv"

    return write


def error(path, **settings):
    return error_of(load_dataset, "manifest", path, **settings)


def test_manifest_reads_splits_and_labels(farm, tmp_path):
    path = farm(
        "path,labels,split,note\na.wav,hen,train,x\nsub/b.wav,dog,val,\n./c.wav,hen,Test,\n",
        ["a.wav", "sub/b.wav", "c.wav"],
    )
    dataset = load_dataset("manifest", path)
    assert dataset.name == "farm"
    assert dataset.labels.names == ("dog", "hen")
    assert not dataset.multi_label
    assert {k: (v.sources, v.targets) for k, v in dataset.splits.items()} == {
        "train": ([str(tmp_path / "a.wav")], [(1,)]),
        "validation": ([str(tmp_path / "sub" / "b.wav")], [(0,)]),
        "test": ([str(tmp_path / "c.wav")], [(1,)]),
    }
    assert dataset.notes == (
        "columns that are not used: note",
        "1 of 2 labels has no training example: dog",
    )


def test_manifest_reads_files_of_spreadsheet_programs(farm, tmp_path):
    path = farm(
        '\ufeffPath,Labels,Split\r\n"a, 1.wav", dog ; hen ;,train\r\n\r\nVögel.wav,hen,test\r\n',
        ["a, 1.wav", "Vögel.wav"],
    )
    dataset = load_dataset("manifest", path)
    assert dataset.multi_label
    assert dataset.split("train").targets == [(0, 1)]
    assert dataset.split("test").sources == [str(tmp_path / "Vögel.wav")]


def test_manifest_reads_absolute_paths_and_relative_manifests(farm, tmp_path, monkeypatch):
    other = tmp_path / "other"
    path = farm(f"path,labels,split\n{other}/a.wav,dog,train\nb.wav,dog,train\n")
    other.mkdir()
    (other / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    sources = load_dataset("manifest", path).split("train").sources
    assert sources == [str(other / "a.wav"), str(tmp_path / "b.wav")]
    monkeypatch.chdir(tmp_path)
    assert load_dataset("manifest", "farm.csv").split("train").sources[1] == "b.wav"


def test_manifest_without_splits_holds_out_a_fifth_of_every_class(farm):
    files = [f"{i}.wav" for i in range(20)]
    rows = [f"{name},{'dog' if i % 2 else 'hen'}" for i, name in enumerate(files)]
    dataset = load_dataset("manifest", farm("path,labels\n" + "\n".join(rows), files))
    assert sorted(dataset.split("test").targets) == [(0,), (0,), (1,), (1,)]
    assert len(dataset.split("train")) == 16
    assert dataset.notes == ("20% of every class held out by name for testing",)
    backwards = load_dataset("manifest", farm("path,labels\n" + "\n".join(rows[::-1]), files))
    assert backwards.split("test").sources == dataset.split("test").sources[::-1]


def test_manifest_for_training_only_holds_out_the_given_fractions(farm):
    files = [f"{i}.wav" for i in range(10)]
    path = farm("path,labels,split\n" + "\n".join(f"{f},dog,train" for f in files), files)
    dataset = load_dataset("manifest", path)
    assert list(dataset.splits) == ["train"]
    assert dataset.notes == ("no test rows; set test_fraction=0.2 to hold some out",)
    dataset = load_dataset("manifest", path, test_fraction=0.3, validation_fraction=0.1)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 6, "validation": 1, "test": 3}


def test_manifest_rejects_fractions_if_there_are_test_rows(farm):
    path = farm("path,labels,split\na.wav,dog,train\nb.wav,dog,test\n", ["a.wav", "b.wav"])
    assert "which has test, train" in error(path, test_fraction=0.2)


def test_manifest_tests_on_a_fold(farm):
    text = "path,labels,fold\n" + "".join(f"{i}.wav,dog,{i % 3}\n" for i in range(9))
    path = farm(text, [f"{i}.wav" for i in range(9)])
    dataset = load_dataset("manifest", path, fold=0)
    assert [os.path.basename(s) for s in dataset.split("test").sources] == [
        "0.wav",
        "3.wav",
        "6.wav",
    ]
    assert len(dataset.split("train")) == 6
    assert "set fold to the test fold (0, 1, 2)" in error(path)
    assert "fold must be one of them: 0, 1, 2. Received: fold=3" in error(path, fold=3)


def test_manifest_rejects_a_fold_it_does_not_have(farm):
    path = farm("path,labels,split\na.wav,dog,train\n", ["a.wav"])
    assert "fold needs a column named fold" in error(path, fold=1)
    path = farm("path,labels,fold\na.wav,dog,first\n", ["a.wav"])
    assert "must be an integer" in error(path, fold=1)
    assert "line 2: 'first'" in error(path, fold=1)


def test_manifest_takes_labels_from_a_file_in_its_order(farm, tmp_path):
    path = farm("path,labels,split\na.wav,dog;hen;/m/dog,train\n", ["a.wav"])
    LabelSet(("hen", "cow", "dog"), ("/m/hen", "/m/cow", "/m/dog")).to_csv(tmp_path / "labels.csv")
    dataset = load_dataset("manifest", path, labels_path=str(tmp_path / "labels.csv"))
    assert dataset.labels.names == ("hen", "cow", "dog")
    assert dataset.split("train").targets == [(0, 2)]
    assert dataset.notes[-1] == "1 of 3 labels has no training example: cow"


def test_manifest_takes_published_labels_by_name(farm):
    path = farm("path,labels,split\na.wav,/m/09x0r;Dog,train\nb.wav,,test\n", ["a.wav", "b.wav"])
    dataset = load_dataset("manifest", path, labels_path="audioset")
    assert len(dataset.labels) == 527
    assert dataset.split("train").targets == [(0, dataset.labels.index_of("Dog"))]
    assert dataset.split("test").targets == [()]


def test_manifest_rejects_an_unknown_label_with_line_and_nearest_name(farm, tmp_path):
    path = farm("path,labels,split\na.wav,dog,train\nb.wav,roster,train\n", ["a.wav", "b.wav"])
    message = error(path, labels_path="esc50")
    assert "Did you mean 'rooster'? Received: 'roster' in" in message
    assert message.endswith("farm.csv line 3")
    assert "none.txt" in error(path, labels_path=str(tmp_path / "none.txt"))


def test_manifest_allows_empty_labels_only_in_multi_label_data(farm):
    files = ["a.wav", "b.wav"]
    path = farm("path,labels,split\na.wav,dog,train\nb.wav,,train\n", files)
    assert "farm.csv line 3: 0 labels" in error(path)
    assert "set multi_label=True" in error(path)
    assert load_dataset("manifest", path, multi_label=True).split("train").targets == [(0,), ()]
    path = farm("path,labels,split\na.wav,dog;hen,train\nb.wav,,train\n", files)
    assert load_dataset("manifest", path).split("train").targets == [(0, 1), ()]
    assert "farm.csv line 2: 2 labels" in error(path, multi_label=False)


def test_manifest_lists_the_first_missing_files_or_drops_them(farm, tmp_path):
    text = "path,labels,split\n" + "".join(f"{i}.wav,dog,train\n" for i in range(6))
    path = farm(text, ["0.wav", "4.wav"])
    message = error(path)
    assert message.startswith("4 of 6 files do not exist.")
    assert f"line 3: {tmp_path / '1.wav'}, line 4: " in message
    assert "5.wav" not in message
    dataset = load_dataset("manifest", path, allow_missing=True)
    assert [os.path.basename(s) for s in dataset.split("train").sources] == ["0.wav", "4.wav"]
    assert dataset.notes[1] == "4 of 6 files do not exist and were dropped"
    (tmp_path / "0.wav").unlink()
    (tmp_path / "4.wav").unlink()
    assert "None of the 6 files exists" in error(path, allow_missing=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels,split\na.wav,dog,train\n./a.wav,dog,test\n", "lines 2 and 3: .*/a.wav"),
        ("path,labels,split\na.wav,dog,extra\n", "line 2: 'extra'"),
        ("path,labels,split\na.wav,dog,\n", "line 2: ''"),
        ("path,labels,split\n\n,dog,train\n", "path must not be empty. Received: .* line 3"),
        (
            "path,labels,split\na.wav,dog, cow,train\n",
            "the separator. Received: .* line 2: 4 cells",
        ),
        ("path,labels,split\na.wav\n", "line 2: 1 cells"),
        ("path;name;split\na.wav;dog;train\n", "'labels'.*separated by semicolons"),
        ("path,labelled,split\na.wav,dog,train\n", "'labels'.*Did you mean 'labelled'"),
        ("path,path,labels\na.wav,a.wav,dog\n", "Every column must occur only once"),
        ("path,labels,split\n", "no rows"),
        ("path,labels,split\na.wav,dog,train\x00\n", "line 2|valid CSV"),
        ("", "lacks the column 'path'"),
    ],
)
def test_manifest_rejects_bad_tables_with_the_line(farm, text, message):
    path = farm(text, ["a.wav"])
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("manifest", path)
    assert str(path) in str(caught.value)


def test_manifest_rejects_other_encodings_and_folders(farm, tmp_path):
    path = farm("path,labels,split\nVögel.wav,dog,train\n", encoding="latin-1")
    assert "as UTF-8" in error(path)
    assert "as UTF-8" in error(farm("path,labels\n", encoding="utf-16-le"))
    assert 'data.kind="folders"' in error(tmp_path)


def test_manifest_rejects_rows_without_any_label(farm):
    path = farm("path,labels,split\na.wav,,train\n", ["a.wav"])
    assert "No row has a label" in error(path, multi_label=True)

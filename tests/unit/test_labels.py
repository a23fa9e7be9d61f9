"""Tests of `LabelSet`: published lists, lookup, reading and writing of files, rejected input."""

import os
import pickle
import stat

import numpy as np
import pytest

from ast_keras.data.dataset import SoundDataset, Split, from_examples
from ast_keras.errors import ArgumentError, LabelError, did_you_mean
from ast_keras.labels import PUBLISHED, LabelSet, labels_of_classes


@pytest.mark.parametrize(
    ("name", "size", "first", "last", "first_id"),
    [
        ("audioset", 527, "Speech", "Field recording", "/m/09x0r"),
        ("esc50", 50, "dog", "hand_saw", "/m/07rwj00"),
        ("speech_commands", 35, "backward", "one", "/m/spcmd00"),
    ],
)
def test_label_set_loads_published_lists_in_checkpoint_order(name, size, first, last, first_id):
    labels = LabelSet.load(name)
    assert (len(labels), labels.names[0], labels.names[-1]) == (size, first, last)
    assert labels.ids[0] == first_id


def test_every_list_in_the_package_is_published():
    from ast_keras.labels import LABEL_SETS_DIR

    assert sorted(p.stem for p in LABEL_SETS_DIR.glob("*.csv")) == sorted(PUBLISHED)


def test_label_set_rejects_unknown_published_list():
    with pytest.raises(LabelError, match=r"audioset, esc50, speech_commands.*name='imagenet'"):
        LabelSet.load("imagenet")


def test_index_of_finds_names_and_ids():
    labels = LabelSet.load("audioset")
    assert [labels.index_of(name) for name in labels.names] == list(range(527))
    assert [labels.index_of(label_id) for label_id in labels.ids] == list(range(527))


def test_index_of_rejects_unknown_label_with_nearest_name():
    with pytest.raises(LabelError, match=r"Did you mean 'rooster'\? Received: 'Roostr'"):
        LabelSet.load("esc50").index_of("Roostr")


def test_ids_default_to_the_names():
    labels = LabelSet(["dog", "hen"])
    assert labels.ids == labels.names == ("dog", "hen")
    assert labels == LabelSet(("dog", "hen"), ("dog", "hen"))
    assert pickle.loads(pickle.dumps(labels)).index_of("hen") == 1


def test_subset_keeps_ids_and_order():
    labels = LabelSet(("dog", "cow", "hen"), ("/d", "/c", "/h")).subset([2, 0])
    assert labels == LabelSet(("hen", "dog"), ("/h", "/d"))


AUDIOSET = LabelSet.load("audioset")


def test_indices_of_maps_another_order_by_id_and_by_name():
    order = [(index * 100) % 527 for index in range(527)]  # 100 and 527 have no common divisor
    shuffled = AUDIOSET.subset(order)
    assert AUDIOSET.indices_of(shuffled) == tuple(order)
    assert [AUDIOSET.ids[i] for i in AUDIOSET.indices_of(shuffled)] == list(shuffled.ids)
    # A list of names without ids, as on a model hub, and one with other spellings of the names.
    assert AUDIOSET.indices_of(LabelSet(shuffled.names)) == tuple(order)
    assert LabelSet(AUDIOSET.names).indices_of(shuffled) == tuple(order)
    respelt = LabelSet(tuple(name.upper() for name in shuffled.names), shuffled.ids)
    assert AUDIOSET.indices_of(respelt) == tuple(order)
    assert AUDIOSET.indices_of(LabelSet(shuffled.ids)) == tuple(order)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            LabelSet(("dog", "cow")),
            LabelSet(("dog", "hen", "owl")),
            r"first \(2 labels\): 'cow'; only in the second \(3 labels\): 'hen', 'owl'$",
        ),
        (LabelSet(("dog", "cow")), LabelSet(("cow",)), r"'dog'; only in the second .*: none$"),
        (
            LabelSet(("dog", "cow"), ("/d", "/c")),
            LabelSet(("dog", "hen")),  # one name in common, no id
            r"first \(2 labels\): 'cow'; only in the second \(2 labels\): 'hen'$",
        ),
        (AUDIOSET, LabelSet.load("esc50"), r"\(527 labels\): 'Speech', .* and \d+ more; .*\(50 la"),
        (
            LabelSet(("dog", "hen"), ("0", "1")),
            LabelSet(("hen", "dog"), ("0", "1")),
            "'0' is 'dog' in one set, 'hen' in the other",
        ),
    ],
)
def test_indices_of_names_the_differing_labels_in_its_error(ours, theirs, message):
    with pytest.raises(LabelError, match=message) as caught:
        ours.indices_of(theirs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        ((), (), "at least one"),
        (("dog", " "), (), "name of a label may not be blank. Received: ' ' at 1"),
        (("dog", "hen"), ("/d", ""), "id of a label may not be blank. Received: '' at 1"),
        (
            ("dog", "hen", "dog"),
            (),
            "name of a label may occur only once. Received: 'dog' at indices 0 and 2",
        ),
        (("dog", "hen"), ("/d", "/d"), "id of a label may occur only once"),
        (("dog", "hen"), ("/d",), "2 names, 1 ids"),
        (("1", "2"), ("2", "1"), "may not be the id of another label. Received: '1' at"),
        ((3, "dog"), (), "name of a label is a text. Received: 3"),
    ],
)
def test_label_set_rejects_ambiguous_labels(names, ids, message):
    with pytest.raises(LabelError, match=message):
        LabelSet(names, ids)


@pytest.mark.parametrize("name", PUBLISHED)
def test_csv_round_trip_is_exact(name, tmp_path):
    labels = LabelSet.load(name)
    labels.to_csv(tmp_path / "labels.csv")
    assert LabelSet.from_csv(tmp_path / "labels.csv") == labels


def test_csv_round_trip_keeps_awkward_names(tmp_path):
    labels = LabelSet(('say "hi", then go', "Vögel", "a;b", "#1"), ("/a", "/b", "/c", "/d"))
    labels.to_csv(tmp_path / "labels.csv")
    assert LabelSet.from_csv(tmp_path / "labels.csv") == labels


def test_to_csv_replaces_the_file_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "labels.csv"
    LabelSet(("old",)).to_csv(path)
    LabelSet(("dog", "hen")).to_csv(path)
    assert path.read_text() == "index,mid,display_name\n0,dog,dog\n1,hen,hen\n"
    assert os.listdir(tmp_path) == ["labels.csv"]


def test_to_csv_keeps_the_old_file_after_an_error(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"
    LabelSet(("old",)).to_csv(path)

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        LabelSet(("dog",)).to_csv(path)
    assert LabelSet.from_csv(path).names == ("old",)
    assert os.listdir(tmp_path) == ["labels.csv"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_to_csv_obeys_the_umask(tmp_path):
    previous = os.umask(0o022)
    try:
        LabelSet(("dog",)).to_csv(tmp_path / "labels.csv")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "labels.csv").stat().st_mode) == 0o644


def test_from_csv_sorts_rows_and_accepts_bom_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b'\xef\xbb\xbfindex,mid,display_name\r\n1,/h,"hen, brooding"\r\n\r\n0,/d, dog \r\n'
    )
    assert LabelSet.from_csv(path) == LabelSet(("dog", "hen, brooding"), ("/d", "/h"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line of a label file must read index,mid,display_name"),
        ("mid,display_name\n/d,dog\n", "first line of a label file"),
        ("index,mid,display_name\n", "at least one label"),
        ("index,mid,display_name\n0,/d,dog\n0,/h,hen\n", "index may occur only once.*line 3"),
        ("index,mid,display_name\n0,/d,dog\n2,/h,hen\n", "without a gap.*without index 1"),
        ("index,mid,display_name\n0,/d,dog\n1,/h,hen, old\n", "in quotes.*line 3"),
        ("index,mid,display_name\none,/d,dog\n", "line 2"),
        ("index,mid,display_name\n0,/d,dog\n1,/h,dog\n", "'dog' in .* lines 2 and 3"),
        (
            "index,mid,display_name\n0,/d,dog\n1,,hen\n",
            "id of a label may not be blank.* in .*labels.csv",
        ),
    ],
)
def test_from_csv_names_the_line_of_an_invalid_row(text, message, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        LabelSet.from_csv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_from_file_reads_plain_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\nMale speech, man speaking\r\n\r\n hen \r\n")
    assert LabelSet.from_file(path).names == ("dog", "Male speech, man speaking", "hen")


def test_from_file_reads_csv(tmp_path):
    LabelSet.load("esc50").to_csv(tmp_path / "labels.csv")
    assert LabelSet.from_file(tmp_path / "labels.csv") == LabelSet.load("esc50")


def test_from_file_rejects_repeated_names_with_lines(tmp_path):
    (tmp_path / "labels.txt").write_text("dog\nhen\n\ndog\n")
    with pytest.raises(LabelError, match=r"'dog' in .*labels\.txt lines 1 and 4"):
        LabelSet.from_file(tmp_path / "labels.txt")


def test_from_file_rejects_missing_and_undecodable_files(tmp_path):
    with pytest.raises(LabelError, match=r"No such file or directory. Received: .*none.csv"):
        LabelSet.from_file(tmp_path / "none.csv")
    (tmp_path / "latin.txt").write_bytes("Vögel\n".encode("latin-1"))
    with pytest.raises(LabelError, match="UTF-8"):
        LabelSet.from_file(tmp_path / "latin.txt")


def test_did_you_mean_lists_names_if_none_is_similar():
    assert did_you_mean("zzz", ["dog", "hen"]) == "Known: dog, hen."
    assert did_you_mean("zzz", map(str, range(20))).endswith("8, 9 and 10 more.")


# --- Labels that are not a LabelSet ---


@pytest.mark.parametrize(
    "labels",
    [
        ["dog", "hen"],
        ("dog", "hen"),
        np.array(["dog", "hen"]),
        np.array(["dog", "hen"], object),
        {"dog": 0, "hen": 1}.keys(),
        (name for name in ("dog", "hen")),
        LabelSet(("dog", "hen")),
    ],
)
def test_any_list_of_names_is_a_label_set(labels):
    label_set = labels_of_classes(labels, 2)
    assert label_set == LabelSet(("dog", "hen"))
    assert {type(name) for name in label_set.names} == {str}  # not NumPy's, which print otherwise


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("ab", r"a list of names.*names='ab'"),
        ("labels.csv", r"LabelSet.from_file reads a file.*names='labels.csv'"),
        (b"ab", "a list of names"),
        ({"dog": 0, "hen": 1}, "a list of names"),
        ({"dog", "hen"}, "a list of names"),
        (3, r"a list of names.*names=3"),
        (np.array("dog"), "a list of names"),
        ([0, 1], r"name of a label is a text.*0 at 0"),
        ([b"dog"], r"is a text.*b'dog' at 0"),
        (["dog", None], r"is a text.*None at 1"),
        (np.array([["dog"], ["hen"]]), "is a text"),
        (["dog", "dog"], r"only once.*indices 0 and 1"),
        (["dog", " "], "may not be blank"),
        ([], "at least one label"),
        (["dog", "hen", "cow"], r"one label for each class.*3 labels, num_classes=2"),
    ],
)
def test_labels_that_are_no_list_of_names_are_refused(labels, message):
    with pytest.raises(LabelError, match=f"(?s){message}"):
        labels_of_classes(labels, 2)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "2", ["dog", "hen"]])
def test_a_number_of_classes_that_is_none_is_refused(num_classes):
    with pytest.raises(ArgumentError, match="num_classes is a positive integer"):
        labels_of_classes(None, num_classes)


def test_ids_are_checked_as_names_are():
    with pytest.raises(LabelError, match="ids='dh'"):
        LabelSet(("dog", "hen"), "dh")
    assert LabelSet(("dog", "hen")).indices_of(["hen", "dog"]) == (1, 0)


def test_data_sets_take_a_list_of_labels():
    split = Split(["a.wav"], [(0,)])
    assert SoundDataset("mine", ["dog", "hen"], {"train": split}, False).labels.names[1] == "hen"
    dataset = from_examples("mine", np.array(["dog", "hen"]), {"train": [("a.wav", (0,))]})
    assert dataset.labels == LabelSet(("dog", "hen"))
    with pytest.raises(LabelError, match="a list of names"):
        SoundDataset("mine", "dog", {"train": split}, False)

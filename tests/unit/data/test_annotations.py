"""Annotation files of Audacity and Raven next to their recordings."""

import os

import pytest

from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.annotations import is_annotated_folder, is_annotation_file
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tAnnotation\n"


@pytest.fixture
def folder(tmp_path):
    """Returns a function that writes files, empty if they are sounds, and returns the folder."""

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            content = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(content)
        return str(tmp_path)

    return write


def examples(dataset):
    """Returns the file name, start, end and labels of every example, sorted."""
    return sorted(
        (os.path.basename(source.path), *source[1:], *(dataset.labels.names[t] for t in targets))
        for split in dataset.splits.values()
        for source, targets in zip(split.sources, split.targets, strict=True)
    )


MONDAY = [("monday.wav", 0.5, 1.25, "dog"), ("monday.wav", 2.0, 3.0, "hen")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("monday.txt", "0.500000\t1.250000\tdog\n2.000000\t3.000000\then\n"),
        ("monday.txt", "0,500000\t1,250000\tdog\r\n2,000000\t3,000000\then\r\n"),
        ("monday.txt", "0.5\t1.25\tdog\n\\\t100.0\t2000.0\n2\t3\then\n\\\t-1.0\t-1.0\n\n"),
        ("monday.txt", "0.5\t1.25\tdog\n2\t3\then\n".encode("utf-16")),
        ("monday Labels.txt", "0.5\t1.25\tdog\n2\t3\then\n"),
        ("monday.Table.1.selections.txt", RAVEN + "1\tSpectrogram 1\t1\t0.5\t1.25\t0\tdog\n"
         "2\tSpectrogram 1\t1\t2\t3\t0\then\n"),
        ("monday.txt", RAVEN + "1\tWaveform 1\t1\t0.5\t1.25\t0\tdog\n"
         "1\tSpectrogram 1\t1\t0.5\t1.25\t0\tdog\n2\tWaveform 1\t1\t2\t3\t0\then\n"),
        ("anything.txt", "Begin Time (s),End Time (s),Begin File,Species\n"
         "0.5,1.25,monday.wav,dog\n2,3,monday.wav,hen\n"),
    ],
)  # fmt: skip
def test_annotations_are_segments_of_their_recording(folder, name, content):
    path = folder({"monday.wav": "", "README.txt": "Recorded on a farm.\n", name: content})
    assert is_annotated_folder(path) or name == "anything.txt"
    assert examples(load_dataset("annotations", path)) == MONDAY
    assert examples(load_dataset("annotations", os.path.join(path, name))) == MONDAY


def test_recordings_are_held_out_as_a_whole_and_nothing_is_lost_silently(folder):
    files = {f"{i}.flac": "" for i in range(6)}
    files |= {f"{i}.txt": "0\t1\tdog\n2\t3\then\n" for i in range(5)}
    files["0.txt"] += "4\t4\tpoint\n5\t6\t\n"
    dataset = load_dataset("annotations", folder(files))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "test": 2}
    assert len({source.path for source in dataset.split("test").sources}) == 1
    notes = " ".join(dataset.notes)
    assert "1 recordings without annotations are not used: 5.flac" in notes
    assert "1 annotations of a point in time, which has no length, are not used" in notes
    assert "1 annotations without a label are not used" in notes
    assert "10 segments of 5 recordings" in notes


def test_two_labels_of_one_span_are_one_example(folder):
    path = folder({"a.wav": "", "a.txt": "0\t1\tdog\n0\t1\then\n0.5\t1\tdog\n"})
    dataset = load_dataset("annotations", path)
    assert dataset.multi_label
    assert examples(dataset) == [("a.wav", 0.0, 1.0, "dog", "hen"), ("a.wav", 0.5, 1.0, "dog")]


def test_folders_named_after_splits_are_splits(folder):
    labels = "0\t1\tdog\n2\t3\then\n"
    path = folder({f"{s}/a.{x}": t for s in ("Train", "test") for x, t in
                   (("wav", ""), ("txt", labels))})  # fmt: skip
    dataset = load_dataset("annotations", path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "test": 2}


def test_a_table_of_several_recordings_needs_offsets(folder):
    header = "Begin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tTags\n"
    rows = "0.5\t1\ta.wav\t0.5\tdog\n101\t103\tb.wav\t1\then\n"
    path = folder({"a.wav": "", "b.wav": "", "all.txt": header + rows})
    dataset = load_dataset("annotations", path, test_fraction=0.0)
    assert dataset.split("train").sources == [
        Segment(f"{path}/a.wav", 0.5, 1.0), Segment(f"{path}/b.wav", 1.0, 3.0)
    ]  # fmt: skip
    folder({"all.txt": (header + rows).replace("File Offset (s)", "x")})
    with pytest.raises(DatasetError, match=r"File Offset \(s\)"):
        load_dataset("annotations", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            RAVEN.replace("Annotation", "Note") + "1\tS\t1\t0\t1\t0\tdog\n",
            "data.label_column.*note",
        ),
        ("0\t1\tdog\nhen\n", "line 2: 'hen'"),
        ("0\t1\tdog\n3\t2\then\n", "end after its start.*line 2"),
        ("0\t1\tdog\n1\tx\then\n", "number of seconds.*line 2: 'x'"),
        ("0\t1\tnan\n", "missing value.*line 1"),
        ("no annotation\n", "There are no annotations"),
    ],
)
def test_bad_annotations_are_refused_with_the_line(folder, content, message):
    path = folder({"a.wav": "", "a.txt": content})
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("annotations", path)
    assert path in str(caught.value)


def test_annotations_without_their_recording_or_with_two_are_refused(folder):
    path = folder({"a.wav": "", "a.txt": "0\t1\tdog\n", "b.txt": "0\t1\then\n"})
    with pytest.raises(DatasetError, match=r"1 of 2 files do not exist.*b\.wav"):
        load_dataset("annotations", path)
    folder({"b.wav": "", "b.flac": ""})
    with pytest.raises(DatasetError, match=r"b\.txt for b\.flac and b\.wav"):
        load_dataset("annotations", path)
    assert not is_annotation_file(f"{path}/a.wav")


def test_another_column_of_a_raven_table_can_hold_the_labels(folder):
    table = RAVEN.replace("Low Freq (Hz)", "Song Type") + "1\tS\t1\t0\t1\tdog\tx\n"
    path = folder({"a.wav": "", "a.txt": table})
    dataset = load_dataset("annotations", path, label_column="Song type")
    assert dataset.labels.names == ("dog",)

"""Readers on real recordings: partial copies of ESC-10 and Speech Commands."""

import os
import pathlib

import pytest

from ast_keras.data.readers import load_dataset
from ast_keras.labels import LabelSet


def folder(name):
    root = os.environ.get("AST_KERAS_DATA")
    if not root:
        pytest.skip(reason="set AST_KERAS_DATA to the folder with esc10/, sc9/ and sc30_tiny/")
    path = pathlib.Path(root).expanduser() / name
    if not path.is_dir():
        pytest.skip(reason=f"{path} does not exist")
    return path


def sizes(dataset):
    return {name: len(split) for name, split in dataset.splits.items()}


@pytest.mark.parametrize(
    ("fold", "num_train", "num_test"),
    [(1, 246, 60), (2, 244, 62), (3, 245, 61), (4, 245, 61), (5, 244, 62)],
)
def test_esc10_has_the_official_folds(fold, num_train, num_test):
    dataset = load_dataset("esc50", folder("esc10"), fold=fold, subset="esc10")
    assert sizes(dataset) == {"train": num_train, "test": num_test}
    assert dataset.labels.names == (
        "dog",
        "rooster",
        "rain",
        "sea_waves",
        "crackling_fire",
        "crying_baby",
        "sneezing",
        "clock_tick",
        "helicopter",
        "chainsaw",
    )
    assert dataset.notes == ()
    recordings = [
        {pathlib.Path(s).name.split("-")[1] for s in dataset.split(name).sources}
        for name in ("train", "test")
    ]
    assert not recordings[0] & recordings[1]  # no recording is in both splits


def test_esc10_read_as_esc50_keeps_fifty_labels():
    dataset = load_dataset("esc50", folder("esc10"))
    assert len(dataset.labels) == 50
    assert dataset.notes == (
        "40 of 50 labels have no training example: pig, cow, frog, cat, hen, ...",
    )
    for split in dataset.splits.values():
        for source, (target,) in zip(split.sources, split.targets, strict=True):
            assert pathlib.Path(source).stem.endswith(f"-{target}")


def test_sc9_is_split_by_its_lists():
    dataset = load_dataset("speech_commands", folder("sc9"))
    assert sizes(dataset) == {"train": 2976, "validation": 271, "test": 480}
    assert dataset.labels.names == (
        "five",
        "zero",
        "eight",
        "down",
        "right",
        "left",
        "up",
        "go",
        "one",
    )
    assert dataset.notes == ("_background_noise_ ignored: it is not a word",)
    speakers = {
        name: {pathlib.Path(s).name.split("_")[0] for s in split.sources}
        for name, split in dataset.splits.items()
    }
    assert len(set.union(*speakers.values())) == 352
    assert not speakers["train"] & speakers["test"]
    assert not speakers["validation"] & speakers["test"]


def test_sc30_tiny_counts_listed_clips_that_are_missing():
    path = folder("sc30_tiny")
    dataset = load_dataset("speech_commands", path)
    assert sizes(dataset) == {"train": 205, "validation": 44, "test": 51}
    official = LabelSet.load("speech_commands").names
    assert len(dataset.labels) == 30
    assert list(dataset.labels.names) == [n for n in official if n in dataset.labels.names]
    assert dataset.notes == (
        f"6754 clips of validation_list.txt are missing from {path}",
        f"6784 clips of testing_list.txt are missing from {path}",
    )


def test_sc30_tiny_reads_as_class_folders():
    dataset = load_dataset("folders", folder("sc30_tiny"))
    assert sizes(dataset) == {"train": 240, "test": 60}  # ten clips a word, two held out
    assert len(dataset.labels) == 30

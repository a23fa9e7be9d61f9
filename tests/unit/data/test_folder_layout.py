"""Folders of splits and folds are recognised, or refused with the accepted names."""

import os

import pytest

from ast_keras.data.dataset import SoundDataset, Split, why_untrainable
from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.folder_layout import find_layout, split_or_fold
from ast_keras.labels import LabelSet, spellings
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build
from ast_keras.training.folds import folds_to_train
from tests.helpers.commands import run_in_process
from tests.helpers.errors import error_of


def make(root, *folders, count=3):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"{number}.wav").touch()
    return root


def sizes(dataset):
    return {name: len(split) for name, split in dataset.splits.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Train", "train"),
        ("TRAINING", "train"),
        ("train_set", "train"),
        ("train1", "train"),
        ("train-clean-100", "train"),
        ("Validation ", "validation"),
        ("val", "validation"),
        ("dev-clean", "validation"),
        ("Testing", "test"),
        ("test data", "test"),
        ("audio_eval", "test"),
        ("evaluation", "test"),
        ("fold1", 1),
        ("Fold_02", 2),
        ("FOLD 3", 3),
        ("4-fold", 4),
        ("cv5", 5),
        ("1", None),
        ("dog", None),
        ("trainer", None),
        ("contest", None),
        ("train test", None),
        ("folder1", None),
    ],
)
def test_name_of_a_folder_states_its_split_or_fold(name, expected):
    assert split_or_fold(name) == expected


def test_folders_of_splits_are_recognised_in_any_case(tmp_path):
    make(tmp_path, "Train/dog", "Train/hen", "TEST/dog", "Validation /hen")
    (tmp_path / "docs").mkdir()
    dataset = load_dataset("folders", tmp_path)
    assert dataset.labels.names == ("dog", "hen")
    assert sizes(dataset) == {"train": 6, "validation": 3, "test": 3}
    assert dataset.notes == ()


def test_splits_may_be_the_subfolders_of_the_classes(tmp_path):
    make(tmp_path, "dog/train", "dog/test", "hen/Training", "hen/testing/deep")
    dataset = load_dataset("folders", tmp_path)
    assert dataset.labels.names == ("dog", "hen")
    assert sizes(dataset) == {"train": 6, "test": 6}


@pytest.mark.parametrize(
    ("folders", "odd"),
    [
        (("train/dog", "test/dog", "extra/dog"), "'extra'"),
        (("train/dog", "holdout/dog"), "'holdout'"),
        (("fold_1/dog", "fold_1/hen", "rest/hen"), "'rest'"),
        (("fold1/dog", "fold2/dog", "test/dog"), "'test'"),
        (("dog/train", "dog/test", "hen"), "the files next to them"),
    ],
)
def test_splits_mixed_with_others_are_refused_with_the_accepted_names(tmp_path, folders, odd):
    message = error_of(load_dataset, "folders", make(tmp_path, *folders))
    assert f"rename or move {odd}. Splits are train, validation (or val, dev) and test" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    "folders", [("train", "car", "bus"), ("train horn", "passenger train"), ("0", "1", "2")]
)
def test_names_of_classes_are_not_taken_for_splits(tmp_path, folders):
    assert load_dataset("folders", make(tmp_path, *folders)).labels.names == tuple(sorted(folders))


@pytest.mark.parametrize("split", ["", "train/"])
def test_folders_without_sounds_are_named(tmp_path, split):
    make(tmp_path, f"{split}dog", f"{split}hen")
    make(tmp_path, f"{split}cow", f"{split}_notes", count=0)
    (tmp_path / split / "cow" / "1.dat").touch()
    (note,) = [n for n in load_dataset("folders", tmp_path).notes if "without sounds" in n]
    assert note == f"1 folders without sounds, which are not classes: {split}cow"


def test_folds_are_tested_in_turn(tmp_path):
    make(tmp_path, "fold_1/dog", "fold_1/hen", "Fold 2/dog", "Fold 2/hen", "fold3/dog")
    dataset = load_dataset("folders", tmp_path, fold=2)
    assert sizes(dataset) == {"train": 9, "test": 6}
    assert {os.path.relpath(s, tmp_path)[:6] for s in dataset.split("test").sources} == {"Fold 2"}
    assert "set fold (data.fold) to the test fold" in error_of(load_dataset, "folders", tmp_path)
    assert "Folds: 1, 2, 3" in error_of(load_dataset, "folders", tmp_path, fold=4)
    assert "omit the fractions" in error_of(
        load_dataset, "folders", tmp_path, fold=2, test_fraction=0.5
    )
    recipe = override(load_recipe("own_sounds"), [f"data.path={tmp_path}"])
    assert folds_to_train(recipe) == [1, 2, 3]
    plain = make(tmp_path / "plain", "dog", "hen")
    assert "a folder for each fold" in error_of(load_dataset, "folders", plain, fold=1)
    recipe = override(recipe, [f"data.path={plain}"])
    assert "or give it folders fold_1, fold_2" in error_of(folds_to_train, recipe)


def test_only_folder_stands_for_what_is_in_it(tmp_path):
    make(tmp_path, "data/data/dog", "data/data/hen", "__MACOSX/data")
    dataset = load_dataset("folders", tmp_path)
    assert dataset.labels.names == ("dog", "hen")
    assert "the classes are the folders in data/data, the only folder" in dataset.notes
    splits = make(tmp_path / "splits", "data/train/dog", "data/train/hen", "data/test/dog")
    assert sizes(load_dataset("folders", splits)) == {"train": 6, "test": 3}
    alone = make(tmp_path / "alone", "dog")
    assert load_dataset("folders", alone).labels.names == ("dog",)
    assert find_layout("x", []).class_depth == 0


def test_sounds_directly_in_a_folder_are_counted_in_the_error(tmp_path):
    make(tmp_path / "flat", ".", count=10)
    message = error_of(load_dataset, "folders", tmp_path / "flat")
    assert message.startswith("10 sounds lie directly in a folder that needs a folder for each")
    assert "The layout is class/any.wav" in message
    assert message.endswith("flat'; 0.wav, 1.wav, 2.wav, ...")
    (tmp_path / "flat" / "meta.csv").touch()
    assert "such as meta.csv" in error_of(load_dataset, "folders", tmp_path / "flat")
    splits = make(tmp_path / "splits", "train", "test")
    assert "6 sounds lie directly" in error_of(load_dataset, "folders", splits)
    urban = make(tmp_path / "urban", "audio/fold1", "audio/fold2")
    assert "6 sounds lie directly" in error_of(load_dataset, "folders", urban)


def test_classes_spelled_differently_in_two_splits_are_refused(tmp_path):
    make(tmp_path / "a", "train/Dog", "train/hen", "test/dog", "test/hen")
    message = error_of(load_dataset, "folders", tmp_path / "a")
    assert "same name in all splits" in message
    assert message.endswith("'Dog', 'dog'")
    dataset = load_dataset("folders", make(tmp_path / "b", "big_dog", "Big dog", "hen"))
    assert dataset.notes[-1].endswith("are different classes: 'Big dog', 'big_dog'")
    assert spellings(["é", "e\u0301", "e"]) == [["e\u0301", "é"]]


# --- The kind of data ---


def test_kind_is_recognised_wherever_a_path_is_given(tmp_path):
    folder = make(tmp_path / "farm", "dog", "hen")
    table = tmp_path / "farm.csv"
    table.write_text("path,labels\nfarm/dog/0.wav,dog\nfarm/hen/0.wav,hen\nfarm/hen/1.wav,hen\n")
    for name in ("finetune", "own_sounds"):
        recipe = load_recipe(name)
        assert recipe.data.kind == "auto"
        for path, count in ((folder, 6), (table, 3)):
            dataset = build.make_dataset(override(recipe, [f"data.path={path}"]))
            assert sum(sizes(dataset).values()) == count
    # The recipe of a finished run states the kind of its data; other data may be of another.
    stored = override(load_recipe("own_sounds"), ["data.kind=manifest", f"data.path={table}"])
    assert stored.data.kind == "manifest"
    assert build.make_dataset(override(stored, [f"data.path={folder}"])).name == "folders"
    assert override(load_recipe("esc50"), [f"data.path={folder}"]).data.kind == "esc50"
    assert 'kind="auto", path=None' in error_of(build.make_dataset, load_recipe("own_sounds"))
    assert "not one sound" in error_of(load_dataset, "auto", folder / "dog" / "0.wav")


def test_list_of_segments_is_a_manifest_unless_it_is_audiosets(tmp_path):
    path = tmp_path / "my_segments.csv"
    path.write_text("file,label\na.wav,dog\n")
    assert "a.wav" in error_of(load_dataset, "auto", path)
    path.write_text("# YTID, start_seconds\nbal_1cCGK4M, 30.0, 40.0, /m/09x0r\n")
    assert "set test_path" in error_of(load_dataset, "auto", path)


# --- Data that cannot be trained on ---


@pytest.mark.parametrize(
    ("names", "multi_label", "targets", "reason"),
    [
        (("dog", "hen"), False, [(0,), (0,)], "1 of the labels can be trained (dog)"),
        (("dog",), False, [(0,)], "1 of the labels can be trained (dog)"),
        (("dog",), True, [(0,), (0,)], "every training sound has the only label"),
        (("dog",), True, [(), ()], "0 of the labels can be trained (none)"),
        (("dog",), True, [(0,), ()], None),
        (("dog", "hen"), False, [(1,), (0,)], None),
        (("dog", "hen"), True, [(0, 1)], None),
    ],
)
def test_labels_that_cannot_be_trained(names, multi_label, targets, reason):
    split = Split(["a.wav"] * len(targets), targets)
    found = why_untrainable(SoundDataset("mine", LabelSet(names), {"train": split}, multi_label))
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


def test_train_and_audit_refuse_a_single_class(tmp_path):
    make(tmp_path / "farm", "dog")
    rule = "1 of the labels can be trained (dog): training needs at least 2"
    setting = f"data.path={tmp_path / 'farm'}"
    status, _, errors = run_in_process(
        "train", "--recipe", "own_sounds", "--set", setting, "--workdir", tmp_path / "run"
    )
    assert status == 1
    assert f"The data cannot be trained on: {rule}. Received: {setting}" in errors
    assert not (tmp_path / "run").exists()
    status, output, _ = run_in_process("audit", tmp_path / "farm", "--nostatistics")
    assert status == 1
    assert rule in output

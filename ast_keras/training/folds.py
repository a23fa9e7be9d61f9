"""Cross-validation: trains a recipe on every fold of its data, one after the other.

| file | holds |
|---|---|
| fold_1/, fold_2/, ... | one run each (`training.run`) |
| folds.json, folds.csv | scores of each fold, mean and standard deviation |
| folds.png, report.html | the same scores as a figure and as a page |
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from ast_keras.data.clips import SharedDecoder
from ast_keras.data.dataset import SoundDataset
from ast_keras.data.readers import READERS
from ast_keras.data.readers.class_folders import folder_folds
from ast_keras.data.readers.manifest import manifest_folds
from ast_keras.data.readers.recognise import recognise
from ast_keras.errors import RecipeError
from ast_keras.recipe import Recipe
from ast_keras.reports.fold_report import (
    FoldScores,
    fold_folders,
    read_fold_scores,
    write_fold_report,
    write_fold_scores,
)
from ast_keras.training import build
from ast_keras.training.distribution import Workers, make_strategy
from ast_keras.training.progress import Progress
from ast_keras.training.resolve import resolve
from ast_keras.training.run import Run
from ast_keras.training.run_folder import check_workdir

_ESC_FOLDS = (1, 2, 3, 4, 5)  # of ESC-50 and ESC-10
# For other data: function that finds the folds, and where they are stated.
_FOLDS_OF = {
    "manifest": (manifest_folds, "the manifest a column fold"),
    "folders": (folder_folds, "it folders fold_1, fold_2 and so on with the classes in them"),
}
_REPORT_FILES = ("folds.json", "folds.csv", "folds.png", "report.html")


def run_folds(
    recipe: Recipe,
    workdir: str | pathlib.Path,
    folds: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> FoldScores:
    """Trains a recipe on folds of its data, each in WORKDIR/fold_N, and writes a common report.

    Every fold ends with the same weights as if it were trained alone. After an interruption, the
    same call continues within the fold where it was stopped. Several processes may train different
    folds in the same folder; the report covers all folds that are finished at that time. Keras's
    global state is cleared before each fold.

    Args:
        recipe: The recipe to train. Its `data.fold` is replaced.
        workdir: A new folder, or one in which folds of the same recipe were trained.
        folds: Numbers of the folds to train. None for all.
        progress: Where progress is printed. None for standard output.

    Returns:
        The scores of all finished folds.

    Raises:
        RecipeError: If the data has no folds, or the folder holds other files.
        DatasetError: If the data does not have a fold.
        TrainingError: If training fails (`Run.train`).
        Interrupted: After SIGTERM or SIGINT, when the state has been saved.
    """
    workdir, progress = pathlib.Path(workdir).expanduser(), progress or Progress()
    numbers = folds_to_train(recipe, folds)
    strategy = make_strategy()  # before TensorFlow computes anything
    is_chief = Workers(strategy).is_chief
    datasets = read_folds(recipe, numbers)  # all folds, so that errors appear before any training
    if is_chief:
        _check_folder(workdir, resolve(recipe, datasets[numbers[0]]))
    with _without_retracing_warnings():
        for number in numbers:
            if is_chief:
                progress.log(f"fold {number} of {', '.join(map(str, numbers))}, in {workdir}")
            keras.utils.clear_session()
            fold_recipe, fold_dir = with_fold(recipe, number), workdir / f"fold_{number}"
            run = Run.prepare(fold_recipe, fold_dir, strategy, progress, datasets[number])
            run.train()
    scores = read_fold_scores(workdir)
    if is_chief:
        write_fold_scores(scores)
        try:
            write_fold_report(scores)
        except Exception as error:
            line = " ".join(str(error).split())
            progress.log(
                f"warning: no report.html: {type(error).__name__}: {line}; folds.json is written"
            )
    return scores


def with_fold(recipe: Recipe, number: int) -> Recipe:
    """Returns the recipe with another fold to test on.

    Args:
        recipe: The recipe.
        number: Number of the fold.
    """
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, fold=number))


def folds_to_train(recipe: Recipe, folds: Sequence[int] | None = None) -> list[int]:
    """Returns the numbers of the folds to train, sorted.

    Args:
        recipe: The recipe, whose data has folds.
        folds: Requested folds. None for all that the data has.

    Raises:
        RecipeError: If the data has no folds, or not the requested ones.
    """
    kind, path = recipe.data.kind, recipe.data.path
    if path is not None:
        path = os.path.expanduser(path)
        kind = recognise(path) if kind == "auto" else kind
    if kind in READERS and "fold" not in inspect.signature(READERS[kind]).parameters:
        raise RecipeError(
            "This data has no folds: train it without --all_folds and --folds. "
            f"Received: data.kind={kind}"
        )
    known = _ESC_FOLDS
    if kind in _FOLDS_OF and path is not None:
        find_folds, place = _FOLDS_OF[kind]
        known = find_folds(path)
        if not known:
            raise RecipeError(
                "This data has no folds: train it without --all_folds and --folds, or give "
                f"{place}. Received: {path}"
            )
    unknown = [number for number in folds or () if number not in known]
    if unknown:
        raise RecipeError(
            f"The folds of this data are {', '.join(map(str, known))}. Received: fold {unknown[0]}"
        )
    return sorted(set(folds or known))


def read_folds(recipe: Recipe, numbers: Sequence[int]) -> dict[int, SoundDataset]:
    """Returns the data sets of several folds. Each file is decoded once for all of them.

    Args:
        recipe: The recipe, whose data has folds.
        numbers: Numbers of the folds.

    Raises:
        DatasetError: If the data cannot be read, or does not have a fold.
    """
    sample_rate = recipe.frontend.sample_rate
    clip_samples = int(recipe.data.clip_seconds * sample_rate)
    channel = "mix" if recipe.data.channel is None else recipe.data.channel
    decoder = SharedDecoder(sample_rate, clip_samples, recipe.data.cache_megabytes << 20, channel)
    datasets = {}
    for number in numbers:
        dataset = build.make_dataset(with_fold(recipe, number))
        splits = {name: decoder.wrap(split) for name, split in dataset.splits.items()}
        datasets[number] = dataclasses.replace(dataset, splits=splits)
    return datasets


def _check_folder(workdir: pathlib.Path, recipe: Recipe) -> None:
    """Raises if the folder holds anything but folds of this recipe."""
    known = {*_REPORT_FILES, *(folder.name for folder in fold_folders(workdir).values())}
    found = [path.name for path in workdir.iterdir()] if workdir.is_dir() else []
    foreign = [name for name in found if name not in known and not name.startswith(".")]
    if foreign:
        raise RecipeError(
            "A work directory of folds must be new, or hold folds of this recipe. "
            f"Received: {workdir}, which holds {foreign[0]}"
        )
    for number, folder in fold_folders(workdir).items():
        check_workdir(with_fold(recipe, number), folder)


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Silences TensorFlow's warning that functions are traced again: every fold has new ones."""

    def keep(record: logging.LogRecord) -> bool:
        return "function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)

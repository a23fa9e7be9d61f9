"""Cross-validation: a recipe trained on every fold of its data, one after the other.

| file | holds |
|---|---|
| fold_1/, fold_2/, ... | a run each, as `ast_keras.training.run` describes it |
| folds.json, folds.csv | scores of each fold, mean and spread |
| folds.png, report.html | the same to look at |
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
from ast_keras.data.readers.manifest import manifest_folds
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

_OFFICIAL = (1, 2, 3, 4, 5)  # of ESC-50 and ESC-10
_OURS = ("folds.json", "folds.csv", "folds.png", "report.html")


def run_folds(
    recipe: Recipe,
    workdir: str | pathlib.Path,
    folds: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> FoldScores:
    """Trains a recipe on folds of its data, each in WORKDIR/fold_N, and reports over them.

    Every fold ends in the same weights as if it were trained alone. The same call goes on within
    the fold where it was stopped. Other processes may train other folds in the same folder; the
    report is over all that have been trained to the end by then. Keras's global state is cleared
    before each fold.

    Args:
      recipe: What to train; its `data.fold` is replaced.
      workdir: A new folder, or one in which folds of the same recipe were trained.
      folds: Which ones; None for all.
      progress: Where progress goes.

    Raises:
      RecipeError: If the data has no folds, or the folder holds something else.
      DatasetError: If a fold of the data is not there.
      TrainingError, Interrupted: As `Run.train`.
    """
    workdir, progress = pathlib.Path(workdir), progress or Progress()
    wanted = _wanted_folds(recipe, folds)
    strategy = make_strategy()  # before TensorFlow is used
    is_chief = Workers(strategy).is_chief
    datasets = _read_folds(recipe, wanted)  # all of them: a mistake stops before any training
    if is_chief:
        _check_folder(workdir, resolve(recipe, datasets[wanted[0]]))
    with _without_retracing_notes():
        for number in wanted:
            if is_chief:
                progress.say(f"fold {number} of {', '.join(map(str, wanted))}, in {workdir}")
            keras.utils.clear_session()
            folder, dataset = workdir / f"fold_{number}", datasets[number]
            Run(with_fold(recipe, number), folder, strategy, progress, dataset).train()
    scores = read_fold_scores(workdir)
    if is_chief:
        _write(scores, progress)
    return scores


def _write(scores: FoldScores, progress: Progress) -> None:
    write_fold_scores(scores)
    try:
        write_fold_report(scores)
    except Exception as error:
        line = " ".join(str(error).split())
        progress.say(
            f"warning: no report.html: {type(error).__name__}: {line}; folds.json is there"
        )


@contextlib.contextmanager
def _without_retracing_notes() -> Iterator[None]:
    """Silences TensorFlow's advice on functions that are traced again: each fold has its own."""

    def keep(record: logging.LogRecord) -> bool:
        return "function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def with_fold(recipe: Recipe, number: int) -> Recipe:
    """Returns the recipe with a fold of its data as the one to test on."""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, fold=number))


def _wanted_folds(recipe: Recipe, folds: Sequence[int] | None) -> list[int]:
    """Returns the folds to train: all that the data has, or those asked for."""
    kind = recipe.data.kind
    if kind in READERS and "fold" not in inspect.signature(READERS[kind]).parameters:
        raise RecipeError(
            "This data has no folds: train it without --all_folds and --folds. "
            f"Received: data.kind={kind}"
        )
    known = _OFFICIAL
    if kind == "manifest" and recipe.data.path is not None:
        known = manifest_folds(os.path.expanduser(recipe.data.path))
        if not known:
            raise RecipeError(
                "This data has no folds: train it without --all_folds and --folds, or give the "
                f"manifest a column fold. Received: {recipe.data.path}"
            )
    unknown = [number for number in folds or () if number not in known]
    if unknown:
        raise RecipeError(
            f"The folds of this data are {', '.join(map(str, known))}. Received: fold {unknown[0]}"
        )
    return sorted(set(folds or known))


def _check_folder(workdir: pathlib.Path, recipe: Recipe) -> None:
    """Checks that the folder holds nothing but folds of this recipe."""
    known = {*_OURS, *(folder.name for folder in fold_folders(workdir).values())}
    found = [p.name for p in workdir.iterdir()] if workdir.is_dir() else []
    foreign = [name for name in found if name not in known and not name.startswith(".")]
    if foreign:
        raise RecipeError(
            "A work directory of folds must be new, or hold folds of this recipe. "
            f"Received: {workdir}, which holds {foreign[0]}"
        )
    for number, folder in fold_folders(workdir).items():
        check_workdir(with_fold(recipe, number), folder)


def _read_folds(recipe: Recipe, wanted: Sequence[int]) -> dict[int, SoundDataset]:
    """Reads every fold's data set; a file is decoded once for all of them."""
    rate = recipe.frontend.sample_rate
    clip_samples = int(recipe.data.clip_seconds * rate)
    decoder = SharedDecoder(rate, clip_samples, recipe.data.cache_megabytes << 20)
    datasets = {}
    for number in wanted:
        dataset = build.make_dataset(with_fold(recipe, number))
        splits = {name: decoder.wrap(split) for name, split in dataset.splits.items()}
        datasets[number] = dataclasses.replace(dataset, splits=splits)
    return datasets

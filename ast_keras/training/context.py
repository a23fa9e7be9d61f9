"""The objects of a prepared run: data, model, devices and where progress is printed."""

from __future__ import annotations

import dataclasses
import pathlib

import keras
import tensorflow as tf

from ast_keras.data.dataset import SoundDataset, fingerprint, why_untrainable
from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import DatasetError, RecipeError
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.recipe import Recipe
from ast_keras.training import build
from ast_keras.training.distribution import Workers, make_strategy
from ast_keras.training.progress import Progress
from ast_keras.training.resolve import resolve, with_absolute_paths
from ast_keras.training.run_folder import check_workdir, require_same_work


@dataclasses.dataclass(frozen=True, eq=False)
class RunContext:
    """The objects that the parts of a run work with.

    Attributes:
        recipe: The resolved recipe.
        workdir: The work directory.
        strategy: Distribution strategy over all devices.
        workers: The processes that train together.
        progress: Where progress is printed. Quiet on all workers but the first.
        dataset: The data set.
        train_pipeline: Batches of the training split.
        validation_split: Name of the split that is scored after every epoch.
        validation_pipeline: Batches of the validation split.
        model: The classifier, with its start weights.
    """

    recipe: Recipe
    workdir: pathlib.Path
    strategy: tf.distribute.Strategy
    workers: Workers
    progress: Progress
    dataset: SoundDataset
    train_pipeline: Pipeline
    validation_split: str
    validation_pipeline: Pipeline
    model: ASTClassifier

    @property
    def num_steps(self) -> int:
        """Number of training steps of the whole run."""
        return self.recipe.train.num_epochs * self.train_pipeline.steps_per_epoch


def make_context(
    recipe: Recipe,
    workdir: pathlib.Path,
    strategy: tf.distribute.Strategy | None = None,
    progress: Progress | None = None,
    dataset: SoundDataset | None = None,
) -> RunContext:
    """Seeds the process, waits for other workers, reads the data and builds the model.

    Writes nothing.

    Args:
        recipe: The recipe to train.
        workdir: The work directory.
        strategy: Devices to train on. None for all visible devices of all workers.
        progress: Where progress is printed. None for standard output.
        dataset: The recipe's data set, if it is read already.

    Raises:
        RecipeError: If the work directory or the number of devices does not fit the recipe, or the
            workers do not agree.
        WorkerError: If another worker does not start, or is lost.
        DatasetError: If the data cannot be read, fetched or trained on.
        WeightsError: If the start weights cannot be read or fetched.
    """
    recipe = with_absolute_paths(recipe)  # the saved recipe must work from any folder
    keras.utils.set_random_seed(recipe.seed)
    if recipe.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = strategy or make_strategy()  # before TensorFlow computes anything
    workers = Workers(strategy)
    progress = (progress or Progress()) if workers.is_chief else Progress(quiet=True)
    dataset = dataset or build.make_dataset(recipe)
    if problem := why_untrainable(dataset):
        raise DatasetError(
            f"The data cannot be trained on: {problem}. "
            f"Received: data.path={recipe.data.path} with {dataset.summary()}"
        )
    recipe = resolve(recipe, dataset)
    _check_batch_size(recipe, strategy.num_replicas_in_sync)
    require_same_work(recipe, fingerprint(dataset), workers)
    if workers.is_chief:
        for warning in check_workdir(recipe, workdir):
            progress.log(f"warning: {warning}")
    train_pipeline = build.make_pipeline(recipe, dataset, "train", training=True)
    validation_split = build.validation_split(recipe, dataset)
    validation_pipeline = build.make_pipeline(recipe, dataset, validation_split)
    with workers.translate_errors(), strategy.scope():
        model = build.make_model(recipe, dataset.labels)
    return RunContext(
        recipe=recipe,
        workdir=workdir,
        strategy=strategy,
        workers=workers,
        progress=progress,
        dataset=dataset,
        train_pipeline=train_pipeline,
        validation_split=validation_split,
        validation_pipeline=validation_pipeline,
        model=model,
    )


def _check_batch_size(recipe: Recipe, num_devices: int) -> None:
    train = recipe.train
    if train.batch_size < num_devices * train.accumulate_steps:
        raise RecipeError(
            "train.batch_size must be at least train.accumulate_steps times the number of "
            f"devices. Received: train.batch_size={train.batch_size}, "
            f"train.accumulate_steps={train.accumulate_steps}, devices={num_devices}"
        )

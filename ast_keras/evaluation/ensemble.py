"""Evaluation of several models on the same data, and of the mean of their probabilities."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import ArgumentError, EvaluationError, LabelError
from ast_keras.evaluation.evaluator import evaluate, scored_examples
from ast_keras.evaluation.metrics import Evaluation, evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import from_preset
from ast_keras.presets.released import ENSEMBLES
from ast_keras.presets.saved_paths import saved_model_path


@dataclasses.dataclass(frozen=True)
class Member:
    """Holds one model of an ensemble.

    Args:
        name: Name or path of the model.
        evaluation: Scores of this model alone.
        classes: For each class of the data, its index in the model's output.
        has_thresholds: Whether thresholds are stored with the model; the evaluation uses them.
    """

    name: str
    evaluation: Evaluation
    classes: tuple[int, ...]
    has_thresholds: bool


@dataclasses.dataclass(frozen=True, eq=False)
class EnsembleEvaluation:
    """Holds the evaluation of one or several models on a split.

    Args:
        members: The models in the order in which they were named.
        evaluation: Scores of the mean of the models' probabilities.
        scores: That mean, `[examples, classes]`.
        targets: Labels of the examples, `[examples, classes]`.
        examples: Index of each example in the split. Sounds that could not be read are left out.
    """

    members: list[Member]
    evaluation: Evaluation
    scores: np.ndarray
    targets: np.ndarray
    examples: list[int]


def member_names(names: Sequence[str]) -> list[str]:
    """Replaces the name of a published ensemble by the names of its members.

    Args:
        names: Names or paths of models, or names in `ENSEMBLES`.

    Returns:
        Names or paths of models.

    Raises:
        EvaluationError: If a model occurs twice; it would count twice in the mean.
        WeightsError: If a path names no single model.

    Example:

    >>> member_names(["runs/a/model", "runs/b/model"])
    ['runs/a/model', 'runs/b/model']
    """
    members: list[str] = []
    for name in names:
        ensemble = None if os.path.isdir(name) else ENSEMBLES.get(name)
        members += [name] if ensemble is None else ensemble.presets
    paths = [saved_model_path(member) for member in members]
    places = [os.path.realpath(path) if os.path.exists(path) else path for path in paths]
    for member, place in zip(members, places, strict=True):
        if places.count(place) > 1:
            raise EvaluationError(
                f"Each model may be named once: all have the same weight. Received: {member} twice"
            )
    return members


def with_model_labels(name: str, dataset: SoundDataset) -> SoundDataset:
    """Returns the data set with the labels of a model, if the data lacks some of the classes.

    A test set without a rare class is scored on all classes of the model: a sound may be taken for
    one of that class, which itself counts in no mean.

    Args:
        name: Name or path of the model, or of the first one of an ensemble.
        dataset: The data set.

    Raises:
        LabelError: If the data has a label that the model does not know.
        WeightsError: If the model cannot be loaded.
    """
    # Read without the weights where possible.
    file = pathlib.Path(saved_model_path(name), "labels.csv")
    labels = LabelSet.from_csv(file) if file.is_file() else from_preset(name).labels
    if labels is None or set(labels.names) == set(dataset.labels.names):
        return dataset
    return dataset.with_labels(labels)


def evaluate_models(
    names: Sequence[str],
    pipeline: Pipeline,
    dataset: SoundDataset,
    log: Callable[[str], None] = logging.info,
) -> EnsembleEvaluation:
    """Scores models on all examples of a pipeline, each alone and all together.

    The ensemble's score of a class is the mean of the models' probabilities (after softmax or
    sigmoid), as in the paper. The models may differ in size, strides, length, normalisation and
    order of the classes. They are loaded one after the other. Several models are all loaded once
    before the first is scored, so that an unusable model is reported before hours of work.

    Args:
        names: One or more models, each a name or path that `from_preset` accepts.
        pipeline: Batches of the split; not for training.
        dataset: The data set to which the split belongs.
        log: Function that receives a line of progress for each of several models.

    Returns:
        The evaluation of each model, and that of the mean of their probabilities. Thresholds stored
        with a model apply to its own evaluation only.

    Raises:
        ArgumentError: If a model was built without a frontend.
        EvaluationError: If a model has another sample rate than the pipeline, or no labels and
            another number of classes than the data.
        LabelError: If a model has other labels than the data.
        WeightsError: If a model cannot be loaded.
        AudioError: If a sound cannot be read.

    Reference:
        Gong, Chung and Glass (2021), section 3.1: Ensemble-S and Ensemble-M.
    """
    if len(names) > 1:
        _check_models(names, pipeline, dataset)
    members: list[Member] = []
    total = None
    for name in names:
        member, own, targets, examples = _score(name, pipeline, dataset)
        members.append(member)
        total = own if total is None else total + own.astype(np.float64)
        if len(names) > 1:
            log(f"scored {len(members)} of {len(names)}: {name}")
    evaluation, scores = members[0].evaluation, total / len(members)
    if len(members) > 1:
        evaluation = evaluate_predictions(scores, targets, dataset.multi_label)
    return EnsembleEvaluation(members, evaluation, scores, targets, examples)


def _check_models(names: Sequence[str], pipeline: Pipeline, dataset: SoundDataset) -> None:
    activations = {name: _check_model(name, pipeline, dataset) for name in names}
    if len(set(activations.values())) > 1:
        listed = ", ".join(f"{name}: {activation}" for name, activation in activations.items())
        logging.warning("The mean mixes softmax and sigmoid scores (%s)", listed)


def _check_model(name: str, pipeline: Pipeline, dataset: SoundDataset) -> str:
    """Loads and checks a model; returns its score activation."""
    model = from_preset(name)
    _class_indices(name, model, pipeline, dataset)
    return model.score_activation


def _score(
    name: str, pipeline: Pipeline, dataset: SoundDataset
) -> tuple[Member, np.ndarray, np.ndarray, list[int]]:
    """Returns the evaluation of a model, scores, targets and examples, without the model."""
    model = from_preset(name)
    classes = _class_indices(name, model, pipeline, dataset)
    scored = evaluate(model, pipeline, dataset.multi_label, classes)
    examples = scored_examples(scored.real, pipeline.batch_size)
    member = Member(name, scored.evaluation, classes, model.thresholds is not None)
    return member, scored.scores, scored.targets, examples


def _class_indices(
    name: str, model: ASTClassifier, pipeline: Pipeline, dataset: SoundDataset
) -> tuple[int, ...]:
    """Checks that a model fits the data; returns the index of each of the data's classes."""
    try:
        model.require_frontend()
    except ArgumentError as error:
        raise ArgumentError(f"{error} of {name}") from None
    if model.frontend.sample_rate != pipeline.sample_rate:
        raise EvaluationError(
            "The sample rate of the model must be that of the data: set frontend.sample_rate, and "
            "evaluate models of another sample rate separately. "
            f"Received: {name} with {model.frontend.sample_rate} Hz, data with "
            f"{pipeline.sample_rate} Hz"
        )
    if model.labels is not None:
        try:
            return model.labels.indices_of(dataset.labels)
        except LabelError as error:
            raise LabelError(
                f"{error}. Received: {name} (first), {dataset.name} (second)"
            ) from None
    if model.num_classes != len(dataset.labels):
        raise EvaluationError(
            "A model without labels must have one class for each label of the data. "
            f"Received: {name} with {model.num_classes} classes, {dataset.name} with "
            f"{len(dataset.labels)} labels"
        )
    return tuple(range(model.num_classes))

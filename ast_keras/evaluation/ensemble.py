"""Several models on the same sounds, and the mean of what they say."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Sequence

import numpy as np

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import EvaluationError, LabelError
from ast_keras.evaluation.evaluator import evaluate
from ast_keras.evaluation.metrics import Evaluation, evaluate_predictions
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import from_preset


@dataclasses.dataclass(frozen=True)
class Member:
    """A model that was scored: its name, as given, and its own evaluation."""

    name: str
    evaluation: Evaluation


def member_names(names: Sequence[str]) -> list[str]:
    """Returns the models' names, with a published ensemble's members in place of its name.

    Raises:
      EvaluationError: If a model is named twice: it would count twice in the mean.

    Example:

    >>> member_names(["runs/a/model", "runs/b/model"])
    ['runs/a/model', 'runs/b/model']
    """
    from ast_keras.presets.released import ENSEMBLES

    members: list[str] = []
    for name in names:
        known = None if os.path.isdir(name) else ENSEMBLES.get(name)
        members += [name] if known is None else known.presets
    places = [os.path.realpath(m) if os.path.isdir(m) else m for m in members]
    twice = next((m for m, p in zip(members, places, strict=True) if places.count(p) > 1), None)
    if twice is not None:
        raise EvaluationError(f"Name each model once: all weigh the same. Received: {twice} twice")
    return members


def evaluate_models(
    names: Sequence[str], pipeline: Pipeline, dataset: SoundDataset
) -> tuple[list[Member], Evaluation]:
    """Scores models on all examples of a pipeline, each alone and all together.

    The ensemble's score of a class is the mean of the models' probabilities (after softmax or
    sigmoid), as in the paper. The models may differ in size, strides, length and normalisation,
    and in the order of their classes, which is brought to the data's. One model at a time is in
    memory; several are each loaded once before anything is scored, so that a mistake in the last
    is not found after hours.

    Args:
      names: What `from_preset` loads, one or more.
      pipeline: Batches of the split, not for training.
      dataset: The split's data set.

    Returns the members in the order given, and the evaluation of their mean.

    Raises:
      EvaluationError, LabelError: If a model hears another sample rate than the pipeline's, takes
        spectrograms, or has other classes than the data.
      WeightsError: If a model cannot be loaded.
      AudioError: If a sound cannot be read.

    Reference: Gong, Chung, Glass (2021), section 3.1: Ensemble-S and Ensemble-M.
    """
    if len(names) > 1:
        activations = {
            name: _checked_model(name, pipeline, dataset)[0].score_activation for name in names
        }
        if len(set(activations.values())) > 1:
            listed = ", ".join(f"{name}: {kind}" for name, kind in activations.items())
            print(f"warning: softmax and sigmoid scores are averaged ({listed})", file=sys.stderr)
    members, total, targets = [], 0.0, None
    for number, name in enumerate(names, 1):
        member, scores, targets = _score(name, pipeline, dataset)
        members.append(member)
        total = total + scores.astype(np.float64)
        if len(names) > 1:
            print(f"scored {number} of {len(names)}: {name}", file=sys.stderr)
    if len(members) == 1:
        return members, members[0].evaluation
    return members, evaluate_predictions(total / len(names), targets, dataset.multi_label)


def _score(name, pipeline, dataset):
    model, classes = _checked_model(name, pipeline, dataset)
    scored = evaluate(model, pipeline, dataset.multi_label, classes)
    return Member(name, scored.evaluation), scored.scores, scored.targets


def _checked_model(name, pipeline, dataset):
    """Loads a model; returns it and the place of each of the data's classes."""
    gc.collect()  # the model before this one lies in cycles
    model = from_preset(name)
    if model.frontend is None:
        raise EvaluationError(f"This model takes spectrograms, not sound. Received: {name}")
    if model.frontend.sample_rate != pipeline.sample_rate:
        raise EvaluationError(
            f"The model hears {model.frontend.sample_rate} Hz, the sounds are read at "
            f"{pipeline.sample_rate} Hz: set frontend.sample_rate, and evaluate models of other "
            f"rates by themselves. Received: {name}"
        )
    return model, _classes(name, model, dataset)


def _classes(name: str, model: ASTClassifier, dataset: SoundDataset) -> tuple[int, ...]:
    if model.labels is not None:
        try:
            return model.labels.indices_of(dataset.labels)
        except LabelError as error:
            raise LabelError(
                f"{error}. Received: {name} (first), {dataset.name} (second)"
            ) from None
    if model.num_classes != len(dataset.labels):
        raise EvaluationError(
            f"This model has no labels and {model.num_classes} classes, the data "
            f"{len(dataset.labels)}. Received: {name}, {dataset.name}"
        )
    return tuple(range(model.num_classes))

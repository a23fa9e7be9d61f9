"""The worst mistakes of an evaluation: which examples they are, and what a report shows of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.labels import LabelSet
from ast_keras.reports.sound import Sound

_NUM_PREDICTIONS = 3

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Mistake:
    """Holds one example that a model classified wrongly.

    Args:
        sound: The example's waveform and spectrogram.
        labels: The true labels with the model's scores for them, highest first.
        predictions: The labels with the highest scores, and these scores.
        severity: Score of the wrong label, or the loss if an example may have several labels.
    """

    sound: Sound
    labels: tuple[tuple[str, float], ...]
    predictions: tuple[tuple[str, float], ...]
    severity: float


def worst_mistakes(
    scores: npt.ArrayLike, targets: npt.ArrayLike, multi_label: bool, limit: int
) -> list[tuple[int, float]]:
    """Returns the examples with the worst mistakes, worst first.

    With one label per example, these are the wrongly classified examples, ordered by the score of
    the predicted label. With several labels, these are the examples with the highest binary
    cross-entropy, whether or not a label was missed.

    Args:
        scores: Probabilities `[examples, classes]`.
        targets: Labels `[examples, classes]`, 0 or 1.
        multi_label: Whether an example may have several labels or none.
        limit: Maximum number of examples.

    Returns:
        Index and severity of each example: the score of the wrong label, or the loss.

    Example:

    >>> scores = [[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]
    >>> worst_mistakes(scores, [[0, 1], [0, 1], [0, 1]], multi_label=False, limit=5)
    [(1, 0.9), (0, 0.6)]
    """
    probabilities, truth = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if multi_label:
        inside = np.clip(probabilities, 1e-7, 1 - 1e-7)
        severity = -np.where(truth, np.log(inside), np.log1p(-inside)).mean(axis=1)
        wrong = np.ones(len(severity), bool)
    else:
        severity = probabilities.max(axis=1)
        wrong = ~truth[np.arange(len(truth)), probabilities.argmax(axis=1)]
    order = np.argsort(-severity, kind="stable")
    return [(int(i), float(severity[i])) for i in order[wrong[order]][:limit]]


def describe_mistake(
    sound: Sound, scores: Array, target: Array, labels: LabelSet, severity: float
) -> Mistake:
    """Returns a `Mistake` with the labels and scores by name.

    Args:
        sound: The example's waveform and spectrogram.
        scores: Probabilities `[classes]`.
        target: Labels `[classes]`, 0 or 1.
        labels: Names of the classes.
        severity: Value by which mistakes are ordered, from `worst_mistakes`.
    """
    order = np.argsort(-scores, kind="stable")
    true = [index for index in order if target[index]]
    return Mistake(
        sound=sound,
        labels=tuple((labels.names[i], float(scores[i])) for i in true),
        predictions=tuple((labels.names[i], float(scores[i])) for i in order[:_NUM_PREDICTIONS]),
        severity=severity,
    )

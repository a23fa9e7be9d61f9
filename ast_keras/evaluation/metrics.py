"""Evaluation metrics of the AST paper, and F1, in NumPy, fast enough for AudioSet."""

import dataclasses
import math
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.errors import ArgumentError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Holds the scores that `evaluate_predictions` computed for one data set.

    A class without a positive or without a negative example has neither an average precision nor
    a ROC AUC: both are NaN for it, and the means are taken over the other classes. Precision is
    NaN for a class that is never predicted, recall and F1 for one without a positive example.

    Args:
        num_examples: Number of examples.
        num_positives: Number of positive examples of each class, `[classes]`.
        num_excluded_classes: Number of classes left out of the means.
        accuracy: Fraction of examples whose highest score is one of their labels.
        mean_average_precision: Mean of `average_precision` (mAP), NaN if every class is excluded.
        mean_auc: Mean of `auc`, NaN if every class is excluded.
        d_prime: `d_prime(mean_auc)`.
        average_precision: Average precision of each class, `[classes]`.
        auc: Area under the ROC curve of each class, `[classes]`.
        precision: Fraction of the predictions of each class that are right, `[classes]`.
        recall: Fraction of the positive examples of each class that are predicted, `[classes]`.
        f1: Harmonic mean of precision and recall of each class, `[classes]`.
        thresholds: Score from which each class counts as predicted, `[classes]`: the given one, or
            the one with the highest F1; NaN without a positive example. With single-label targets,
            only the class with the highest score counts as predicted for precision, recall and F1.
        confusion_matrix: Number of examples by true class (row) and predicted class (column),
            `[classes, classes]`; None for multi-label targets.
    """

    num_examples: int
    num_positives: IntArray
    num_excluded_classes: int
    accuracy: float
    mean_average_precision: float
    mean_auc: float
    d_prime: float
    average_precision: FloatArray
    auc: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    thresholds: FloatArray
    confusion_matrix: IntArray | None

    def summary(self) -> dict[str, float]:
        """Returns the scalar scores by name, for a log line or a learning curve."""
        names = ("accuracy", "mean_average_precision", "mean_auc", "d_prime")
        return {name: getattr(self, name) for name in names}


def evaluate_predictions(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    multi_label: bool,
    thresholds: npt.ArrayLike | None = None,
) -> Evaluation:
    """Computes accuracy, average precision, ROC AUC, d' and F1 of one set of predictions.

    Average precision and AUC depend only on the order of one class's scores over the examples, so
    logits and their sigmoid give the same values, while a softmax changes them. Ties share one
    threshold, as in scikit-learn. With several labels an example counts as accurate when its
    highest score is any of its labels; an example without labels never does.

    Args:
        scores: `[examples, classes]`, finite. A higher score is a more likely class.
        targets: `[examples, classes]` of 0 and 1, or booleans.
        multi_label: Whether an example may have several labels or none. If False, exactly one
            label is required for each example, and the confusion matrix is computed.
        thresholds: Score from which each class counts as predicted, `[classes]`. None for those
            with the highest F1 on these predictions, which is optimistic for other data.

    Raises:
        ArgumentError: If the shapes differ or are empty, a score is not finite, a target is neither
            0 nor 1, or a single-label example has no label or several.

    Reference:
        Gong, Chung and Glass (2021), section 3; scikit-learn's `average_precision_score` and
        `roc_auc_score`.

    Example:

    >>> scores = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    >>> targets = [[1, 0], [1, 0], [0, 1], [0, 1]]
    >>> evaluation = evaluate_predictions(scores, targets, multi_label=False)
    >>> evaluation.accuracy, evaluation.mean_auc
    (0.75, 0.75)
    >>> evaluation.confusion_matrix.tolist()
    [[2, 0], [1, 1]]
    """
    score_matrix, labels = _checked_scores(scores), _checked_labels(targets, multi_label)
    if score_matrix.shape != labels.shape:
        raise ArgumentError(
            "scores and targets must have the same shape. "
            f"Received: scores.shape={score_matrix.shape}, targets.shape={labels.shape}"
        )
    num_examples, num_classes = labels.shape
    average_precision, auc, best = (np.empty(num_classes) for _ in range(3))
    for index in range(num_classes):
        average_precision[index], auc[index], best[index] = _ranking_scores(
            score_matrix[:, index], labels[:, index]
        )
    predicted = score_matrix.argmax(axis=1)
    limits = best if thresholds is None else _checked_thresholds(thresholds, num_classes)
    if multi_label:
        reported = score_matrix >= limits
    else:
        reported = np.arange(num_classes) == predicted[:, np.newaxis]
    precision, recall, f1 = _precision_recall_f1(reported, labels)
    defined = ~np.isnan(auc)
    mean_auc = float(auc[defined].mean()) if defined.any() else math.nan
    return Evaluation(
        num_examples=num_examples,
        num_positives=labels.sum(axis=0, dtype=np.int64),
        num_excluded_classes=int(num_classes - defined.sum()),
        accuracy=float(labels[np.arange(num_examples), predicted].mean()),
        mean_average_precision=float(average_precision[defined].mean())
        if defined.any()
        else math.nan,
        mean_auc=mean_auc,
        d_prime=d_prime(mean_auc),
        average_precision=average_precision,
        auc=auc,
        precision=precision,
        recall=recall,
        f1=f1,
        thresholds=limits,
        confusion_matrix=None if multi_label else _confusion_matrix(labels, predicted),
    )


def d_prime(auc: float) -> float:
    """Converts an area under the ROC curve to d', the separation of two unit-variance Gaussians.

    Args:
        auc: Area in [0, 1]. 0 and 1 give minus and plus infinity, NaN gives NaN.

    Raises:
        ArgumentError: If `auc` is outside [0, 1].

    Reference:
        `sqrt(2) * Phi^-1(auc)`, with Phi the standard normal distribution.

    Example:

    >>> round(d_prime(0.97856), 3)
    2.864
    """
    if math.isnan(auc):
        return math.nan
    if not 0.0 <= auc <= 1.0:
        raise ArgumentError(f"An area under the ROC curve lies in [0, 1]. Received: auc={auc}")
    if auc in (0.0, 1.0):
        return math.copysign(math.inf, auc - 0.5)
    return math.sqrt(2.0) * statistics.NormalDist().inv_cdf(auc)


def _ranking_scores(
    scores: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Returns average precision, AUC and the threshold with the highest F1 of a class."""
    num_positives = int(positive.sum())
    num_negatives = len(positive) - num_positives
    if not num_positives:
        return math.nan, math.nan, math.nan
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    # No threshold separates equal scores, so counts are taken at the end of each run of them.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    true_positives = np.cumsum(positive[order])[ends]
    # The denominator is that of 2 TP / (2 TP + FP + FN). The first of equal maxima predicts least.
    best = int(np.argmax(2 * true_positives / (ends + 1 + num_positives)))
    threshold = _threshold_between(*map(float, ranked[ends[best : best + 2]]))
    if not num_negatives:
        return math.nan, math.nan, threshold
    false_positives = ends + 1 - true_positives
    gained = np.diff(true_positives, prepend=0)
    average_precision = np.dot(gained, true_positives / (ends + 1)) / num_positives
    # Trapezoids under the ROC curve. Twice their area is an integer, which stays exact.
    heights = 2 * true_positives - gained
    doubled_area = int(np.dot(np.diff(false_positives, prepend=0), heights))
    return float(average_precision), doubled_area / (2 * num_positives * num_negatives), threshold


def _threshold_between(lowest: float, next_lower: float | None = None) -> float:
    """Returns a threshold of which rounding in later computations does not change the side."""
    if next_lower is None:
        return lowest
    middle = (lowest + next_lower) / 2
    return middle if middle > next_lower else lowest


def _precision_recall_f1(
    reported: npt.NDArray[np.bool_], labels: npt.NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    right = (reported & labels).sum(axis=0)
    num_reported, num_positives = reported.sum(axis=0), labels.sum(axis=0)
    f1 = _divide(2 * right, num_reported + num_positives)
    return (
        _divide(right, num_reported),
        _divide(right, num_positives),
        np.where(num_positives > 0, f1, math.nan),
    )


def _divide(numerators: IntArray, denominators: IntArray) -> FloatArray:
    """Returns quotients, NaN where the denominator is 0."""
    undefined = np.full(numerators.shape, math.nan)
    return np.divide(numerators, denominators, out=undefined, where=denominators > 0)


def _confusion_matrix(labels: npt.NDArray[np.bool_], predicted: npt.NDArray[np.intp]) -> IntArray:
    num_classes = labels.shape[1]
    cells = labels.argmax(axis=1) * num_classes + predicted
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def _checked_scores(scores: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    array = np.asarray(scores)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ArgumentError(
            f"scores must be [examples, classes] and not empty. Received: shape={array.shape}"
        )
    finite = np.isfinite(array)
    if not finite.all():
        example, index = np.argwhere(~finite)[0]
        raise ArgumentError(
            "scores must be finite; a NaN or infinity usually means that training diverged. "
            f"Received: scores[{example}, {index}]={array[example, index]}"
        )
    return np.asfortranarray(array)  # the loop reads one class at a time


def _checked_labels(targets: npt.ArrayLike, multi_label: bool) -> npt.NDArray[np.bool_]:
    array = np.asarray(targets)
    if array.ndim != 2 or not array.size:
        raise ArgumentError(
            f"targets must be [examples, classes] and not empty. Received: shape={array.shape}"
        )
    labels = array.astype(bool)
    wrong = array != labels
    if wrong.any():
        example, index = np.argwhere(wrong)[0]
        raise ArgumentError(
            "targets must be 0 or 1 (evaluate without mixup). "
            f"Received: targets[{example}, {index}]={array[example, index]}"
        )
    labels_per_example = labels.sum(axis=1)
    if not multi_label and (labels_per_example != 1).any():
        example = int(np.flatnonzero(labels_per_example != 1)[0])
        raise ArgumentError(
            "Single-label examples have exactly one label each; pass multi_label=True otherwise. "
            f"Received: {labels_per_example[example]} labels at example {example}"
        )
    return np.asfortranarray(labels)


def _checked_thresholds(thresholds: npt.ArrayLike, num_classes: int) -> FloatArray:
    array = np.asarray(thresholds, np.float64)
    if array.shape != (num_classes,):
        raise ArgumentError(
            f"There must be one threshold for each of {num_classes} classes. "
            f"Received: thresholds.shape={array.shape}"
        )
    return array

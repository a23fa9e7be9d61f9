"""Sound events, with onset and offset, from the scores of windows. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ast_keras.errors import InferenceError

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of a recording.

    Attributes:
        onset: Start in seconds.
        offset: End in seconds.
        index: Index of the class.
        score: Highest score inside the event.
    """

    onset: float
    offset: float
    index: int
    score: float


def lower_threshold(
    threshold: float | Sequence[float], threshold_off: float | None
) -> float | list[float]:
    """Returns the lower threshold of the hysteresis, after checking both.

    Args:
        threshold: Score that an event must reach, of all classes or of each.
        threshold_off: Score below which an event ends; None for 0.7 of `threshold`.

    Returns:
        One lower threshold, or one for each class.

    Raises:
        InferenceError: Unless 0 <= threshold_off <= threshold <= 1.
    """
    if not isinstance(threshold, (int, float)):
        return [cast(float, lower_threshold(high, threshold_off)) for high in threshold]
    low = 0.7 * threshold if threshold_off is None else threshold_off
    if not 0 <= low <= threshold <= 1:
        raise InferenceError(
            "Thresholds must satisfy 0 <= threshold_off <= threshold <= 1. "
            f"Received: threshold={threshold}, threshold_off={low}"
        )
    return low


def find_events(
    scores: Array,
    boundaries: Array,
    threshold: float | Sequence[float] = 0.5,
    threshold_off: float | None = None,
    min_seconds: float = 0.0,
    max_gap_seconds: float = 0.0,
) -> list[Event]:
    """Returns the events in a sequence of scores, by hysteresis thresholding.

    An event of a class is a run of cells whose score is at least `threshold_off`, in which the
    score reaches `threshold`. A score that fluctuates around a single threshold would give many
    short events.

    Args:
        scores: Score of each class in each cell of time, `[cells, classes]`.
        boundaries: Start of each cell and end of the last one, in seconds, `[cells + 1]`.
        threshold: Score that an event must reach, of all classes or of each, `[classes]`.
        threshold_off: Score below which an event ends; None for 0.7 of `threshold`.
        min_seconds: Shorter events are dropped.
        max_gap_seconds: Events of one class at most this far apart are merged.

    Returns:
        The events, sorted by onset and then by class.

    Raises:
        InferenceError: Unless 0 <= threshold_off <= threshold <= 1.

    Example:

    >>> scores = np.array([[0.1], [0.4], [0.9], [0.4], [0.2]])
    >>> find_events(scores, np.arange(6.0))
    [Event(onset=1.0, offset=4.0, index=0, score=0.9)]
    """
    num_classes = scores.shape[1]
    highs = np.broadcast_to(threshold, num_classes)
    lows = np.broadcast_to(lower_threshold(threshold, threshold_off), num_classes)
    events = []
    for index in range(num_classes):
        column, high = scores[:, index], highs[index]
        if column.max(initial=0.0) < high or not len(column):
            continue
        above = np.concatenate([[False], column >= lows[index], [False]])
        starts = np.flatnonzero(above[1:] & ~above[:-1])
        ends = np.flatnonzero(~above[1:] & above[:-1])
        runs: list[list[int]] = []
        for start, end in zip(starts, ends, strict=True):
            if column[start:end].max() < high:
                continue
            if runs and boundaries[start] - boundaries[runs[-1][1]] <= max_gap_seconds:
                runs[-1][1] = int(end)
            else:
                runs.append([int(start), int(end)])
        events += [
            Event(float(boundaries[a]), float(boundaries[b]), index, float(column[a:b].max()))
            for a, b in runs
            if boundaries[b] - boundaries[a] >= min_seconds
        ]
    return sorted(events, key=lambda event: (event.onset, event.index))


def window_boundaries(starts: Array, ends: Array) -> Array:
    """Returns the boundaries between consecutive windows that overlap.

    Each instant belongs to the window whose centre is nearest.

    Args:
        starts: Start of each window in seconds, ascending, `[windows]`.
        ends: End of each window in seconds, `[windows]`.

    Returns:
        Start of the first window, boundaries between neighbours, end of the last window, in
        seconds, `[windows + 1]`.

    Example:

    >>> window_boundaries(np.array([0.0, 5.0, 10.0]), np.array([10.0, 15.0, 17.0])).tolist()
    [0.0, 7.5, 11.75, 17.0]
    """
    centres = (np.asarray(starts, np.float64) + np.asarray(ends, np.float64)) / 2
    return np.concatenate([starts[:1], (centres[1:] + centres[:-1]) / 2, ends[-1:]])

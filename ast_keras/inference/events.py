"""From scores of windows to events: what sounds from when to when. NumPy only."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.errors import InferenceError

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Event:
    """One sound in a recording.

    Attributes:
      onset: Its start in seconds.
      offset: Its end in seconds.
      index: Its class.
      score: The highest score inside.
    """

    onset: float
    offset: float
    index: int
    score: float


def lower_threshold(threshold: float, threshold_off: float | None) -> float:
    """Returns what an event must not fall below: what is given, or 0.7 of the threshold.

    Raises:
      InferenceError: If the two are no probabilities in this order.
    """
    low = 0.7 * threshold if threshold_off is None else threshold_off
    if not 0 <= low <= threshold <= 1:
        raise InferenceError(
            "Thresholds must satisfy 0 <= threshold_off <= threshold <= 1. "
            f"Received: threshold={threshold}, threshold_off={low}"
        )
    return low


def find_events(
    scores: Array,
    edges: Array,
    threshold: float = 0.5,
    threshold_off: float | None = None,
    min_seconds: float = 0.0,
    max_gap_seconds: float = 0.0,
) -> list[Event]:
    """Returns the events in a sequence of scores, by onset and then by class.

    With hysteresis: an event of a class begins and ends where its score falls below
    `threshold_off`, and somewhere in it the score reaches `threshold`. So a sound that hovers about
    one threshold is one event, not many.

    Args:
      scores: `[cells, classes]`.
      edges: Where the cells begin and the last one ends, in seconds, `[cells + 1]`.
      threshold: What an event must reach.
      threshold_off: What it must not fall below; None for 0.7 of the threshold.
      min_seconds: Shorter events are left out.
      max_gap_seconds: Events of one class that are no further apart become one.

    Raises:
      InferenceError: If the thresholds are no probabilities in this order.

    Example:

    >>> scores = np.array([[0.1], [0.4], [0.9], [0.4], [0.2]])
    >>> find_events(scores, np.arange(6.0))
    [Event(onset=1.0, offset=4.0, index=0, score=0.9)]
    """
    low = lower_threshold(threshold, threshold_off)
    events = []
    for index in range(scores.shape[1]):
        column = scores[:, index]
        if column.max(initial=0.0) < threshold or not len(column):
            continue
        above = np.concatenate([[False], column >= low, [False]])
        starts, ends = (
            np.flatnonzero(above[1:] & ~above[:-1]),
            np.flatnonzero(~above[1:] & above[:-1]),
        )
        runs: list[list[int]] = []
        for start, end in zip(starts, ends, strict=True):
            if column[start:end].max() < threshold:
                continue
            if runs and edges[start] - edges[runs[-1][1]] <= max_gap_seconds:
                runs[-1][1] = int(end)
            else:
                runs.append([int(start), int(end)])
        events += [
            Event(float(edges[a]), float(edges[b]), index, float(column[a:b].max()))
            for a, b in runs
            if edges[b] - edges[a] >= min_seconds
        ]
    return sorted(events, key=lambda event: (event.onset, event.index))


def window_boundaries(starts: Array, ends: Array) -> Array:
    """Returns where one window stops speaking and the next begins, in seconds, `[windows + 1]`.

    Windows overlap; each speaks for the time that is nearer to its middle than to others'. The
    first one speaks from its start, the last one to its end.

    Args:
      starts: Of the windows, in seconds, ascending.
      ends: Likewise.

    Example:

    >>> window_boundaries(np.array([0.0, 5.0, 10.0]), np.array([10.0, 15.0, 17.0])).tolist()
    [0.0, 7.5, 11.75, 17.0]
    """
    middles = (np.asarray(starts, np.float64) + np.asarray(ends, np.float64)) / 2
    return np.concatenate([starts[:1], (middles[1:] + middles[:-1]) / 2, ends[-1:]])

"""Windows over sound that is longer than a model hears at once, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.errors import InferenceError

Array = npt.NDArray[Any]

LONGEST_SECONDS = 60.0  # in one piece: attention's memory grows with the square
AGGREGATES = ("max", "mean", "attention")


def window_samples(model: Any, window_seconds: float) -> int:
    """Returns the length of a window in samples, if a model hears so much at once.

    Args:
      model: An `ASTClassifier` with a frontend.
      window_seconds: Length of the window.

    Raises:
      InferenceError: If it is less than a frame, or more than the model was made for and its
        padding is not "masked", which stretches its positions.
    """
    frontend = model.frontend
    if not window_seconds >= frontend.frame_length_seconds:
        raise InferenceError(
            f"A window must be at least {1e3 * frontend.frame_length_seconds:g} ms long, and "
            f"seconds are wanted. Received: window_seconds={window_seconds}"
        )
    window: int = round(window_seconds * frontend.sample_rate)
    if model.padding == "original" and frontend.count_frames(window) > model.backbone.num_frames:
        raise InferenceError(
            f"The model hears {frontend.num_samples / frontend.sample_rate:.2f} s at once: choose "
            "a shorter --window_seconds, or --padding masked, which stretches its positions. "
            f"Received: window_seconds={window_seconds}"
        )
    return window


def check_whole(path: str, seconds: float) -> None:
    """Raises InferenceError if a sound is too long to be heard in one piece, for want of memory."""
    if seconds > LONGEST_SECONDS:
        raise InferenceError(
            f"A sound of more than {LONGEST_SECONDS:.0f} s is heard in windows: add "
            f"--window_seconds 10. Received: {path}, of {seconds:.1f} s"
        )


def cut_windows(
    blocks: Iterable[Array], window: int, hop: int, least: int = 1
) -> Iterator[tuple[int, Array]]:
    """Yields overlapping windows of a sound that comes in blocks, each with its first sample.

    A window begins every hop, until one reaches the end of the sound; that one holds all there
    is. A sound shorter than a window is one. Only a window and a block are in memory.

    Args:
      blocks: `[samples]` each, of any length.
      window: Samples in a window.
      hop: Samples from the start of one to that of the next, at most `window`.
      least: Fewer samples than this make no window of their own, but lengthen the last one.

    Raises:
      InferenceError: If sound would lie between two windows, or a number is not positive.

    Example:

    >>> blocks = [np.arange(4), np.arange(4, 9)]
    >>> [(start, samples.tolist()) for start, samples in cut_windows(blocks, window=4, hop=2)]
    [(0, [0, 1, 2, 3]), (2, [2, 3, 4, 5]), (4, [4, 5, 6, 7]), (6, [6, 7, 8])]
    """
    if not 0 < hop <= window:
        raise InferenceError(
            "The hop must be more than nothing and at most a window, or sound would go unheard. "
            f"Received: window={window}, hop={hop}"
        )
    start, kept = 0, np.zeros(0, np.float32)
    for block in blocks:
        kept = np.concatenate([kept, block]) if len(kept) else block
        # Longer than a window: else this one may be the last, which is known at the end only.
        while len(kept) >= window + least:
            yield start, kept[:window]
            start, kept = start + hop, kept[hop:]
        kept = kept.copy()  # not a view that holds the whole block
    if start == 0 or len(kept) > window - hop:
        yield start, kept


class ScoreAggregator:
    """Makes one score for each class of those of many windows, one after the other.

    | `kind` | a class's score is |
    |---|---|
    | "max" | the highest of any window: was it there at all? |
    | "mean" | the mean over windows: how much of the time? |
    | "attention" | in between: the mean weighted by the softmax over windows of its own logits |

    Args:
      kind: See above.

    Raises:
      InferenceError: If there is no such kind.

    Example:

    >>> aggregate = ScoreAggregator("mean")
    >>> aggregate.add(np.array([[0.2, 0.0], [0.4, 1.0]]), np.zeros((2, 2)))
    >>> aggregate.scores().round(6).tolist()
    [0.3, 0.5]
    """

    def __init__(self, kind: str) -> None:
        if kind not in AGGREGATES:
            raise InferenceError(
                f"aggregate must be one of {', '.join(AGGREGATES)}. Received: {kind!r}"
            )
        self.kind = kind
        self._peak: Array | float = -np.inf  # of the logits so far: keeps the weights finite
        self._weight: Array | float = 0.0
        self._sum: Array | float = 0.0

    def add(self, scores: Array, logits: Array) -> None:
        """Adds windows: their scores and logits, both `[windows, classes]`."""
        scores, logits = scores.astype(np.float64), logits.astype(np.float64)
        if self.kind == "max":
            self._peak = np.maximum(self._peak, scores.max(axis=0))
            return
        if self.kind == "mean":
            logits = np.zeros_like(logits)
        peak = np.maximum(self._peak, logits.max(axis=0))
        fade = np.exp(self._peak - peak)
        weights = np.exp(logits - peak)
        self._weight = self._weight * fade + weights.sum(axis=0)
        self._sum = self._sum * fade + (weights * scores).sum(axis=0)
        self._peak = peak

    def scores(self) -> Array:
        """Returns the scores of the whole, `[classes]`, float64."""
        return np.asarray(self._peak if self.kind == "max" else self._sum / self._weight)

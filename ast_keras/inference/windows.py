"""Windows of sound that is longer than the input of a model, and the aggregation of their scores.

NumPy and the audio room only.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.blocks import sound_blocks
from ast_keras.audio.channels import Channel
from ast_keras.audio.loading import FRAME_SECONDS, load_audio
from ast_keras.errors import AudioWarning, InferenceError

Array = npt.NDArray[Any]
Segment = tuple[int, Array]  # index of the first sample, samples

# Longest sound that a masked model processes without windows: the memory of attention grows with
# the square of the length.
LONGEST_SECONDS = 60.0
AGGREGATES = ("max", "mean", "attention")


def iter_segments(
    path: str,
    sample_rate: int,
    window: int | None = None,
    hop: int | None = None,
    frame_seconds: float = FRAME_SECONDS,
    channel: Channel = "mix",
) -> Iterator[Segment]:
    """Yields the parts of a sound file that a model processes one at a time.

    Args:
        path: Path of the file.
        sample_rate: Rate of the samples in Hz.
        window: Number of samples in a window. None for the whole file as one segment.
        hop: Number of samples from the start of one window to that of the next; None for `window`.
        frame_seconds: Length of a frame of the model's spectrogram.
        channel: `"mix"` for the mean of all channels, or the index of one channel.

    Yields:
        Index of the first sample of the segment, and its samples, float32 `[samples]`.

    Raises:
        AudioError: If the file cannot be read.
    """
    if window is None:
        yield 0, load_audio(path, sample_rate, channel=channel)
        return
    # Fewer remaining samples than one frame would make a window without a spectrogram frame.
    min_samples = round(frame_seconds * sample_rate)
    blocks = sound_blocks(path, sample_rate, channel=channel)
    yield from cut_windows(blocks, window, hop or window, min_samples)


def cut_windows(
    blocks: Iterable[Array], window: int, hop: int, min_samples: int = 1
) -> Iterator[Segment]:
    """Yields overlapping windows of a sound that arrives in blocks.

    A window starts every hop until one reaches the end of the sound. That last window holds the
    remaining samples and may be shorter. A sound shorter than a window is one window. Only one
    window and one block are in memory.

    Args:
        blocks: Consecutive samples, each `[samples]` of any length.
        window: Number of samples in a window.
        hop: Number of samples from the start of one window to that of the next, at most `window`.
        min_samples: If fewer samples than this remain after a window, they lengthen it.

    Yields:
        Index of the first sample of the window, and its samples.

    Raises:
        InferenceError: If the hop is not between 1 and the window.

    Example:

    >>> blocks = [np.arange(4), np.arange(4, 9)]
    >>> [(start, samples.tolist()) for start, samples in cut_windows(blocks, window=4, hop=2)]
    [(0, [0, 1, 2, 3]), (2, [2, 3, 4, 5]), (4, [4, 5, 6, 7]), (6, [6, 7, 8])]
    """
    check_hop(hop, window)
    start, kept = 0, np.zeros(0, np.float32)
    for block in blocks:
        kept = np.concatenate([kept, block]) if len(kept) else block
        # A window is complete when at least `min_samples` follow it. If fewer follow, it is the
        # last one, and they lengthen it.
        while len(kept) >= window + min_samples:
            yield start, kept[:window]
            start, kept = start + hop, kept[hop:]
        kept = kept.copy()  # a view would keep the whole block in memory
    if start == 0 or len(kept) > window - hop:
        yield start, kept


def window_samples(model: Any, window_seconds: float) -> int:
    """Returns the number of samples in a window, after checking that the model can process it.

    Args:
        model: An `AudioClassifier` with a frontend.
        window_seconds: Length of the window in seconds.

    Raises:
        InferenceError: If the window is shorter than a frame, or longer than the input of a model
            with `padding="original"`.
    """
    frontend = model.frontend
    if not window_seconds >= frontend.frame_length_seconds:
        raise InferenceError(
            f"A window must be at least {1e3 * frontend.frame_length_seconds:g} ms long; its "
            f"length is given in seconds. Received: window_seconds={window_seconds}"
        )
    window: int = round(window_seconds * frontend.sample_rate)
    limit = model.max_input_samples
    if limit is not None and window > limit:
        raise InferenceError(
            f"The model processes {frontend.num_samples / frontend.sample_rate:.2f} s at once: "
            "choose a shorter --window_seconds, or --padding masked, which interpolates its "
            f"positions. Received: window_seconds={window_seconds}"
        )
    return window


def check_hop(hop: int, window: int, sample_rate: int | None = None) -> None:
    """Raises InferenceError unless windows follow each other without a gap.

    Args:
        hop: Number of samples from the start of one window to that of the next.
        window: Number of samples in a window.
        sample_rate: Rate in Hz, for a message in seconds; None for a message in samples.
    """
    if not 0 < hop <= window:
        unit, scale = ("samples", 1) if sample_rate is None else ("s", sample_rate)
        raise InferenceError(
            "The hop must be positive and at most a window, or samples between two windows would "
            f"be skipped. Received: window={window / scale:g} {unit}, hop={hop / scale:g} {unit}"
        )


def valid_part(model: Any, waveform: Array, source: str, has_windows: bool = True) -> Array:
    """Returns the part of a waveform that a model processes without windows.

    Args:
        model: An `AudioClassifier` with a frontend.
        waveform: `[samples]`.
        source: Name of the sound, for messages.
        has_windows: Whether messages advise windows, or else to choose a part of the sound.

    Returns:
        The whole waveform with `padding="masked"`, else as many samples as the model was built for.

    Raises:
        InferenceError: If the waveform is longer than `LONGEST_SECONDS` with `padding="masked"`.

    Warns:
        AudioWarning: If the end of the waveform is cut off.
    """
    frontend = model.frontend
    rate, seconds = frontend.sample_rate, len(waveform) / frontend.sample_rate
    limit = model.max_input_samples
    if limit is None:
        if seconds > LONGEST_SECONDS:
            advice = "add --window_seconds 10" if has_windows else "add --duration_seconds 10"
            raise InferenceError(
                f"A sound longer than {LONGEST_SECONDS:.0f} s is not processed at once: {advice}. "
                f"Received: {source}, {seconds:.1f} s"
            )
        return waveform
    if len(waveform) > limit:
        advice = (
            "--window_seconds (in Python, window_seconds=) processes all of it"
            if has_windows
            else "--start_seconds (in Python, start_seconds=) chooses another part"
        )
        warnings.warn(
            f"{source} is {seconds:.1f} s long; the model processes only the first "
            f"{frontend.num_samples / rate:.1f} s. {advice}.",
            AudioWarning,
            stacklevel=2,
        )
    return waveform[: frontend.num_samples]


@dataclasses.dataclass(frozen=True, eq=False)
class WindowScores:
    """Scores of the windows of one recording, and of the whole recording.

    Attributes:
        starts: Start of each window in seconds, float64 `[windows]`.
        ends: End of each window in seconds, float64 `[windows]`.
        scores: Scores of each window, float32 `[windows, classes]`.
        clip_scores: Aggregated scores of the recording, float64 `[classes]`.
    """

    starts: Array
    ends: Array
    scores: Array
    clip_scores: Array


class ScoreAggregator:
    """Aggregates the scores of windows into one score per class, batch by batch.

    | `kind` | score of a class |
    |---|---|
    | "max" | the maximum over windows: does the class occur at all? |
    | "mean" | the mean over windows: how much of the time does it occur? |
    | "attention" | in between: the mean, weighted by the softmax over windows of the logits |

    Args:
        kind: Name of the aggregation, one of the table.

    Raises:
        InferenceError: If the kind is unknown.

    Example:

    >>> aggregator = ScoreAggregator("mean")
    >>> aggregator.add(np.array([[0.2, 0.0], [0.4, 1.0]]), np.zeros((2, 2)))
    >>> aggregator.scores().round(6).tolist()
    [0.3, 0.5]
    """

    def __init__(self, kind: str) -> None:
        if kind not in AGGREGATES:
            raise InferenceError(
                f"aggregate must be one of {', '.join(AGGREGATES)}. Received: {kind!r}"
            )
        self.kind = kind
        # Largest logit so far: subtracted before the exponential, which could overflow otherwise.
        self._peak: Array | float = -np.inf
        self._weight: Array | float = 0.0
        self._sum: Array | float = 0.0

    def add(self, scores: Array, logits: Array) -> None:
        """Adds windows.

        Args:
            scores: Scores of the windows, `[windows, classes]`.
            logits: Logits of the windows, `[windows, classes]`.
        """
        scores, logits = scores.astype(np.float64), logits.astype(np.float64)
        if self.kind == "max":
            self._peak = np.maximum(self._peak, scores.max(axis=0))
            return
        if self.kind == "mean":
            logits = np.zeros_like(logits)
        peak = np.maximum(self._peak, logits.max(axis=0))
        rescale = np.exp(self._peak - peak)
        weights = np.exp(logits - peak)
        self._weight = self._weight * rescale + weights.sum(axis=0)
        self._sum = self._sum * rescale + (weights * scores).sum(axis=0)
        self._peak = peak

    def scores(self) -> Array:
        """Returns the aggregated scores, float64 `[classes]`."""
        return np.asarray(self._peak if self.kind == "max" else self._sum / self._weight)

"""`Predictor`: classes, windows and events of sound files of any length."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.audio.channels import Channel
from ast_keras.errors import AudioWarning
from ast_keras.inference.events import find_events, lower_threshold, window_boundaries
from ast_keras.inference.formats import clip_row, windows_row
from ast_keras.inference.windows import (
    ScoreAggregator,
    Segment,
    WindowScores,
    check_hop,
    iter_segments,
    valid_part,
    window_samples,
)
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[Any]
Row = dict[str, Any]

_BATCH = 4  # windows per call of the model
_NO_THRESHOLD = -1.0  # every score reaches it
_NUM_BEST = 5  # classes that are reported without a threshold


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a long file is cut into windows, and what is made of their scores.

    Args:
        window_seconds: Length of a window in seconds.
        hop_seconds: Seconds from the start of one window to that of the next; None for half a
            window.
        aggregate: How the scores of windows become scores of the file, "max", "mean" or
            "attention": see `ast_keras.inference.windows.ScoreAggregator`.
        events: Whether to find events.
        threshold: Score that an event must reach; None for the thresholds stored with the model,
            and for 0.5 without these.
        threshold_off: Score below which an event ends; None for 0.7 of the threshold.
    """

    window_seconds: float
    hop_seconds: float | None = None
    aggregate: str = "max"
    events: bool = False
    threshold: float | None = None
    threshold_off: float | None = None


class Predictor:
    """Classifies sound files of any sample rate, length and number of channels.

    The model is compiled once for all lengths.

    Args:
        model: An `AudioClassifier` with a frontend.
        windows: How files are cut into windows. None processes each file at once: the length that
            the model was built for or, with `padding="masked"`, up to a minute.
        threshold: Score that a class must reach to be reported. None for the thresholds stored with
            the model; without these, the best classes are reported.
        channel: `"mix"` for the mean of all channels of a file, or the index of one channel.

    Raises:
        ArgumentError: If the model takes spectrograms.
        InferenceError: If the windows do not fit the model.

    Example:

    >>> import os, soundfile, tempfile
    >>> from ast_keras import from_preset
    >>> path = os.path.join(tempfile.mkdtemp(), "a.wav")
    >>> soundfile.write(path, np.zeros(32_000), 16_000)
    >>> predictor = Predictor(from_preset("ast_test", num_classes=2, num_frames=98), Windows(1.0))
    >>> row = predictor.predict(path)
    >>> row["seconds"], len(row["predictions"]), len(row["windows"])
    (2.0, 2, 3)
    """

    def __init__(
        self,
        model: AudioClassifier,
        windows: Windows | None = None,
        threshold: float | None = None,
        channel: Channel = "mix",
    ) -> None:
        self.model = model
        self.channel: Channel = channel
        self._thresholds = _first(threshold, model.thresholds, _NO_THRESHOLD)
        self.sample_rate: int = model.require_frontend().sample_rate
        self.windows = windows
        self._window = self._hop = None
        if windows is not None:
            self._event_threshold = _first(windows.threshold, model.thresholds, 0.5)
            lower_threshold(self._event_threshold, windows.threshold_off)
            self._window = window_samples(model, windows.window_seconds)
            hop_seconds = windows.hop_seconds
            if hop_seconds is None:
                hop_seconds = windows.window_seconds / 2
            self._hop = round(hop_seconds * self.sample_rate)
            check_hop(self._hop, self._window, self.sample_rate)
            ScoreAggregator(windows.aggregate)
            self._warn_if_interpolated("windows", self._window)
        self._logits = tf.function(
            lambda waveform, lengths: model(waveform, training=False, lengths=lengths),
            input_signature=[
                tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None,), tf.int32)
            ],
        )  # fmt: skip

    def predict(self, path: str, top: int | None = None) -> Row:
        """Classifies a file.

        Args:
            path: Path of the file.
            top: Largest number of classes in the result. None for all that reach their threshold
                or, without thresholds, 5.

        Returns:
            A record with "file", "seconds" and "predictions", with windows also "windows" and, if
            requested, "events": see `ast_keras.inference.formats`.

        Raises:
            AudioError: If the file cannot be read.
            InferenceError: If the file is too long to be processed without windows.
        """
        return self.predict_segments(path, self.iter_segments(path), top)

    def iter_segments(self, path: str) -> Iterator[Segment]:
        """Yields the segments of a file: its windows, or the whole file.

        It does not use the model, so that a thread can read ahead.

        Args:
            path: Path of the file.

        Yields:
            Index of the first sample of the segment, and its samples, float32 `[samples]`.

        Raises:
            AudioError: If the file cannot be read.
        """
        frame = self.model.frontend.frame_length_seconds
        return iter_segments(path, self.sample_rate, self._window, self._hop, frame, self.channel)

    def predict_segments(
        self, path: str, segments: Iterable[Segment], top: int | None = None
    ) -> Row:
        """Classifies a file whose segments are read elsewhere.

        Args:
            path: Path of the file, for the result and for messages.
            segments: The segments of the file, from `iter_segments`.
            top: Largest number of classes in the result, as for `predict`.

        Returns:
            The record of `predict`.
        """
        labels = self.model.labels
        if top is None:
            top = _NUM_BEST if self._thresholds == _NO_THRESHOLD else self.model.num_classes
        if self.windows is None:
            ((_, waveform),) = segments
            seconds = len(waveform) / self.sample_rate
            scores = self._score_clip(path, waveform)
            return clip_row(path, seconds, scores, labels, top, self._thresholds)
        found = self.score_windows(segments)
        events = None
        if self.windows.events:
            boundaries = window_boundaries(found.starts, found.ends)
            events = find_events(
                found.scores, boundaries, self._event_threshold, self.windows.threshold_off
            )
        return windows_row(path, found, events, labels, top, self._thresholds)

    def score_windows(self, windows: Iterable[Segment]) -> WindowScores:
        """Computes the scores of windows, and their aggregate.

        Args:
            windows: Index of the first sample and samples of each window.

        Returns:
            Times and scores of the windows, and the scores of the whole recording.
        """
        aggregator = ScoreAggregator(self.windows.aggregate if self.windows else "max")
        scores, spans = list[Array](), list[tuple[int, int]]()
        for batch in _batches(windows, _BATCH):
            lengths = np.array([len(samples) for _, samples in batch], np.int32)
            waveforms = np.zeros((len(batch), lengths.max()), np.float32)
            for waveform, (_, samples) in zip(waveforms, batch, strict=True):
                waveform[: len(samples)] = samples
            logits = self._logits(waveforms, lengths)
            scores.append(np.asarray(self.model.scores(logits)))
            aggregator.add(scores[-1], np.asarray(logits))
            spans += [(start, start + len(samples)) for start, samples in batch]
        starts, ends = np.array(spans, np.float64).T / self.sample_rate
        return WindowScores(starts, ends, np.concatenate(scores), aggregator.scores())

    def _score_clip(self, path: str, waveform: Array) -> Array:
        valid = valid_part(self.model, waveform, path)
        if self.model.padding == "masked":
            self._warn_if_interpolated(path, len(valid))
        logits = self._logits(valid[None], np.array([len(valid)], np.int32))
        return np.asarray(self.model.scores(logits))[0]

    def _warn_if_interpolated(self, source: str, num_samples: int) -> None:
        """Warns of input longer than the model was built for: its positions are interpolated."""
        frames, backbone = self.model.frontend.count_frames(num_samples), self.model.backbone
        is_causal = isinstance(backbone, CausalASTBackbone)  # its positions repeat
        if frames > backbone.num_frames and not is_causal:
            message = f"{source}: {self.model.describe_input(num_samples)}"
            warnings.warn(message, AudioWarning, stacklevel=2)


def _first(*values: Any) -> Any:
    """Returns the first value that is not None."""
    return next(value for value in values if value is not None)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

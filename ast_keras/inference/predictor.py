"""What a model says about sound files of any length: scores, windows, events."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.audio import load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.audio.loading import FRAME_SECONDS
from ast_keras.errors import InferenceError
from ast_keras.inference.events import find_events, window_boundaries
from ast_keras.inference.windows import ScoreAggregator, check_whole, cut_windows, window_samples
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[Any]
Row = dict[str, Any]

_BATCH = 4  # windows heard at once


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a long file is heard.

    Args:
      window_seconds: Sound heard at once.
      hop_seconds: From the start of one window to the next; None for half a window.
      aggregate: "max", "mean" or "attention", see `ast_keras.inference.windows.ScoreAggregator`.
      events: Whether to look for events.
      threshold: What an event's score must reach.
      threshold_off: What it must not fall below; None for 0.7 of the threshold.
    """

    window_seconds: float
    hop_seconds: float | None = None
    aggregate: str = "max"
    events: bool = False
    threshold: float = 0.5
    threshold_off: float | None = None


class Predictor:
    """Classifies files with one model, compiled once for every length.

    Args:
      model: An `ASTClassifier` with a frontend.
      windows: How long files are heard; None for as far as the model hears.

    Raises:
      InferenceError: If the model takes spectrograms.
      InferenceError: If the model does not hear so much at once.
    """

    def __init__(self, model: ASTClassifier, windows: Windows | None = None) -> None:
        if model.frontend is None:
            raise InferenceError("This model takes spectrograms, not sound: it has no frontend")
        self.model = model
        self.sample_rate: int = model.frontend.sample_rate
        self.windows = windows
        if windows is not None:
            self._window = window_samples(model, windows.window_seconds)
            hop_seconds = windows.hop_seconds
            if hop_seconds is None:
                hop_seconds = windows.window_seconds / 2
            self._hop = round(hop_seconds * self.sample_rate)
            if not 0 < self._hop <= self._window:
                raise InferenceError(
                    "The hop must be more than nothing and at most a window. Received: "
                    f"hop_seconds={hop_seconds}, window_seconds={windows.window_seconds}"
                )
            ScoreAggregator(windows.aggregate)
            self._note_stretched("windows", self._window)
        self._logits = tf.function(
            lambda waveform, lengths: model(waveform, training=False, lengths=lengths),
            input_signature=[
                tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None,), tf.int32)
            ],
        )  # fmt: skip

    def predict(self, path: str, top: int = 5) -> Row:
        """Returns the file's name, length in seconds and most likely classes with their scores.

        With `windows` also, under "windows", what each says, and the "events".

        Raises:
          AudioError: If the file cannot be read.
        """
        return self.row(path, self.pieces(path), top)

    def pieces(self, path: str) -> Iterator[tuple[int, Array]]:
        """Yields a file's sound piece by piece, with the first sample of each; needs no model.

        One piece without `windows`, else a window each.
        """
        if self.windows is not None:
            # Less than a frame more than the window before would not be heard.
            least = round(FRAME_SECONDS * self.sample_rate)
            blocks = sound_blocks(path, self.sample_rate)
            yield from cut_windows(blocks, self._window, self._hop, least)
        else:
            yield 0, load_audio(path, self.sample_rate)

    def row(self, path: str, pieces: Iterable[tuple[int, Array]], top: int) -> Row:
        """Returns what `predict` does, of a file's pieces."""
        if self.windows is None:
            ((_, waveform),) = pieces
            return self._whole(path, waveform, top)
        return self._windowed(path, pieces, self.windows, top)

    def _whole(self, path: str, waveform: Array, top: int) -> Row:
        frontend, seconds = self.model.frontend, len(waveform) / self.sample_rate
        if self.model.padding == "masked":
            check_whole(path, seconds)
            self._note_stretched(path, len(waveform))
            waveforms = waveform[None]
        else:
            heard = frontend.num_samples
            # What is less than a frame is never heard, and not worth a word.
            if len(waveform) >= heard + round(frontend.frame_step_seconds * self.sample_rate):
                print(
                    f"warning: {path} is {seconds:.1f} s long, the model hears the first "
                    f"{heard / self.sample_rate:.1f} s; --window_seconds hears all",
                    file=sys.stderr,
                )
            waveforms = waveform[None, :heard]
        logits = self._logits(waveforms, np.array([waveforms.shape[1]], np.int32))
        scores = np.asarray(self.model.scores(logits))[0]
        return {
            "file": path,
            "seconds": round(seconds, 3),
            "predictions": self._best(scores, top),
        }

    def _note_stretched(self, what: str, num_samples: int) -> None:
        """Says so where the model hears more at once than it was trained on."""
        frames, backbone = self.model.frontend.count_frames(num_samples), self.model.backbone
        is_causal = isinstance(backbone, CausalASTBackbone)  # whose positions repeat
        if frames > backbone.num_frames and not is_causal:
            print(f"note: {what}, {self.model.describe_input(num_samples)}", file=sys.stderr)

    def _windowed(
        self, path: str, pieces: Iterable[tuple[int, Array]], windows: Windows, top: int
    ) -> Row:
        aggregate, found = ScoreAggregator(windows.aggregate), []
        starts, ends = [], []
        for batch in _batches(pieces, _BATCH):
            waveform = np.zeros((len(batch), max(len(w) for _, w in batch)), np.float32)
            for row, (_, samples) in zip(waveform, batch, strict=True):
                row[: len(samples)] = samples
            lengths = np.array([len(samples) for _, samples in batch], np.int32)
            logits = self._logits(waveform, lengths)
            scores = np.asarray(self.model.scores(logits))
            aggregate.add(scores, np.asarray(logits))
            found.append(scores)
            starts += [start / self.sample_rate for start, _ in batch]
            ends += [(start + len(samples)) / self.sample_rate for start, samples in batch]
        scores = np.concatenate(found)
        row: Row = {
            "file": path,
            "seconds": round(ends[-1], 3),
            "predictions": self._best(aggregate.scores(), top),
            "windows": [
                {
                    "start": round(start, 3),
                    "end": round(end, 3),
                    "predictions": self._best(window, top),
                }
                for start, end, window in zip(starts, ends, scores, strict=True)
            ],
        }
        if windows.events:
            edges = window_boundaries(np.array(starts), np.array(ends))
            events = find_events(scores, edges, windows.threshold, windows.threshold_off)
            row["events"] = [
                {
                    "onset": round(event.onset, 3),
                    "offset": round(event.offset, 3),
                    **self._prediction(event.index, event.score),
                }
                for event in events
            ]
        return row

    def _best(self, scores: Array, top: int) -> list[Row]:
        best = np.argsort(-scores, kind="stable")[:top]
        return [self._prediction(int(index), float(scores[index])) for index in best]

    def _prediction(self, index: int, score: float) -> Row:
        labels = self.model.labels
        name = labels.names[index] if labels else f"class {index}"
        return {"index": index, "label": name, "score": round(score, 6)}


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

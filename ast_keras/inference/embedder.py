"""`Embedder`: sounds as vectors, one per sound or window, per second, or per patch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.audio.channels import Channel
from ast_keras.audio.mel import seconds_to_samples
from ast_keras.errors import InferenceError
from ast_keras.inference.windows import Segment, iter_segments, valid_part, window_samples
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[Any]

KINDS = ("pooled", "seconds", "tokens")


class Embedding(NamedTuple):
    """One vector, and the part of a sound that it represents.

    Attributes:
        path: Path of the sound's file.
        start: Start of the part in seconds.
        end: End of the part in seconds.
        mel: Index of a patch along the mel axis, 0 for the lowest frequencies; -1 if the vector is
            not that of a patch.
        vector: float32 `[embed_dim]`.
    """

    path: str
    start: float
    end: float
    mel: int
    vector: Array


class Embedder:
    """Embeds sound files with a model.

    | `kind` | one vector per | value |
    |---|---|---|
    | "pooled" | window, or sound | the input of the classification head |
    | "seconds" | second | the mean of the patches whose centre lies in the second |
    | "tokens" | patch | the output of the transformer for the patch |

    Args:
        model: An `ASTClassifier` with a frontend.
        kind: What a vector represents, one of the table.
        window_seconds: Length in seconds of the windows that a file is cut into. None processes
            each file at once: the length that the model was built for or, with `padding="masked"`,
            up to a minute.
        channel: `"mix"` for the mean of all channels of a file, or the index of one channel.

    Raises:
        ArgumentError: If the model takes spectrograms.
        InferenceError: If the kind is unknown or not available for a causal model, or if the window
            is longer than the input of the model.

    Example:

    >>> import os, soundfile, tempfile
    >>> from ast_keras import from_preset
    >>> path = os.path.join(tempfile.mkdtemp(), "a.wav")
    >>> soundfile.write(path, np.zeros(32_000), 16_000)
    >>> model = from_preset("ast_test", num_classes=2, num_frames=208)
    >>> [(e.start, e.end, e.vector.shape) for e in Embedder(model, "seconds").embed(path)]
    [(0.0, 1.0, (48,)), (1.0, 2.0, (48,))]
    """

    def __init__(
        self,
        model: ASTClassifier,
        kind: str = "pooled",
        window_seconds: float | None = None,
        channel: Channel = "mix",
    ) -> None:
        if kind not in KINDS:
            raise InferenceError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}")
        self.sample_rate: int = model.require_frontend().sample_rate
        if kind != "pooled" and isinstance(model.backbone, CausalASTBackbone):
            raise InferenceError(
                f'A causal model gives one vector per sound: choose kind="pooled". '
                f"Received: kind={kind!r}"
            )
        self.model, self.kind = model, kind
        self.channel: Channel = channel
        self._window = None if window_seconds is None else window_samples(model, window_seconds)
        self._outputs = tf.function(
            self._tokens_and_pooled,
            input_signature=[
                tf.TensorSpec((1, None), tf.float32), tf.TensorSpec((1,), tf.int32)
            ],
        )  # fmt: skip

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
        return iter_segments(
            path, self.sample_rate, self._window, frame_seconds=frame, channel=self.channel
        )

    def embed(self, path: str, segments: Iterable[Segment] | None = None) -> Iterator[Embedding]:
        """Yields the vectors of a file, ordered by time and then by mel.

        Args:
            path: Path of the file.
            segments: Segments of the file from `iter_segments`, if they are read elsewhere; None to
                read the file.

        Yields:
            An `Embedding` each.

        Raises:
            AudioError: If the file cannot be read.
            InferenceError: If the file is too long to be processed without windows.
        """
        for start, samples in self.iter_segments(path) if segments is None else segments:
            if self._window is None:
                samples = valid_part(self.model, samples, path)
            lengths = np.array([len(samples)], np.int32)
            tokens, pooled = (part.numpy()[0] for part in self._outputs(samples[None], lengths))
            begin, end = (sample / self.sample_rate for sample in (start, start + len(samples)))
            if self.kind == "pooled":
                yield Embedding(path, begin, end, -1, pooled)
            else:
                grid = self._valid_patches(tokens, len(samples))
                make = self._embed_patches if self.kind == "tokens" else self._embed_seconds
                yield from make(path, begin, end, grid)

    def _tokens_and_pooled(self, waveform: tf.Tensor, lengths: tf.Tensor) -> Any:
        model = self.model
        frames = model.count_frames(lengths)
        num_tokens = model.backbone.num_pooled_tokens if self.kind == "pooled" else None
        tokens = model.backbone(
            model.spectrogram(waveform, lengths),
            training=False,
            lengths=frames,
            num_tokens=num_tokens,
        )
        return tf.cast(tokens, tf.float32), tf.cast(model.pool(tokens, frames), tf.float32)

    def _valid_patches(self, tokens: Array, num_samples: int) -> Array:
        """Returns the tokens of patches that are not padding, `[mel, time, embed_dim]`."""
        backbone, frontend = self.model.backbone, self.model.frontend
        grid = tokens[backbone.num_special_tokens :].reshape(backbone.grid[0], -1, tokens.shape[1])
        valid = backbone.count_columns(frontend.count_frames(num_samples))
        return grid[:, :valid]

    def _patch_times(self, num_columns: int) -> tuple[Array, float]:
        """Returns the start of each column of patches and the length of a patch, in seconds."""
        backbone, frontend = self.model.backbone, self.model.frontend
        step = seconds_to_samples(frontend.frame_step_seconds, self.sample_rate) / self.sample_rate
        starts = np.arange(num_columns) * backbone.strides[1] * step
        return starts, (backbone.patch_size[1] - 1) * step + frontend.frame_length_seconds

    def _embed_patches(
        self, path: str, begin: float, end: float, grid: Array
    ) -> Iterator[Embedding]:
        starts, length = self._patch_times(grid.shape[1])
        for column, start in enumerate(begin + starts):
            for mel in range(grid.shape[0]):
                last = round(min(start + length, end), 6)
                yield Embedding(path, round(start, 6), last, mel, grid[mel, column])

    def _embed_seconds(
        self, path: str, begin: float, end: float, grid: Array
    ) -> Iterator[Embedding]:
        starts, length = self._patch_times(grid.shape[1])
        centres = np.minimum(begin + starts + length / 2, np.nextafter(end, begin)) - begin
        for second in range(int(np.ceil(end - begin))):
            inside = centres.astype(int) == second
            if inside.any():  # false if less than a patch remains
                vector = grid[:, inside].mean(axis=(0, 1))
                yield Embedding(path, begin + second, min(begin + second + 1, end), -1, vector)

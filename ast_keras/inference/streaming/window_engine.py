"""Streaming with models that process one window at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.errors import InferenceError
from ast_keras.inference.streaming.engine import StreamResult
from ast_keras.models.ast_classifier import ASTClassifier

Array = npt.NDArray[Any]


class WindowEngine:
    """Computes the result of the last window every hop.

    Frames and embedded patches of the previous window are kept, so that each frame is embedded
    once. A window starts at the start of a patch.

    Args:
        model: An `ASTClassifier` with a frontend.
        column_samples: Number of samples between the starts of two patches.
        window_seconds: Length of the window in seconds; None for the length that the model was
            trained on, in whole seconds.
        hop_seconds: Seconds from one result to the next; None for about 1 s.

    Attributes:
        embed: Compiled function that embeds frames `[frames, mel]`; returns patches
            `[time, mel, embed_dim]`.

    Raises:
        InferenceError: If the window or the hop does not fit the model.
    """

    def __init__(
        self,
        model: ASTClassifier,
        column_samples: int,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
    ) -> None:
        self.model = model
        self.sample_rate: int = model.frontend.sample_rate
        self.column_samples = column_samples
        self.window_samples = self._window_samples(window_seconds)
        self.hop_samples = self._hop_samples(hop_seconds)
        backbone = model.backbone
        self._strides, self._patch = backbone.strides[1], backbone.patch_size[1]  # in frames
        self.embed = tf.function(
            self._embed_frames,
            input_signature=[tf.TensorSpec((None, backbone.num_mel_bins), tf.float32)],
        )
        columns = None if backbone.padding == "masked" else backbone.grid[1]
        shape = (columns, backbone.grid[0], backbone.embed_dim)
        self._classify = tf.function(
            self._scores, input_signature=[tf.TensorSpec(shape, backbone.policy.compute_dtype)]
        )
        self.reset()

    def reset(self) -> None:
        backbone = self.model.backbone
        self._num_samples = 0  # since the start of the stream
        self._first_frame = 0  # index of the first kept frame, at the start of a patch
        self._frames = np.zeros((0, backbone.num_mel_bins), np.float32)
        # NumPy, because TensorFlow 2.16 leaks 0.3 KB per array or slice that it is given.
        dtype = tf.as_dtype(backbone.policy.compute_dtype).as_numpy_dtype
        self._columns = np.zeros((0, backbone.grid[0], backbone.embed_dim), dtype)

    def samples_to_next_hop(self) -> int:
        return self.hop_samples - self._num_samples % self.hop_samples

    def consume(self, frames: Array, num_samples: int) -> list[StreamResult]:
        self._frames = np.concatenate([self._frames, frames])
        self._num_samples += num_samples
        return [] if self._num_samples % self.hop_samples else [self._result()]

    def finish(self) -> list[StreamResult]:
        return [self._result()] if self._num_samples % self.hop_samples else []

    def _window_samples(self, window_seconds: float | None) -> int:
        column, rate = self.column_samples, self.sample_rate
        if window_seconds is None:
            default = self.model.default_num_samples
            if default % column:
                default = max(1, self.model.frontend.num_samples // column) * column
            return default
        samples = _multiple("window_seconds", window_seconds, column, rate)
        limit = self.model.max_input_samples
        if limit is not None and samples > limit:
            raise InferenceError(
                f"The model processes {self.model.frontend.num_samples / rate:.2f} s at once: "
                'choose a shorter window, or load it with padding="masked". Received: '
                f"window_seconds={samples / rate:g}"
            )
        return samples

    def _hop_samples(self, hop_seconds: float | None) -> int:
        column, rate = self.column_samples, self.sample_rate
        if hop_seconds is None:
            return min(self.window_samples, max(1, round(rate / column)) * column)
        samples = _multiple("hop_seconds", hop_seconds, column, rate)
        if samples > self.window_samples:
            raise InferenceError(
                "hop_seconds must not be longer than the window, or samples between two windows "
                f"would be skipped. Received: hop_seconds={samples / rate:g}, "
                f"window_seconds={self.window_samples / rate:g}"
            )
        return samples

    def _result(self) -> StreamResult:
        end, column = self._num_samples, self.column_samples
        # Rounded up to the start of a patch. It is one already, except in the last window of a
        # stream, which is then shorter by less than a patch.
        start = -(-max(0, end - self.window_samples) // column) * column
        self._drop_before(start // column * self._strides)
        scores = self._classify(self._embedded_window()).numpy()
        return StreamResult(start / self.sample_rate, end / self.sample_rate, scores)

    def _embedded_window(self) -> Array:
        """Returns the embedded patches of the kept frames, `[time, mel, embed_dim]`, padded."""
        backbone = self.model.backbone
        complete = max(0, (len(self._frames) - self._patch) // self._strides + 1)
        known = len(self._columns)
        if complete > known:
            stop = (complete - 1) * self._strides + self._patch
            fresh = self.embed(self._frames[known * self._strides : stop]).numpy()
            self._columns = np.concatenate([self._columns, fresh])
        num_columns = backbone.grid[1] if backbone.padding == "original" else max(complete, 1)
        if complete >= num_columns:
            return self._columns
        stop = (num_columns - 1) * self._strides + self._patch
        rest = self._frames[complete * self._strides : stop]
        num_missing = stop - complete * self._strides - len(rest)
        padding_value = self.model.frontend.padding_value
        rest = np.pad(rest, ((0, num_missing), (0, 0)), constant_values=padding_value)
        return np.concatenate([self._columns, self.embed(rest).numpy()])

    def _drop_before(self, frame: int) -> None:
        """Drops the frames before an index, and their patches."""
        dropped = frame - self._first_frame
        self._frames = self._frames[dropped:].copy()
        self._columns = self._columns[dropped // self._strides :].copy()
        self._first_frame = frame

    def _embed_frames(self, frames: tf.Tensor) -> tf.Tensor:
        backbone = self.model.backbone
        patches = backbone.get_layer("patches")(frames[None])[0]
        grid = tf.reshape(patches, [backbone.grid[0], -1, backbone.embed_dim])
        return tf.transpose(grid, [1, 0, 2])  # [time, mel, embed_dim]

    def _scores(self, columns: tf.Tensor) -> tf.Tensor:
        backbone, model = self.model.backbone, self.model
        patches = tf.reshape(tf.transpose(columns, [1, 0, 2]), [1, -1, backbone.embed_dim])
        tokens = backbone.encode(patches, training=False, num_tokens=backbone.num_pooled_tokens)
        return model.scores(model.classify(model.pool(tokens)))[0]


def _multiple(name: str, seconds: float, column: int, rate: int) -> int:
    """Returns a duration in samples; raises InferenceError unless it is a multiple of a patch."""
    samples = round(seconds * rate) if np.isfinite(seconds) else 0
    if samples < column or samples % column:
        nearest = max(1, round(max(samples, 0) / column)) * column / rate
        raise InferenceError(
            f"{name} must be a multiple of {column / rate:g} s, the time between two patches: "
            f"choose {nearest:g}. Received: {name}={seconds}"
        )
    return samples

"""Streaming with causal models, which process one block at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.errors import InferenceError
from ast_keras.inference.streaming.engine import StreamResult
from ast_keras.models.ast_classifier import ASTClassifier

Array = npt.NDArray[Any]


class CausalEngine:
    """Computes the result of each block, with the keys and values of past blocks kept.

    Args:
        model: An `ASTClassifier` with a frontend and a `CausalASTBackbone`.
        column_samples: Number of samples between the starts of two patches.
        window_seconds: None, or the window of the model: the past blocks and the current one.
        hop_seconds: None, or the length of a block.

    Raises:
        InferenceError: If the window or the hop is not that of the model.
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
        self.hop_samples = model.backbone.block_columns * column_samples
        self.window_samples = (model.backbone.past_blocks + 1) * self.hop_samples
        self._check("window_seconds", window_seconds, self.window_samples)
        self._check("hop_seconds", hop_seconds, self.hop_samples)
        self._step = tf.function(self._scores)
        self.reset()

    def reset(self) -> None:
        backbone = self.model.backbone
        self._frames = np.zeros((0, backbone.num_mel_bins), np.float32)
        self._block = 0  # index of the next block
        self._cache = backbone.initial_cache()

    def samples_to_next_hop(self) -> int:
        return self.hop_samples

    def consume(self, frames: Array, num_samples: int) -> list[StreamResult]:
        backbone, rate = self.model.backbone, self.sample_rate
        self._frames = np.concatenate([self._frames, frames])
        results = []
        while len(self._frames) >= backbone.min_frames:
            scores, self._cache = self._step(
                self._frames[None, : backbone.min_frames], tf.constant(self._block), self._cache
            )
            start = self._block * self.hop_samples
            end = start + self.hop_samples
            results.append(StreamResult(start / rate, end / rate, scores.numpy()))
            self._frames = self._frames[backbone.block_columns * backbone.strides[1] :].copy()
            self._block += 1
        return results

    def finish(self) -> list[StreamResult]:
        return []

    def _check(self, name: str, seconds: float | None, samples: int) -> None:
        if seconds is not None and round(seconds * self.sample_rate) != samples:
            raise InferenceError(
                f"A causal model has a fixed {name} of {samples / self.sample_rate:g} s: leave it "
                f"out. Received: {name}={seconds}"
            )

    def _scores(self, frames: tf.Tensor, block: tf.Tensor, cache: Any) -> tuple[tf.Tensor, Any]:
        backbone, model = self.model.backbone, self.model
        tokens, cache = backbone.step(backbone.get_layer("patches")(frames), block, cache)
        return model.scores(model.classify(backbone.pool_blocks(tokens)[:, 0]))[0], cache

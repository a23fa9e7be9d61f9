"""Augmentation of waveforms in training: mixup, circular shift and gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Example = tuple[Array, Array]  # waveform and target


def mixup(first: Array, second: Array, weight: float) -> Array:
    """Mixes two waveforms: `weight * first + (1 - weight) * second`.

    As in the original, the mean of each waveform is removed before mixing and the mean of the
    result after it, and the second waveform is zero-padded or cut to the length of the first.

    Args:
        first: First waveform, float32 `[samples]`.
        second: Second waveform, float32 `[any number of samples]`.
        weight: Weight of the first waveform, in [0, 1].

    Returns:
        The mixed waveform, float32 `[samples]`.

    Reference:
        Tokozume et al., "Learning from Between-class Examples for Deep Sound Recognition",
        ICLR 2018; `dataloader.py` of https://github.com/YuanGongND/ast.

    Example:

    >>> mixup(np.array([1.0, -1.0]), np.array([0.0, 0.0]), 0.25).tolist()
    [0.25, -0.25]
    """
    fitted = np.zeros_like(first)
    overlap = min(len(first), len(second))
    fitted[:overlap] = (second - second.mean())[:overlap] if overlap else 0
    mixed = weight * (first - first.mean()) + (1 - weight) * fitted
    result: Array = (mixed - mixed.mean()).astype(first.dtype)
    return result


@dataclass(frozen=True)
class WaveformAugment:
    """Augments an example with random mixup, circular shift and gain.

    Args:
        mixup_rate: Probability that an example is mixed with another one.
        shift_samples: Largest circular shift in samples, in either direction.
        gain_db: Largest change of level in decibels, in either direction.

    Example:

    >>> augment = WaveformAugment(gain_db=6.0)
    >>> silence = np.zeros(4, "float32"), np.ones(1, "float32")
    >>> waveform, target = augment(*silence, np.random.default_rng(0), 1, lambda index: silence)
    >>> waveform.tolist(), target.tolist()
    ([0.0, 0.0, 0.0, 0.0], [1.0])
    """

    mixup_rate: float = 0.0
    shift_samples: int = 0
    gain_db: float = 0.0

    def __call__(
        self,
        waveform: Array,
        target: Array,
        rng: np.random.Generator,
        num_examples: int,
        load_example: Callable[[int], Example],
    ) -> Example:
        """Returns the augmented waveform and target.

        Args:
            waveform: Waveform of the example, float32 `[samples]`.
            target: Target of the example, float32 `[classes]`.
            rng: Random generator of this example.
            num_examples: Number of examples from which the mixup partner is drawn, uniformly.
            load_example: Returns waveform and target of the example at an index.
        """
        # The number of draws is always the same, so that one setting does not affect the others.
        mixes, partner, weight = rng.random(), rng.integers(num_examples), rng.beta(10, 10)
        shift, gain = rng.integers(-self.shift_samples, self.shift_samples + 1), rng.uniform(-1, 1)
        if mixes < self.mixup_rate:
            other, other_target = load_example(int(partner))
            waveform = mixup(waveform, other, weight)
            target = weight * target + (1 - weight) * other_target
        if self.shift_samples:
            waveform = np.roll(waveform, shift)
        if self.gain_db:
            waveform = waveform * np.float32(10 ** (self.gain_db * gain / 20))
        return waveform, target.astype(np.float32)

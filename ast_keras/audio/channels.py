"""Defective channels: one that is silent, or inverted so that the mean of the channels cancels."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ast_keras.errors import AudioChannelError

Array: TypeAlias = npt.NDArray[Any]
Channel: TypeAlias = int | Literal["mix"]
Defect: TypeAlias = tuple[Literal["inverted", "dead"], int]

# At this correlation of two equally loud channels, their mean has 7.5 % of their power.
_INVERTED_CORRELATION = -0.85
# Power relative to the loudest channel (-40 dB). A broken cable leaves noise of less.
_DEAD_POWER = 1e-4
# Power of two steps of 16-bit samples. Files without a louder channel are silent as a whole.
_SILENT_POWER = (2 / 2**15) ** 2
# Of two good channels the first is preferred, unless its power is less than this fraction.
_QUIET_POWER = 0.25

# A block is first judged by short runs of its frames. Only if these come near a defect, all frames
# are processed, so that a block of healthy audio costs about 0.05 ms.
_RUNS, _RUN_FRAMES = 32, 32
_NEAR_CORRELATION, _NEAR_POWER = -0.5, 1e-2
_CHUNK_FRAMES = 2**18


def channel_defect(frames: Array) -> Defect | None:
    """Returns the defect of one channel that makes the mean of all channels unusable.

    A channel is dead if its power is 40 dB or more below that of the loudest channel. It is
    inverted if its correlation with another is -0.85 or less. Constant offsets are ignored.

    Args:
        frames: Samples `[frames, channels]`, unscaled integers or floats in [-1, 1].

    Returns:
        A tuple of the kind of the defect and the index of a channel to use instead of the mean.
        None if there is only one channel, no defect is found, or all channels are silent.

    Example:

    >>> left = np.sin(np.arange(1000))
    >>> channel_defect(np.stack([left, -left], axis=1))
    ('inverted', 0)
    >>> channel_defect(np.stack([0 * left, left], axis=1))
    ('dead', 1)
    >>> channel_defect(np.stack([left, 0.1 * left], axis=1)) is None
    True
    """
    moments = ChannelMoments()
    moments.add(frames)
    return moments.defect()


def note_defect(defect: Defect | None, name: str, notes: list[str]) -> None:
    """Appends a warning about a defect to `notes`.

    Args:
        defect: Result of `channel_defect` for audio of which the mean is used.
        name: Name of the source.
        notes: List to which the warning is appended.
    """
    if defect is None:
        return
    kind, channel = defect
    rule = {
        "inverted": "One channel is inverted, so that the mean of all channels cancels",
        "dead": "One channel is silent, so that the mean of all channels is too quiet",
    }[kind]
    notes.append(
        f"{rule}: use {channel=} (--channel {channel}; data.channel={channel} in recipes). "
        f"Received: source={name}"
    )


def parse_channel(text: str) -> Channel:
    """Returns the channel that a setting or flag names: "mix", or an index counted from 0.

    Raises:
        AudioChannelError: If it is neither.
    """
    if text == "mix":
        return "mix"
    if text.isdecimal():
        return int(text)
    raise AudioChannelError(
        f'The channel must be "mix" or an index counted from 0. Received: channel={text!r}'
    )


class ChannelMoments:
    """Powers and correlations of the channels of a file, added up block by block.

    Example:

    >>> moments = ChannelMoments()
    >>> for block in np.split(np.sin(np.arange(1000)), 10):
    ...     moments.add(np.stack([block, np.zeros(100)], axis=1))
    >>> moments.defect()
    ('dead', 0)
    """

    def __init__(self) -> None:
        # Subtracted from all samples, so that an offset does not cost precision.
        self._shift: Array | None = None
        # Products of the channels with each other and with 1: their powers, sums and number.
        self._products: Array = np.zeros(())
        self._is_suspect = False

    def add(self, frames: Array) -> None:
        """Adds a block of samples `[frames, channels]`."""
        size, channels = frames.shape
        if size == 0 or channels < 2:
            return
        step = size // _RUNS
        runs = frames[: _RUNS * step].reshape(_RUNS, step, channels)[:, :_RUN_FRAMES]
        products = self._multiply(runs.reshape(-1, channels)) if step else None
        if products is None or _is_suspect(products):
            self._is_suspect = True
            parts = (frames[i : i + _CHUNK_FRAMES] for i in range(0, size, _CHUNK_FRAMES))
            products = sum(map(self._multiply, parts), np.zeros(()))
        self._products = self._products + products * (size / products[-1, -1])

    def defect(self) -> Defect | None:
        """Returns the result of `channel_defect` for all samples added."""
        if not self._is_suspect:
            return None
        power, correlation = _covariance(self._products)
        loudest = power.max()
        if not loudest > _SILENT_POWER:
            return None
        is_dead = power <= _DEAD_POWER * loudest
        opponents = (correlation <= _INVERTED_CORRELATION).sum(axis=1)
        if not (is_dead.any() or opponents.any()):
            return None
        opponents[power < _QUIET_POWER * loudest] = len(power)
        return "dead" if is_dead.any() else "inverted", int(opponents.argmin())

    def _multiply(self, frames: Array) -> Array:
        channels = frames.shape[1]
        samples = np.ones((channels + 1, len(frames)), np.float32)
        samples[:-1] = frames.T
        if frames.dtype.kind in "iu":
            samples[:-1] /= 2.0 ** (8 * frames.dtype.itemsize - 1)
        if self._shift is None:
            self._shift = samples[:-1].mean(axis=1, keepdims=True)
        samples[:-1] -= self._shift
        return (samples @ samples.T).astype(np.float64)


def _covariance(products: Array) -> tuple[Array, Array]:
    """Returns the power of each channel without its offset, and their correlations."""
    count, means = products[-1, -1], products[-1, :-1] / products[-1, -1]
    covariance = products[:-1, :-1] / count - np.outer(means, means)
    power = np.maximum(covariance.diagonal(), 0)
    norm = np.sqrt(np.outer(power, power))
    return power, np.divide(covariance, norm, out=np.zeros_like(norm), where=norm > 0)


def _is_suspect(products: Array) -> bool:
    """Returns whether short runs of a block are near a defect or near silence."""
    power = products.diagonal()[:-1] / products[-1, -1]
    bounds = _NEAR_CORRELATION * products[-1, -1] * np.sqrt(np.outer(power, power))
    is_near = power.min() <= _NEAR_POWER * max(power.max(), _SILENT_POWER)
    return bool(is_near or (products[:-1, :-1] < bounds).any())

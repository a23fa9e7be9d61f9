"""A waveform with its log-mel spectrogram, as the reports show it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """Holds a waveform and the log-mel spectrogram that a model computes from it.

    Args:
        name: Name of the sound, for example its path.
        waveform: Samples in [-1, 1], float32 `[samples]`.
        sample_rate: Sample rate in Hz.
        log_mel: Log-mel spectrogram `[frames, mel]`, natural logarithm of power, not normalised.
        frame_step_seconds: Time between two frames.
        mel_range_hz: Lower and upper edge of the mel filterbank in Hz.
        num_valid_frames: Number of frames before the padding; None if there is no padding.

    Example:

    >>> import numpy as np
    >>> sound = Sound("dog.wav", np.zeros(8000), 16000, np.zeros((48, 128)), 0.01, (20, 8000))
    >>> sound.seconds
    0.5
    """

    name: str
    waveform: Array = dataclasses.field(repr=False)
    sample_rate: int
    log_mel: Array = dataclasses.field(repr=False)
    frame_step_seconds: float
    mel_range_hz: tuple[float, float]
    num_valid_frames: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the waveform in seconds."""
        return len(self.waveform) / self.sample_rate

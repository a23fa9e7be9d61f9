"""The log-mel spectrogram of a stream, computed piece by piece."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.audio.mel import seconds_to_samples
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank

Array = npt.NDArray[np.float32]

_PIECE_FRAMES = 1000  # frames computed at once, which bounds memory for long pieces of samples


class StreamingFilterbank:
    """Computes the same spectrogram frames as `LogMelFilterbank`, from pieces of a stream.

    By default, `LogMelFilterbank` subtracts the mean of the whole waveform, which is unknown while
    a stream goes on. The frames therefore equal those of a layer with `remove_waveform_mean=False`.

    Args:
        frontend: A `LogMelFilterbank`.

    Example:

    >>> fbank = StreamingFilterbank(LogMelFilterbank())
    >>> fbank.push(np.zeros(399, "float32")).shape, fbank.push(np.zeros(161, "float32")).shape
    ((0, 128), (2, 128))
    """

    def __init__(self, frontend: LogMelFilterbank) -> None:
        config = frontend.get_config()
        self.frontend = frontend
        self.layer = LogMelFilterbank.from_config(
            {**config, "num_frames": None, "remove_waveform_mean": False}
        )
        rate = frontend.sample_rate
        self.frame_length = seconds_to_samples(frontend.frame_length_seconds, rate)
        self.frame_step = seconds_to_samples(frontend.frame_step_seconds, rate)
        self._compute = tf.function(
            self.layer.call, input_signature=[tf.TensorSpec((1, None), tf.float32)]
        )
        self.reset()

    def reset(self) -> None:
        """Starts a new stream."""
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: Array) -> Array:
        """Returns the frames that the next samples of the stream complete.

        Args:
            samples: `[samples]`, float32 in [-1, 1], any number.

        Returns:
            Normalised log-mel frames `[frames, mel]`, float32.
        """
        waveform = np.concatenate([self._rest, samples])
        count = self.layer.count_frames(len(waveform))
        frames = [np.zeros((0, self.layer.num_mel_bins), np.float32)]
        for first in range(0, count, _PIECE_FRAMES):
            size = min(_PIECE_FRAMES, count - first)
            start = first * self.frame_step
            piece = waveform[start : start + (size - 1) * self.frame_step + self.frame_length]
            frames.append(self._compute(piece[None]).numpy()[0])
        self._rest = waveform[count * self.frame_step :].copy()
        return np.concatenate(frames)

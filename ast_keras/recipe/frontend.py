"""`Frontend`: the settings of a recipe between the waveform and the spectrogram."""

from __future__ import annotations

import dataclasses

from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.recipe.fields import NOT_NEGATIVE, POSITIVE, SAMPLE_RATE, setting


@dataclasses.dataclass(frozen=True)
class Frontend:
    """From waveforms to normalised log-mel spectrograms (`LogMelFilterbank`)."""

    sample_rate: int = setting(
        16000,
        "Sampling rate of the audio, in Hz. Files at other rates are resampled.",
        range=SAMPLE_RATE,
    )
    f_min_hz: float = setting(20.0, "Lower edge of the lowest mel bin, in Hz.", range=NOT_NEGATIVE)
    f_max_hz: float | None = setting(
        None,
        "Upper edge of the highest mel bin, in Hz. None is half the sampling rate.",
        range=POSITIVE,
    )
    frame_length_seconds: float = setting(
        0.025,
        "Length of a frame, in seconds. A longer one distinguishes lower and closer frequencies.",
        range=POSITIVE,
    )
    frame_step_seconds: float = setting(
        0.01, "Time from the start of one frame to that of the next, in seconds.", range=POSITIVE
    )
    num_mel_bins: int = setting(
        128, "Number of mel bins, the height of the spectrogram.", range=POSITIVE
    )
    num_frames: int = setting(
        1024,
        "Number of frames of the spectrogram, one every frame_step_seconds. Longer clips are cut "
        'to it and, with padding="original", shorter clips are padded to it.',
        range=POSITIVE,
    )
    window: str = setting(
        "hann", "Window function of the short-time Fourier transform.", choices=("hann", "hamming")
    )
    mean: float | None = setting(
        AUDIOSET_MEAN,
        "Mean of the log-mel values, subtracted from the spectrogram. The default is AudioSet's. "
        "None uses the mean that the start weights were trained with, or AudioSet's if they have "
        "none.",
    )
    std: float | None = setting(
        AUDIOSET_STD,
        "Standard deviation of the log-mel values. The spectrogram is divided by twice this "
        "number. The default is AudioSet's. None uses the deviation that the start weights were "
        "trained with, or AudioSet's if they have none.",
        range=POSITIVE,
    )

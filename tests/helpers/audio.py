"""Audio for tests: signals, encoded files and their difference in decibels."""

import io

import numpy as np
import pytest
import soundfile

RATE = 16_000


def sine(rate=RATE, seconds=1.0, hz=440.0, amplitude=0.5):
    """Returns a sine tone `[samples]` in float64."""
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def noise(shape, seed=0):
    """Returns float64 noise in steps of 1/32768, which 16 bits hold exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-30_000, 30_000, shape).astype(np.float64) / 32_768


def encode(samples, rate=RATE, container="WAV", codec="PCM_16", **options):
    """Returns samples `[frames]` or `[frames, channels]` as the bytes of a file.

    Skips the test if the installed libsndfile cannot write the format.
    """
    if not soundfile.check_format(container, codec):
        pytest.skip(reason=f"this libsndfile does not write {container} {codec}")
    file = io.BytesIO()
    channels = 1 if np.ndim(samples) == 1 else np.shape(samples)[1]
    with soundfile.SoundFile(
        file, "w", rate, channels, codec, format=container, **options
    ) as writer:
        writer.write(samples)
    return file.getvalue()


def decibels(error, signal):
    """Returns the power of an error relative to that of a signal."""
    return 10 * np.log10(np.mean(np.square(error)) / np.mean(np.square(signal)))

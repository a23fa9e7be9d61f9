"""Encoding of mono audio as 16-bit WAV and FLAC.

All functions scale by 32768, as `load_audio` does in the other direction, so that audio decoded
from 16 bits and encoded again keeps every sample to the bit.
"""

from __future__ import annotations

import io
import os
import wave
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Array = npt.NDArray[Any]


def wav_bytes(waveform: npt.ArrayLike, sample_rate: int) -> bytes:
    """Returns a mono waveform as the bytes of a 16-bit WAV file.

    Args:
        waveform: Samples `[samples]` in [-1, 1]; values outside are clipped.
        sample_rate: Sample rate in Hz.

    Example:

    >>> len(wav_bytes(np.zeros(16_000), 16_000))
    32044
    """
    stream = io.BytesIO()
    _write(stream, waveform, sample_rate)
    return stream.getvalue()


def write_wav(path: str | os.PathLike[str], waveform: npt.ArrayLike, sample_rate: int) -> None:
    """Writes a mono waveform as a 16-bit WAV file.

    Args:
        path: Path of the file. An existing file is overwritten.
        waveform: Samples `[samples]` in [-1, 1]; values outside are clipped.
        sample_rate: Sample rate in Hz.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "silence.wav")
    >>> write_wav(path, np.zeros(16_000), 16_000)
    >>> os.path.getsize(path)
    32044
    """
    with open(path, "wb") as file:
        _write(file, waveform, sample_rate)


def flac_bytes(waveform: npt.ArrayLike, sample_rate: int) -> bytes:
    """Returns a mono waveform as the bytes of a 16-bit FLAC file.

    Args:
        waveform: Samples `[samples]` in [-1, 1]; values outside are clipped.
        sample_rate: Sample rate in Hz.

    Returns:
        The content of the file; empty bytes for a waveform without samples, which FLAC cannot
        store.

    Example:

    >>> flac_bytes(np.zeros(160), 16_000)[:4]
    b'fLaC'
    """
    samples = _to_int16(waveform)
    if not len(samples):
        return b""
    stream = io.BytesIO()
    soundfile.write(stream, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def _write(file: Any, waveform: npt.ArrayLike, sample_rate: int) -> None:
    samples = _to_int16(waveform)
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, sample_rate, len(samples), "NONE", ""))
        writer.writeframes(samples.astype("<i2").tobytes())


def _to_int16(waveform: npt.ArrayLike) -> Array:
    # Scaled here, since libsndfile scales floats by 32767, which changes samples.
    scaled = np.rint(np.asarray(waveform) * 32768.0)
    samples: Array = np.clip(scaled, -32768, 32767).astype(np.int16)
    return samples

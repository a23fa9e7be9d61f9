"""One way from a file, its bytes or an array to mono float32 samples at one rate.

The same samples come out of the same sound, whichever way it comes in. Decoding and resampling run
outside Python's lock, so a pool of threads can call these functions.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soxr

from ast_keras.audio.decoding import AudioInfo, Source, read_frames, read_info, source_name
from ast_keras.errors import (
    AudioChannelError,
    AudioDecodeError,
    AudioEmptyError,
    AudioError,
    AudioNotFoundError,
    AudioSampleError,
    AudioWarning,
)

__all__ = [
    "AudioChannelError",
    "AudioDecodeError",
    "AudioEmptyError",
    "AudioError",
    "AudioInfo",
    "AudioNotFoundError",
    "AudioSampleError",
    "AudioWarning",
    "audio_from_array",
    "audio_info",
    "load_audio",
]

Channel = int | Literal["mix"]
Samples = npt.NDArray[np.float32]

# Length of one spectrogram frame. Shorter audio gives no frame and is reported.
FRAME_SECONDS = 0.025
# A peak above this is reported. Lossy codecs and resampling overshoot full scale (1.0), clipped
# recordings by up to 1.44.
LOUD_PEAK = 2.0
# A peak above this (18 dB over full scale) is refused: the floats hold unscaled integers.
INTEGER_PEAK = 8.0
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 1_000_000
_FULL_SCALE = {"int8": 128.0, "int16": 32_768.0, "int32": 2_147_483_648.0, "uint8": 128.0}


def load_audio(
    source: Source,
    sample_rate: int = 16_000,
    *,
    channel: Channel = "mix",
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> Samples:
    """Reads a sound file as mono float32 samples at one rate.

    It reads what libsndfile reads: WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF, AU and others, of any
    rate and number of channels; what a file is called does not matter, except that without a header
    `.gsm`, `.au` and `.vox` are read as telephone speech at 8 kHz, with a warning.

    Full scale is 1. Lossy codecs and resampling may overshoot it a little, and nothing is clipped.
    n samples at one rate become `floor(n * sample_rate / rate + 0.5)` at another. A span is cut
    out before it is resampled, as if there were silence around it; consecutive spans neither
    overlap nor leave a gap, and one that reaches past the end gives what is there.

    Args:
        source: Path, or the bytes of a whole file. Bytes are never taken for a path.
        sample_rate: Rate of the result, Hz.
        channel: `"mix"` for the mean of all channels, or the number of one, from 0.
        start_seconds: Where to start. Ogg and MP3 are decoded up to there, others skip to it.
        duration_seconds: How much to read; None reads to the end.

    Output:
        `[samples]`, float32, a new array.

    Raises:
        AudioNotFoundError: If there is no such file (it is also a `FileNotFoundError`).
        AudioDecodeError: If it cannot be read, or is no sound that libsndfile knows.
        AudioEmptyError: If there are no samples in it, or in the span.
        AudioChannelError: If it has no such channel.
        AudioSampleError: If it holds NaN, infinity, or integers kept as floats.
        AudioError: The base of all these, and raised for arguments outside their range.

    Warns:
        AudioWarning: If a file is cut short (what is there is returned), has no header, is shorter
            than the 25 ms of one spectrogram frame, or is twice as loud as full scale.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros((44_100, 2)), 44_100, format="FLAC")
        >>> load_audio(file.getvalue()).shape
        (16000,)
        >>> load_audio(file.getvalue(), start_seconds=0.5, duration_seconds=0.25).shape
        (4000,)
    """
    notes: list[str] = []
    name = source_name(source)
    check_rate("sample_rate", sample_rate, name)
    frames, rate = read_frames(source, start_seconds, duration_seconds, notes)
    check_rate("rate in the header", rate, name)
    samples = _resample(mono_samples(frames, channel, name, notes), rate, sample_rate, name, notes)
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return samples


def audio_from_array(
    array: npt.ArrayLike,
    source_rate: int,
    sample_rate: int = 16_000,
    *,
    channel: Channel = "mix",
    channel_axis: int | None = None,
) -> Samples:
    """Turns an array of samples into mono float32 samples at one rate.

    Integers are scaled to [-1, 1): int16 by 1/32768, int32 by 1/2**31, int8 by 1/128, and uint8,
    whose silence is 128, to the same. Floats must be on that scale already.

    Args:
        array: `[samples]`, `[samples, channels]` or `[channels, samples]`. An axis of length 1 or 2
            is taken for the channels; where there is none, or two, say which it is.
        source_rate: Rate of the array, Hz.
        sample_rate: Rate of the result, Hz.
        channel: `"mix"` for the mean of all channels, or the number of one, from 0.
        channel_axis: The axis that holds the channels, if the shape does not tell.

    Output:
        `[samples]`, float32, a new array of `floor(n * sample_rate / source_rate + 0.5)`.

    Raises:
        AudioEmptyError: If there are no samples.
        AudioChannelError: If the shape is unclear, or there is no such channel.
        AudioSampleError: If it is of another type, holds NaN or infinity, or integers kept as
            floats.
        AudioError: The base of all these, and raised for rates outside their range.

    Warns:
        AudioWarning: If it is shorter than 25 ms, or twice as loud as full scale.

    Example:
        >>> audio_from_array(np.full((2, 48_000), 16_384, np.int16), source_rate=48_000).shape
        (16000,)
    """
    notes: list[str] = []
    name = source_name(None)
    check_rate("source_rate", source_rate, name)
    check_rate("sample_rate", sample_rate, name)
    frames = _frames_first(np.asarray(array), channel_axis, name)
    samples = _resample(
        mono_samples(frames, channel, name, notes), source_rate, sample_rate, name, notes
    )
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return samples


def audio_info(source: Source) -> AudioInfo:
    """Reads the rate, channels, length and codec of a sound file from its header.

    Args:
        source: Path, or the bytes of a whole file.

    Raises:
        AudioNotFoundError: If there is no such file (it is also a `FileNotFoundError`).
        AudioDecodeError: If it cannot be read, or is no sound that libsndfile knows.
        AudioEmptyError: If it has no bytes.

    Warns:
        AudioWarning: If it has no header, and its name tells what it is.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(8_000), 16_000, format="WAV")
        >>> audio_info(file.getvalue())
        AudioInfo(sample_rate=16000, channels=1, frames=8000, container='WAV', codec='PCM_16')
        >>> audio_info(file.getvalue()).duration_seconds
        0.5
    """
    notes: list[str] = []
    info = read_info(source, notes)
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return info


def check_rate(what: str, rate: object, name: str) -> None:
    """Raises AudioError unless a rate is a whole number of Hz that sounds have."""
    is_whole = isinstance(rate, (int, np.integer)) and not isinstance(rate, bool)
    if not (is_whole and _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ):  # type: ignore[operator]
        raise AudioError(
            f"The {what} must be a whole number of Hz from {_MIN_RATE_HZ} to {_MAX_RATE_HZ}, not "
            f"of kHz. Received: {rate!r}, source={name}"
        )


def _frames_first(array: npt.NDArray[Any], channel_axis: int | None, name: str) -> npt.NDArray[Any]:
    """Returns the array as `[frames, channels]`."""
    shape = array.shape
    if array.size == 0 and array.ndim in (1, 2):
        raise AudioEmptyError(f"The array must hold samples. Received: {shape=}, source={name}")
    if array.ndim == 1 and channel_axis is None:
        return array[:, np.newaxis]
    small = [axis for axis, size in enumerate(shape) if size <= 2]
    if array.ndim == 2 and channel_axis in (-2, -1, 0, 1):
        return np.moveaxis(array, channel_axis, 1)
    if array.ndim == 2 and channel_axis is None and len(small) == 1:
        return np.moveaxis(array, small[0], 1)
    raise AudioChannelError(
        "The array must be one clip, [samples], or with one axis of 1 or 2 channels; pass "
        "channel_axis=0 or 1 for another two-dimensional shape. "
        f"Received: {shape=}, {channel_axis=}, source={name}"
    )


def mono_samples(
    frames: npt.NDArray[Any], channel: Channel, name: str, notes: list[str]
) -> Samples:
    """Returns one channel of `[frames, channels]`, or their mean, as checked float32 `[frames]`.

    What a caller should be warned of is added to `notes`.
    """
    channels = frames.shape[1]
    if channel == "mix":
        samples = _to_float32(frames[:, 0], name)
        for index in range(1, channels):
            samples += _to_float32(frames[:, index], name)
        if channels > 1:
            samples /= np.float32(channels)
    elif isinstance(channel, (int, np.integer)) and 0 <= channel < channels:
        samples = _to_float32(frames[:, channel], name)
    else:
        raise AudioChannelError(
            f'The channel must be "mix" or one of 0 to {channels - 1}. '
            f"Received: {channel=}, source={name}"
        )
    _check_peak(max(samples.max(), -samples.min()), name, notes)
    return samples


def _to_float32(column: npt.NDArray[Any], name: str) -> Samples:
    """Returns a new float32 array of full scale 1."""
    full_scale = _FULL_SCALE.get(column.dtype.name)
    if full_scale is None and column.dtype.name not in ("float16", "float32", "float64"):
        raise AudioSampleError(
            "The samples must be of type float16, float32, float64, int8, int16, int32 or uint8: "
            f"cast them. Received: dtype={column.dtype}, source={name}"
        )
    with np.errstate(over="ignore"):  # reported as infinite by _check_peak
        samples = column.astype(np.float32)
    if column.dtype == np.uint8:
        samples -= 128
    if full_scale is not None:
        samples *= np.float32(1 / full_scale)
    return samples


def _check_peak(peak: float, name: str, notes: list[str]) -> None:
    if not np.isfinite(peak):  # max and min pass NaN on
        raise AudioSampleError(
            "The samples must be finite: replace NaN and infinity, or leave the sound out. "
            f"Received: source={name}"
        )
    if peak > INTEGER_PEAK:
        raise AudioSampleError(
            "Samples given as floats must be on the scale of [-1, 1]: divide those of 16 bits by "
            f"32768. Received: a peak of {peak:g}, source={name}"
        )
    if peak > LOUD_PEAK:
        notes.append(
            "The sound is louder than full scale, 1: divide it by its peak if it should not be. "
            f"Received: a peak of {peak:g}, source={name}"
        )


def _resample(
    samples: Samples, source_rate: int, sample_rate: int, name: str, notes: list[str]
) -> Samples:
    # HQ errs by -133 dB at 1 kHz, below the noise of 16 bits (-98 dB); VHQ by -152 dB, for 1.5
    # times the time.
    if source_rate != sample_rate:
        samples = soxr.resample(samples, source_rate, sample_rate, quality="HQ")
    check_length(len(samples), sample_rate, name, notes)
    return samples


def check_length(num_samples: int, sample_rate: int, name: str, notes: list[str]) -> None:
    """Raises AudioEmptyError if there is no sample, and notes less than a spectrogram frame."""
    if not num_samples:
        raise AudioEmptyError(
            f"The sound is too short to have a sample at {sample_rate} Hz: leave it out. "
            f"Received: source={name}"
        )
    if num_samples < FRAME_SECONDS * sample_rate:
        notes.append(
            "The sound is shorter than 25 ms, which gives no complete spectrogram frame: pad it "
            f"or leave it out. Received: {1e3 * num_samples / sample_rate:.3g} ms, source={name}"
        )

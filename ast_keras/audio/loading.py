"""Loading of audio files, encoded bytes and arrays as mono float32 samples at one sample rate.

A file, its bytes and an array of the same audio give the same samples. Decoding and resampling
release the global interpreter lock, so these functions run in parallel in a pool of threads.

Functions that take `notes` append to it the messages that the public function then emits as
`AudioWarning`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from ast_keras.audio.channels import Channel as Channel
from ast_keras.audio.channels import channel_defect, note_defect
from ast_keras.audio.decoding import AudioInfo, read_frames, read_info
from ast_keras.audio.opening import Source, source_name
from ast_keras.errors import (
    AudioChannelError,
    AudioEmptyError,
    AudioError,
    AudioSampleError,
    AudioWarning,
)

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
    """Loads an audio file as mono float32 samples at one sample rate.

    All formats of libsndfile are supported, with any sample rate and number of channels: WAV, FLAC,
    Ogg Vorbis, Opus, MP3, AIFF, AU and others. Where the `ffmpeg` command is installed, it decodes
    the rest, such as AAC, WMA, WebM and the first sound of a video. The format is read from the
    header, not from the file name. Files without a header are an exception: those named `.gsm`,
    `.au` and `.vox` are decoded as telephone speech at 8 kHz, with a warning.

    Full scale is 1. Lossy codecs and resampling may overshoot it slightly; samples are not clipped.
    Resampling turns n samples into `floor(n * sample_rate / file_rate + 0.5)`. A span is cut out
    before resampling, as if silence surrounded it. Consecutive spans neither overlap nor leave a
    gap. A span that extends past the end of the file returns the samples up to the end.

    Args:
        source: Path of a file, or the bytes of a whole file. Bytes are never read as a path.
        sample_rate: Sample rate of the result in Hz.
        channel: `"mix"` for the mean of all channels, or the index of one channel, counted from 0.
        start_seconds: Start of the span in seconds. Ogg, MP3 and what ffmpeg reads are decoded
            from their beginning, other formats seek.
        duration_seconds: Length of the span in seconds. None reads to the end of the file.

    Returns:
        A new float32 array `[samples]`.

    Raises:
        AudioNotFoundError: If the file does not exist. It is also a `FileNotFoundError`.
        AudioDecodeError: If the file cannot be read, or its format is not supported.
        AudioEmptyError: If the file or the span contains no samples.
        AudioChannelError: If the requested channel does not exist.
        AudioSampleError: If samples are NaN or infinite, or are unscaled integers stored as floats.
        AudioError: If an argument is out of its range. Base class of the errors above.

    Warns:
        AudioWarning: If the file is damaged or truncated (what can be decoded is returned, with
            silence where more follows in FLAC and MP3), its header states a wrong length, it has no
            header, one channel is silent or inverts another, the audio is shorter than one
            spectrogram frame (25 ms), or peaks above twice full scale.

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
    samples = convert_frames(frames, rate, sample_rate, channel, name, notes)
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
    """Converts an array of samples to mono float32 samples at one sample rate.

    Integers are scaled to [-1, 1): int16 by 1/32768, int32 by 1/2**31 and int8 by 1/128. For uint8,
    128 is subtracted first. Floating-point samples must already lie in [-1, 1].

    Args:
        array: Samples `[samples]`, `[samples, channels]` or `[channels, samples]`. The dtype is an
            integer type listed above, float16, float32 or float64.
        source_rate: Sample rate of `array` in Hz.
        sample_rate: Sample rate of the result in Hz.
        channel: `"mix"` for the mean of all channels, or the index of one channel, counted from 0.
        channel_axis: Axis of `array` that holds the channels. None selects the axis of length 1 or
            2; an array with no such axis, or with two of them, needs an explicit value.

    Returns:
        A new float32 array of `floor(n * sample_rate / source_rate + 0.5)` samples.

    Raises:
        AudioEmptyError: If the array contains no samples.
        AudioChannelError: If the channel axis is ambiguous, or the channel does not exist.
        AudioSampleError: If the dtype is not supported, or samples are NaN, infinite or unscaled
            integers stored as floats.
        AudioError: If a sample rate is out of its range. Base class of the errors above.

    Warns:
        AudioWarning: If one channel is silent or inverts another, the audio is shorter than 25 ms,
            or peaks above twice full scale.

    Example:

    >>> audio_from_array(np.full((2, 48_000), 16_384, np.int16), source_rate=48_000).shape
    (16000,)
    """
    notes: list[str] = []
    name = source_name(None)
    check_rate("source_rate", source_rate, name)
    check_rate("sample_rate", sample_rate, name)
    frames = _frames_first(np.asarray(array), channel_axis, name)
    samples = convert_frames(frames, source_rate, sample_rate, channel, name, notes)
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return samples


def audio_info(source: Source) -> AudioInfo:
    """Reads the sample rate, channels, length and codec of an audio file from its header.

    Args:
        source: Path of a file, or the bytes of a whole file.

    Returns:
        An `AudioInfo`.

    Raises:
        AudioNotFoundError: If the file does not exist. It is also a `FileNotFoundError`.
        AudioDecodeError: If the file cannot be read, or its format is not supported.
        AudioEmptyError: If the file is empty.

    Warns:
        AudioWarning: If the file has no header and its format was derived from its name.

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
    """Raises AudioError unless `rate` is a whole number of Hz within the supported range."""
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
        "The array must be [samples], or have two axes of which exactly one holds 1 or 2 "
        "channels; pass channel_axis=0 or 1 for other two-dimensional shapes. "
        f"Received: {shape=}, {channel_axis=}, source={name}"
    )


def convert_frames(
    frames: npt.NDArray[Any],
    source_rate: int,
    sample_rate: int,
    channel: Channel,
    name: str,
    notes: list[str],
) -> Samples:
    """Returns decoded frames as mono float32 samples at one sample rate.

    Args:
        frames: Decoded samples `[frames, channels]`, integers or floats.
        source_rate: Sample rate of `frames` in Hz.
        sample_rate: Sample rate of the result in Hz.
        channel: `"mix"` for the mean of all channels, or the index of one channel, counted from 0.
        name: Name of the source for error messages.
        notes: List to which warnings about the samples are appended.

    Raises:
        AudioError: As `load_audio`, except for the errors of decoding.
    """
    samples = mono_samples(frames, channel, name, notes)
    samples = _resample(samples, source_rate, sample_rate, name, notes)
    if channel == "mix":
        note_defect(channel_defect(frames), name, notes)
    return samples


def mono_samples(
    frames: npt.NDArray[Any], channel: Channel, name: str, notes: list[str]
) -> Samples:
    """Returns one channel of `[frames, channels]`, or the mean of all, as float32 `[frames]`.

    Args:
        frames: Decoded samples `[frames, channels]`, integers or floats.
        channel: `"mix"` for the mean of all channels, or the index of one channel, counted from 0.
        name: Name of the source for error messages.
        notes: List to which warnings about the samples are appended.

    Raises:
        AudioChannelError: If the channel does not exist.
        AudioSampleError: If samples are NaN, infinite or unscaled integers stored as floats.
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
    """Returns a float32 copy of one channel, scaled so that full scale is 1."""
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
    if not np.isfinite(peak):  # NaN if one sample is NaN, because max and min propagate it
        raise AudioSampleError(
            "The samples must be finite: replace NaN and infinity, or exclude the file. "
            f"Received: source={name}"
        )
    if peak > INTEGER_PEAK:
        raise AudioSampleError(
            "Floating-point samples must lie in [-1, 1]: divide 16-bit values by 32768. "
            f"Received: a peak of {peak:g}, source={name}"
        )
    if peak > LOUD_PEAK:
        notes.append(
            "The audio is louder than full scale (1.0): divide it by its peak unless intended. "
            f"Received: a peak of {peak:g}, source={name}"
        )


def _resample(
    samples: Samples, source_rate: int, sample_rate: int, name: str, notes: list[str]
) -> Samples:
    # The error of HQ at 1 kHz is -133 dB, below the noise of 16 bits (-98 dB). VHQ reaches -152 dB
    # in 1.5 times the time.
    if source_rate != sample_rate:
        samples = soxr.resample(samples, source_rate, sample_rate, quality="HQ")
    check_length(len(samples), sample_rate, name, notes)
    return samples


def check_length(num_samples: int, sample_rate: int, name: str, notes: list[str]) -> None:
    """Raises AudioEmptyError for audio without samples; notes audio shorter than one frame.

    Args:
        num_samples: Number of samples at `sample_rate`.
        sample_rate: Sample rate in Hz.
        name: Name of the source for error messages.
        notes: List to which a warning about short audio is appended.
    """
    if not num_samples:
        raise AudioEmptyError(
            f"The audio is too short for one sample at {sample_rate} Hz: exclude it. "
            f"Received: source={name}"
        )
    if num_samples < FRAME_SECONDS * sample_rate:
        notes.append(
            "The audio is shorter than 25 ms, which gives no complete spectrogram frame: pad or "
            f"exclude it. Received: {1e3 * num_samples / sample_rate:.3g} ms, source={name}"
        )

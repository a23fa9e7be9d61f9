"""Decoding of audio files and encoded bytes, at the sample rate and channels of the file.

All code that depends on a container or codec is in this module; `ast_keras.audio.loading` is the
public interface. libsndfile decodes all formats. Its behaviour below was observed in version 1.2.2:

- 16-bit PCM is read as integers and scaled by NumPy. The result equals that of libsndfile's own
  scaling and of tensorflow-io to the bit, and takes less time (`benchmarks/decoding.py`).
- A seek in Ogg can be off by 128 samples, and a seek in MP3 changes the last bits of later samples.
  Both formats are therefore decoded from their beginning.
- libsndfile reports no error for a truncated file. Truncation is detected here, from the number of
  decoded frames and from libsndfile's log.

Functions that take `notes` append to it the warnings that a caller should emit.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from ast_keras.errors import AudioDecodeError, AudioEmptyError, AudioError, AudioNotFoundError

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

_BLOCK_FRAMES = 2**20
# A header that states more frames (12 hours at 48 kHz) is not trusted.
_WHOLE_READ_FRAMES = 2**31
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value for a FLAC stream without a length
_MP3_PADDING_FRAMES = 2 * 1152  # included in libsndfile's count if the encoder recorded it
_MP3_TAG_BYTES = 4096  # upper bound for ID3v1, APE and other tags at the end of a file
# Programs that write to a pipe do not know the length, and put this value or a larger one.
_STREAMED_BYTES = 0x7FFF0000
_CHUNK_SIZE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class AudioInfo(NamedTuple):
    """Properties of an audio file as stated by its header.

    Attributes:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        frames: Number of samples per channel. None if the header does not state it, as in a FLAC
            stream written to a pipe. For MP3 an estimate that includes padding; without a length
            header it is derived from the bit rate.
        container: libsndfile's name of the container, such as "WAV".
        codec: libsndfile's name of the codec, such as "PCM_16".
    """

    sample_rate: int
    channels: int
    frames: int | None
    container: str
    codec: str

    @property
    def duration_seconds(self) -> float | None:
        """Length in seconds; None if `frames` is None."""
        return None if self.frames is None else self.frames / self.sample_rate


def source_name(source: object) -> str:
    """Returns the name of a source in messages: its quoted path, `<bytes>` or `<array>`."""
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fsdecode(source))
    return "<bytes>" if isinstance(source, (bytes, bytearray, memoryview)) else "<array>"


def read_info(source: Source, notes: list[str]) -> AudioInfo:
    """Returns the properties that the header of a file states, and appends warnings to `notes`."""
    file, _ = _open(source)
    with file:
        _note_headerless(file, source, notes)
        frames = None if file.frames == _UNKNOWN_FRAMES else file.frames
        return AudioInfo(file.samplerate, file.channels, frames, file.format, file.subtype)


def read_frames(
    source: Source, start_seconds: float, duration_seconds: float | None, notes: list[str]
) -> tuple[npt.NDArray[Any], int]:
    """Decodes a span of an audio file.

    Args:
        source: Path of a file, or the bytes of a whole file.
        start_seconds: Start of the span in seconds.
        duration_seconds: Length of the span in seconds. None reads to the end of the file.
        notes: List to which warnings are appended, one sentence each.

    Returns:
        A tuple of the samples `[frames, channels]` and the sample rate in Hz. Files of 16-bit PCM
        give unscaled int16, all others float32.

    Raises:
        AudioError: If the file cannot be opened or decoded, or the span contains no samples.
    """
    name = source_name(source)
    _check_span(start_seconds, duration_seconds, name)
    file, stream = _open(source)
    with file:
        _note_headerless(file, source, notes)
        rate, known = file.samplerate, file.frames
        first = round(start_seconds * rate)
        last = known
        if duration_seconds is not None:
            last = min(known, round((start_seconds + duration_seconds) * rate))
        if first >= last:
            raise AudioEmptyError(
                "There are no samples in the requested span: check the file, start_seconds and "
                f"duration_seconds. Received: source={name}, of {known / rate:g} s"
            )
        try:
            frames = _read(file, source, first, last - first)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise _undecodable(name, error) from error
        if not len(frames):
            raise _undecodable(name, "it contains no valid audio")
        note = _truncation(file, last - first, len(frames))
        if not note and stream is not None and file.format == "MP3" and last == known:
            note = _undecoded_rest(stream)
        if note:
            notes.append(f"{note}. Received: source={name}")
        return frames, rate


def read_blocks(
    path: str | os.PathLike[str], block_seconds: float, notes: list[str]
) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Decodes an audio file block by block.

    Every format is decoded from start to end without a seek, so the samples equal those of
    `read_frames`.

    Args:
        path: Path of the file.
        block_seconds: Length of a block in seconds.
        notes: List to which warnings are appended. It is complete after the last block.

    Yields:
        Tuples of samples `[frames, channels]` (unscaled int16 or float32) and sample rate in Hz.

    Raises:
        AudioError: If the file cannot be opened or contains no samples.
    """
    name = source_name(path)
    file = _open_path(path)
    with file:
        _note_headerless(file, path, notes)
        rate = file.samplerate
        count = 0
        for block in _iter_blocks(file, max(1, round(block_seconds * rate))):
            count += len(block)
            if len(block):
                yield block, rate
        if not count:
            if file.frames == 0:
                raise AudioEmptyError(f"The file contains no samples. Received: source={name}")
            raise _undecodable(name, "it contains no valid audio")
        note = _truncation(file, file.frames, count)
        if note:
            notes.append(f"{note}. Received: source={name}")


def _iter_blocks(file: soundfile.SoundFile, size: int) -> Iterator[npt.NDArray[Any]]:
    """Yields blocks of up to `size` frames until the end of the file or the first damage."""
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    is_last = False
    while not is_last:
        block = file.read(size, "int16", always_2d=True) if is_pcm_16 else _read_valid(file, size)
        is_last = len(block) < size
        yield block


def _read_valid(file: soundfile.SoundFile, size: int) -> npt.NDArray[np.float32]:
    """Returns the next `size` frames, or those before the point at which decoding fails."""
    block: npt.NDArray[np.float32] = np.full((size, file.channels), np.nan, np.float32)
    try:
        block = file.read(out=block)
    except soundfile.LibsndfileError:  # it does not state how many frames were decoded
        block = block[~np.isnan(block[:, 0])]
    return block


def _check_span(start_seconds: float, duration_seconds: float | None, name: str) -> None:
    duration = 1.0 if duration_seconds is None else duration_seconds
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        rule = f"start_seconds must be 0 or more. Received: start_seconds={start_seconds}"
    elif not (math.isfinite(duration) and duration > 0):
        rule = f"duration_seconds must be positive, or None for all. Received: {duration_seconds=}"
    else:
        return
    raise AudioError(f"{rule}, source={name}")


def _open_path(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(os.fsdecode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix is .raw
        why = "it has no header" if isinstance(error, TypeError) else error
        raise _open_error(path, why) from error


def _open(source: Source) -> tuple[soundfile.SoundFile, io.BytesIO | None]:
    """Returns the opened file and the stream of its bytes; the stream is None for a path."""
    stream = None
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream = io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise AudioError(
            "The source must be a path or the bytes of a file: use audio_from_array for arrays, "
            f"and file.read() for an open file. Received: source of type {type(source).__name__}"
        )
    try:
        file = soundfile.SoundFile(stream or os.fsdecode(source))  # type: ignore[arg-type]
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix is .raw
        why = "it has no header" if isinstance(error, TypeError) else error
        raise _open_error(source, why) from error
    if file.format == "MP3" and stream is None:  # read as bytes, for _undecoded_rest
        file.close()
        with open(source, "rb") as binary:  # type: ignore[arg-type]
            return _open(binary.read())
    return file, stream


def _open_error(source: Source, why: object) -> AudioError:
    """Returns the error for a source that libsndfile could not open, with the likely cause."""
    name = source_name(source)
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                size = len(file.read(1))
        except FileNotFoundError:
            fix = "read its bytes with tf.io.gfile and pass them" if "://" in name else "check it"
            return AudioNotFoundError(f"No file at this path: {fix}. Received: source={name}")
        except OSError as failure:
            return _undecodable(name, failure.strerror, "give the path of a readable file")
    else:
        size = len(source)
        if 0 < size < 4096 and os.path.exists(bytes(source).replace(b"\0", b"?")):
            return _undecodable(name, "the bytes are a path", "pass the path as str")
    if not size:
        return AudioEmptyError(f"The file is empty: fetch it again. Received: source={name}")
    return _undecodable(name, why)


def _undecodable(name: str, why: object, fix: str | None = None) -> AudioDecodeError:
    if isinstance(why, soundfile.LibsndfileError):
        why = why.error_string
    fix = fix or "convert it to WAV or FLAC, or exclude it"
    reason = str(why).strip().rstrip(".") or type(why).__name__
    return AudioDecodeError(
        f"The audio cannot be decoded ({reason}): {fix}. Received: source={name}"
    )


def _note_headerless(file: soundfile.SoundFile, source: Source, notes: list[str]) -> None:
    if file.format == "RAW":
        notes.append(
            f"The file has no header: read as {file.subtype} at {file.samplerate} Hz because of "
            "its suffix; convert it to WAV if this is wrong, or to avoid this warning. "
            f"Received: source={source_name(source)}"
        )


def _read(file: soundfile.SoundFile, source: Source, first: int, count: int) -> npt.NDArray[Any]:
    """Returns up to `count` frames from frame `first`, equal to that part of a whole read."""
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    dtype = "int16" if is_pcm_16 else "float32"
    frames: npt.NDArray[Any]
    if file.format in ("OGG", "MP3") or not file.seekable():  # no exact seek
        if first + count > _WHOLE_READ_FRAMES:
            raise _undecodable(source_name(source), f"its header states {file.frames} frames")
        frames = file.read(first + count, dtype, always_2d=True)
        return frames[first:]
    if count <= _WHOLE_READ_FRAMES:
        try:
            if first or file.format == "RAW":  # a headerless .au opens at byte 12, not 0
                file.seek(first)
            frames = file.read(count, dtype, always_2d=True)
            return frames
        except (soundfile.LibsndfileError, MemoryError):
            pass
    return _read_damaged(source, first, count)


def _read_damaged(source: Source, first: int, count: int) -> npt.NDArray[np.float32]:
    """Returns up to `count` frames from frame `first`, until decoding fails or the file ends."""
    blocks: list[npt.NDArray[np.float32]] = []
    file, _ = _open(source)
    with file:
        file.seek(first)
        is_last = False
        while not is_last:
            size = min(count, _BLOCK_FRAMES)
            block = _read_valid(file, size)
            blocks.append(block)
            count -= size
            is_last = len(block) < size or count == 0
    return np.concatenate(blocks)


def _truncation(file: soundfile.SoundFile, wanted: int, got: int) -> str | None:
    """Returns a warning if fewer frames or bytes are present than the header states, else None."""
    slack = 0
    if file.format == "MP3":  # without a length header it is estimated, to half a percent
        slack = max(_MP3_PADDING_FRAMES, wanted // 100)
    if got < wanted - slack and file.frames != _UNKNOWN_FRAMES:
        return (
            f"The file ends or is damaged after {got} of {wanted} frames; these are used. "
            "Fetch it again"
        )
    log = file.extra_info
    sizes = _CHUNK_SIZE.search(log)
    if sizes:
        promised, actual = int(sizes[1]), int(sizes[2])
        if actual + 1 < promised < _STREAMED_BYTES:  # odd sizes are rounded
            return f"The file is cut short: only {actual} of {promised} bytes exist; fetch it again"
    if "lacks an end-of-stream bit" in log or "Junk after the last page" in log:
        return "The Ogg stream is cut short or damaged: the valid part is used; fetch it again"
    return None


def _undecoded_rest(stream: io.BytesIO) -> str | None:
    """Returns a warning if the estimated length of an MP3 was too short, else None."""
    size = stream.getbuffer().nbytes
    left = size - stream.tell()
    if left <= _MP3_TAG_BYTES:
        return None
    return (
        f"The MP3 does not state its length, and its last {left} bytes of {size} were not "
        "decoded; re-encode it"
    )

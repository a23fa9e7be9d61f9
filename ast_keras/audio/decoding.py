"""Decoding of audio files and encoded bytes, at the sample rate and channels of the file.

`ast_keras.audio.loading` is the public interface. libsndfile decodes most formats, from files that
`ast_keras.audio.opening` repairs, and ffmpeg the others. The following was observed in libsndfile
1.2.2:

- 16-bit PCM is read as integers and scaled by NumPy. The result equals that of libsndfile's own
  scaling and of tensorflow-io to the bit, and takes less time (`benchmarks/decoding.py`).
- A seek in Ogg can be off by 128 samples, and a seek in MP3 changes the last bits of later samples.
  Both formats are therefore decoded from their beginning.
- libsndfile reports no error for a truncated file. Truncation is detected here, from the number of
  decoded frames and from libsndfile's log.

Functions that take `notes` append to it the warnings that a caller should emit.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from ast_keras.audio.damage import silence_bursts, valid_blocks
from ast_keras.audio.ffmpeg import FfmpegFile
from ast_keras.audio.joined_streams import JoinedStreams
from ast_keras.audio.opening import OpenedFile, Source, open_sound, source_name, undecodable
from ast_keras.errors import AudioEmptyError, AudioError

_BLOCK_FRAMES = 2**20
_NO_AUDIO = "it contains no valid audio"
# A header that states more frames (12 hours at 48 kHz) is not trusted.
_WHOLE_READ_FRAMES = 2**31
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's value for a FLAC stream without a length
_MP3_PADDING_FRAMES = 2 * 1152  # included in libsndfile's count if the encoder recorded it
# Programs that write to a pipe do not know the length, and put this value or a larger one.
_STREAMED_BYTES = 0x7FFF0000
_CHUNK_SIZE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_DAMAGED_OGG = re.compile(
    "lacks an end-of-stream bit|Junk after the last page|Corrupted bitstream|reports a hole"
)


class AudioInfo(NamedTuple):
    """Properties of an audio file as stated by its header.

    Attributes:
        sample_rate: Sample rate in Hz.
        channels: Number of channels.
        frames: Number of samples per channel. None if the header does not state it, as in a FLAC
            stream written to a pipe, and for what ffmpeg decodes. For MP3 an estimate that includes
            padding; without a length header it is derived from the bit rate.
        container: libsndfile's name of the container, such as "WAV".
        codec: libsndfile's name of the codec, such as "PCM_16"; "FFMPEG" for what ffmpeg decodes.
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


def read_info(source: Source, notes: list[str]) -> AudioInfo:
    """Returns the properties that the header of a file states, and appends warnings to `notes`."""
    with open_sound(source, notes) as file:
        return _info(file)


def _info(file: OpenedFile) -> AudioInfo:
    frames = None if file.frames == _UNKNOWN_FRAMES else file.frames
    return AudioInfo(file.samplerate, file.channels, frames, file.format, file.subtype)


def intact_info(source: Source) -> AudioInfo | None:
    """Returns the properties of a file, or None if its header or structure shows any damage."""
    notes: list[str] = []
    with open_sound(source, notes) as file:
        if notes or isinstance(file, JoinedStreams) or _truncation(file, 0, 0):
            return None
        return _info(file)


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
    with open_sound(source, notes) as file:
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
        lost: list[int] = []
        try:
            frames = _read(file, first, last, name)
            if frames is None or (file.format == "FLAC" and len(frames) < last - first):
                frames = _read_damaged(source, first, last, lost)
            silence_bursts(file, frames, lost)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise undecodable(name, error) from error
        if not len(frames) and isinstance(file, FfmpegFile):
            raise AudioEmptyError(
                "The file ends before the requested span: check start_seconds. "
                f"Received: {start_seconds=}, source={name}"
            )
        if not len(frames):
            why = "it is cut short or damaged before this span" if first else _NO_AUDIO
            raise undecodable(name, why, "fetch it again" if first else None)
        _note_damage(file, last - first, len(frames), lost, name, notes)
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
    with open_sound(path, notes) as file:
        rate = file.samplerate
        count, lost = 0, list[int]()
        size = max(1, round(block_seconds * rate))
        for block in valid_blocks(file, 0, _UNKNOWN_FRAMES, size, lost):
            count += len(block)
            silence_bursts(file, block, lost)
            if len(block):
                yield block, rate
        if not count:
            if file.frames == 0:
                raise AudioEmptyError(f"The file contains no samples. Received: source={name}")
            raise undecodable(name, _NO_AUDIO)
        _note_damage(file, file.frames, count, lost, name, notes)


def _check_span(start_seconds: float, duration_seconds: float | None, name: str) -> None:
    duration = 1.0 if duration_seconds is None else duration_seconds
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        rule = f"start_seconds must be 0 or more. Received: start_seconds={start_seconds}"
    elif not (math.isfinite(duration) and duration > 0):
        rule = f"duration_seconds must be positive, or None for all. Received: {duration_seconds=}"
    else:
        return
    raise AudioError(f"{rule}, source={name}")


def _read(file: OpenedFile, first: int, last: int, name: str) -> npt.NDArray[Any] | None:
    """Returns frames `first` to `last`, equal to that part of a whole read; None if that fails."""
    skipped = 0
    if _is_sequential(file):
        first, skipped = 0, first
        if last > _WHOLE_READ_FRAMES:
            raise undecodable(name, f"its header states {file.frames} frames")
    if last - first > _WHOLE_READ_FRAMES and not isinstance(file, FfmpegFile):
        return None
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    try:
        if first or file.format == "RAW":  # a headerless .au opens at byte 12, not 0
            file.seek(first)
        frames = file.read(last - first, "int16" if is_pcm_16 else "float32", always_2d=True)
    except (soundfile.LibsndfileError, MemoryError):
        return None
    part: npt.NDArray[Any] = frames[skipped:]
    return part


def _read_damaged(source: Source, first: int, last: int, lost: list[int]) -> npt.NDArray[Any]:
    """Returns what can be decoded of frames `first` to `last`."""
    with open_sound(source, []) as file:
        start = 0 if _is_sequential(file) else first
        if start:
            file.seek(start)
        size = min(last - start, _BLOCK_FRAMES)
        blocks = valid_blocks(file, start, last, size, lost)
        frames: npt.NDArray[Any] = np.concatenate(list(blocks))[first - start :]
        return frames


def _is_sequential(file: OpenedFile) -> bool:
    """Returns whether a file has no exact seek."""
    return file.format in ("OGG", "MP3") or not file.seekable()


def _note_damage(
    file: OpenedFile, wanted: int, got: int, lost: list[int], name: str, notes: list[str]
) -> None:
    if lost:
        notes.append(
            f"The file is damaged: {sum(lost)} of {wanted} frames cannot be decoded and are "
            f"silent. Fetch it again. Received: source={name}"
        )
    note = _truncation(file, wanted, got)
    if note:
        notes.append(f"{note}. Received: source={name}")


def _truncation(file: OpenedFile, wanted: int, got: int) -> str | None:
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
    if _DAMAGED_OGG.search(log):
        return "The Ogg stream is cut short or damaged: the valid part is used; fetch it again"
    return None

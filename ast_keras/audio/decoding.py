"""Encoded sound, a file or its bytes, to the samples in it at their own rate and channels.

Everything that knows a container or a codec is here; `ast_keras.audio` is the public side.
libsndfile decodes all formats. It and its quirks were measured with version 1.2.2:

- 16-bit PCM is read as integers and scaled by NumPy: to the same bits as by libsndfile's own
  scaling and by tensorflow-io, and in less time than either (`benchmarks/decoding.py`).
- A seek in Ogg can land 128 samples off, and one in MP3 changes the last bits of what follows.
- It says nothing about a file that was cut short; the traces that this leaves are read here.
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
_WHOLE_READ_FRAMES = 2**31  # beyond it (12 hours at 48 kHz) a header is not believed
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's length of a FLAC stream that does not state one
_MP3_PADDING_FRAMES = 2 * 1152  # which libsndfile counts, where the encoder told of it
_MP3_TAG_BYTES = 4096  # ID3v1, APE and the like at the end
_STREAMED_BYTES = 0x7FFF0000  # writers to a pipe promise this much or more, not knowing better
_CHUNK_SIZE = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class AudioInfo(NamedTuple):
    """Describes an encoded sound, as its header does.

    `frames` is None where the header does not know it (a FLAC stream written to a pipe), and for
    MP3 an estimate: padding counts, and without a length header it is a guess from the bit rate.
    """

    sample_rate: int
    channels: int
    frames: int | None
    container: str
    codec: str

    @property
    def duration_seconds(self) -> float | None:
        return None if self.frames is None else self.frames / self.sample_rate


def source_name(source: object) -> str:
    """Returns what messages call a source: its path, `<bytes>` or `<array>`."""
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fsdecode(source))
    return "<bytes>" if isinstance(source, (bytes, bytearray, memoryview)) else "<array>"


def read_info(source: Source, notes: list[str]) -> AudioInfo:
    """Returns what the header says, and adds to `notes` what a caller should be warned of."""
    file, _ = _open(source)
    with file:
        _note_headerless(file, source, notes)
        frames = None if file.frames == _UNKNOWN_FRAMES else file.frames
        return AudioInfo(file.samplerate, file.channels, frames, file.format, file.subtype)


def read_frames(
    source: Source, start_seconds: float, duration_seconds: float | None, notes: list[str]
) -> tuple[npt.NDArray[Any], int]:
    """Returns samples `[frames, channels]`, float32 or int16 at full scale, and their rate in Hz.

    What a caller should be warned of is added to `notes`, a sentence each.
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
                "The sound holds no samples in the span asked for: check the file, start_seconds "
                f"and duration_seconds. Received: source={name}, of {known / rate:g} s"
            )
        try:
            frames = _read(file, source, first, last - first)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise _undecodable(name, error) from error
        if not len(frames):
            raise _undecodable(name, "nothing in it decodes")
        note = _cut_short(file, last - first, len(frames))
        if not note and stream is not None and file.format == "MP3" and last == known:
            note = _unread(stream)
        if note:
            notes.append(f"{note}. Received: source={name}")
        return frames, rate


def read_blocks(
    path: str | os.PathLike[str], block_seconds: float, notes: list[str]
) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Yields a file's samples block by block, `[frames, channels]`, and their rate in Hz.

    All formats are read from start to end, so that the samples are those of a whole read. What a
    caller should be warned of is added to `notes`, at the latest when the last block is read.
    """
    name = source_name(path)
    file = _open_path(path)
    with file:
        _note_headerless(file, path, notes)
        rate = file.samplerate
        count = 0
        for block in _decoded(file, max(1, round(block_seconds * rate))):
            count += len(block)
            if len(block):
                yield block, rate
        if not count:
            if file.frames == 0:
                raise AudioEmptyError(f"The sound holds no samples. Received: source={name}")
            raise _undecodable(name, "nothing in it decodes")
        note = _cut_short(file, file.frames, count)
        if note:
            notes.append(f"{note}. Received: source={name}")


def _decoded(file: soundfile.SoundFile, size: int) -> Iterator[npt.NDArray[Any]]:
    """Yields what decodes of a file from where it stands, up to the end or to damage."""
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    is_last = False
    while not is_last:
        block = file.read(size, "int16", always_2d=True) if is_pcm_16 else _salvaged(file, size)
        is_last = len(block) < size
        yield block


def _salvaged(file: soundfile.SoundFile, size: int) -> npt.NDArray[np.float32]:
    """Returns the next frames, those before the point where decoding fails."""
    block: npt.NDArray[np.float32] = np.full((size, file.channels), np.nan, np.float32)
    try:
        block = file.read(out=block)
    except soundfile.LibsndfileError:  # which does not tell how far it came
        block = block[~np.isnan(block[:, 0])]
    return block


def _check_span(start_seconds: float, duration_seconds: float | None, name: str) -> None:
    duration = 1.0 if duration_seconds is None else duration_seconds
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        rule = f"start_seconds must be 0 or more. Received: start_seconds={start_seconds}"
    elif not (math.isfinite(duration) and duration > 0):
        rule = f"duration_seconds must be more than 0, or None for all. Received: {duration=}"
    else:
        return
    raise AudioError(f"{rule}, source={name}")


def _open_path(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(os.fsdecode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the ending is .raw
        why = "it has no header" if isinstance(error, TypeError) else error
        raise _why_unopened(path, why) from error


def _open(source: Source) -> tuple[soundfile.SoundFile, io.BytesIO | None]:
    """Opens a source; the second value is where its bytes come from, None for a path."""
    stream = None
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream = io.BytesIO(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise AudioError(
            "A sound must be a path or the bytes of a file; arrays go to audio_from_array, and of "
            f"an open file pass .read(). Received: source of type {type(source).__name__}"
        )
    try:
        file = soundfile.SoundFile(stream or os.fsdecode(source))  # type: ignore[arg-type]
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the ending is .raw
        why = "it has no header" if isinstance(error, TypeError) else error
        raise _why_unopened(source, why) from error
    if file.format == "MP3" and stream is None:  # read through bytes, so that _unread can tell
        file.close()
        with open(source, "rb") as binary:  # type: ignore[arg-type]
            return _open(binary.read())
    return file, stream


def _why_unopened(source: Source, why: object) -> AudioError:
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
            return _undecodable(name, "they are a path, not a file", "pass the path as str")
    if not size:
        return AudioEmptyError(f"The file has no bytes: fetch it again. Received: source={name}")
    return _undecodable(name, why)


def _undecodable(name: str, why: object, fix: str | None = None) -> AudioDecodeError:
    if isinstance(why, soundfile.LibsndfileError):
        why = why.error_string
    fix = fix or "convert it to WAV or FLAC, or leave it out"
    reason = str(why).strip().rstrip(".") or type(why).__name__
    return AudioDecodeError(
        f"The sound cannot be decoded ({reason}): {fix}. Received: source={name}"
    )


def _note_headerless(file: soundfile.SoundFile, source: Source, notes: list[str]) -> None:
    if file.format == "RAW":
        notes.append(
            f"The file has no header: read as {file.subtype} at {file.samplerate} Hz for its "
            "ending; convert it to WAV if this is wrong, or to be silent. Received: "
            f"source={source_name(source)}"
        )


def _read(file: soundfile.SoundFile, source: Source, first: int, count: int) -> npt.NDArray[Any]:
    """Returns up to `count` frames from frame `first`, the same samples as of a whole read."""
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    dtype = "int16" if is_pcm_16 else "float32"
    frames: npt.NDArray[Any]
    if file.format in ("OGG", "MP3") or not file.seekable():  # no exact seek
        if first + count > _WHOLE_READ_FRAMES:
            raise _undecodable(source_name(source), f"it promises {file.frames} frames")
        frames = file.read(first + count, dtype, always_2d=True)
        return frames[first:]
    if count <= _WHOLE_READ_FRAMES:
        try:
            if first or file.format == "RAW":  # a .au without header opens at byte 12, not 0
                file.seek(first)
            frames = file.read(count, dtype, always_2d=True)
            return frames
        except (soundfile.LibsndfileError, MemoryError):
            pass
    return _salvage(source, first, count)


def _salvage(source: Source, first: int, count: int) -> npt.NDArray[np.float32]:
    """Returns the frames before the point where decoding fails, or where the file ends."""
    blocks: list[npt.NDArray[np.float32]] = []
    file, _ = _open(source)
    with file:
        file.seek(first)
        is_last = False
        while not is_last:
            size = min(count, _BLOCK_FRAMES)
            block = _salvaged(file, size)
            blocks.append(block)
            count -= size
            is_last = len(block) < size or count == 0
    return np.concatenate(blocks)


def _cut_short(file: soundfile.SoundFile, wanted: int, got: int) -> str | None:
    """Returns a sentence if the header or the stream promises more than there is."""
    slack = 0
    if file.format == "MP3":  # without a length header the bit rate gives it, to half a percent
        slack = max(_MP3_PADDING_FRAMES, wanted // 100)
    if got < wanted - slack and file.frames != _UNKNOWN_FRAMES:
        return (
            f"The file ends or is damaged after {got} of {wanted} frames, which are used; "
            "fetch it again"
        )
    log = file.extra_info
    sizes = _CHUNK_SIZE.search(log)
    if sizes:
        promised, actual = int(sizes[1]), int(sizes[2])
        if actual + 1 < promised < _STREAMED_BYTES:  # odd sizes are rounded
            return f"The file is cut short: {actual} of {promised} bytes are there; fetch it again"
    if "lacks an end-of-stream bit" in log or "Junk after the last page" in log:
        return "The Ogg stream is cut short or damaged: what is there is used; fetch it again"
    return None


def _unread(stream: io.BytesIO) -> str | None:
    """Returns a sentence if a good part of an MP3 was left: its length was guessed too short."""
    size = stream.getbuffer().nbytes
    left = size - stream.tell()
    if left <= _MP3_TAG_BYTES:
        return None
    return (
        f"The MP3 does not say how long it is, and its last {left} bytes of {size} were not "
        "decoded; re-encode it"
    )

"""Opening of audio files and encoded bytes with libsndfile, repaired where they are damaged.

| file | what libsndfile receives |
|---|---|
| MP3 with damaged frames, junk or a wrong length | the valid frames (`mp3_frames`) |
| Ogg of several streams, one after the other | each stream (`ogg_chains`), joined |
| WAV, AIFF, AU, CAF whose header states too little audio | a corrected header (`pcm_headers`) |
| all others | the file itself |

What libsndfile cannot read goes to `ffmpeg`.

Functions that take `notes` append to it the warnings that a caller should emit.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO, TypeAlias

import soundfile

from ast_keras.audio import mp3_frames, ogg_chains, pcm_headers
from ast_keras.audio.ffmpeg import FfmpegFile, ffmpeg_format
from ast_keras.audio.joined_streams import JoinedStreams
from ast_keras.audio.mpg123_messages import Mp3File
from ast_keras.audio.spliced_file import Part, SplicedFile
from ast_keras.errors import AudioDecodeError, AudioEmptyError, AudioError, AudioNotFoundError

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview
OpenedFile: TypeAlias = soundfile.SoundFile | JoinedStreams | FfmpegFile

_BUFFER_BYTES = 2**16
# libsndfile's log of a file in which something follows the audio that is no chunk, or whose size
# of the audio is 0.
_ODD_LOG = re.compile(r"Unknown chunk marker|Have 0 marker|(?:SSND|data) : 0\b")


def source_name(source: object) -> str:
    """Returns the name of a source in messages: its quoted path, `<bytes>` or `<array>`."""
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fsdecode(source))
    return "<bytes>" if isinstance(source, (bytes, bytearray, memoryview)) else "<array>"


@contextlib.contextmanager
def open_sound(source: Source, notes: list[str]) -> Iterator[OpenedFile]:
    """Opens an audio file for reading; closes it at the end of the context.

    Args:
        source: Path of a file, or the bytes of a whole file.
        notes: List to which warnings are appended, one sentence each.

    Yields:
        The opened file, repaired if necessary.

    Raises:
        AudioError: If it cannot be opened.
    """
    is_bytes = isinstance(source, (bytes, bytearray, memoryview))
    if not (is_bytes or isinstance(source, (str, os.PathLike))):
        raise AudioError(
            "The source must be a path or the bytes of a file: use audio_from_array for arrays, "
            f"and file.read() for an open file. Received: source of type {type(source).__name__}"
        )
    with contextlib.ExitStack() as stack:
        file = _open(source, stack, notes)
        stack.callback(file.close)
        if file.format == "RAW":
            notes.append(
                f"The file has no header: read as {file.subtype} at {file.samplerate} Hz because "
                "of its suffix; convert it to WAV if this is wrong, or to avoid this warning. "
                f"Received: source={source_name(source)}"
            )
        yield file


def _open(source: Source, stack: contextlib.ExitStack, notes: list[str]) -> OpenedFile:
    head = _first_bytes(source)
    file: OpenedFile | None = None
    is_mp3 = head[:3] == b"ID3" or (head[:1] == b"\xff" and mp3_frames.is_frame(head))
    is_named_mp3 = source_name(source).lower().endswith(".mp3'")
    if head and (is_mp3 or is_named_mp3):
        file = _open_mp3(source, stack, notes)
    elif head == b"OggS":
        file = _open_chain(source, stack, notes)
    if file is not None:
        return file
    try:
        # By its name libsndfile takes any file for an MP3, and libmpg123 prints what it finds.
        file = _sound_file(_binary(source, stack) if head and is_named_mp3 else source)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix is .raw
        why = "it has no header" if isinstance(error, TypeError) else error
        if head:
            file = _open_with_true_header(source, stack, notes)
            format = ffmpeg_format(source)
            # Neither a film is searched for Ogg pages, nor a WAV file, which may contain some.
            if format in (None, "Ogg") and head != b"RIFF":
                file = file or _open_chain(source, stack, notes)
            if file is None and format is not None:
                file = FfmpegFile(source, format, source_name(source), notes)
            file = file or _open_mp3(source, stack, notes, with_junk=True)
        if file is None:
            raise _open_error(source, why) from error
        return file
    if file.format == "RAW":  # by its suffix; its content may be of another format
        format = ffmpeg_format(source)
        if format is not None:
            file.close()
            return FfmpegFile(source, format, source_name(source), notes)
    if file.frames == 0 or file.format in ("AU", "CAF") or _ODD_LOG.search(file.extra_info):
        repaired = _open_with_true_header(source, stack, notes)
        if repaired is not None:
            file.close()
            return repaired
    return file


def _open_mp3(
    source: Source, stack: contextlib.ExitStack, notes: list[str], with_junk: bool = False
) -> OpenedFile | None:
    """Returns an MP3 file, without its damage, or None if it is no MP3.

    With `with_junk`, most of the file must be frames: a film may contain some.
    """
    binary = _binary(source, stack)
    data: mp3_frames.Data
    if isinstance(binary, io.BytesIO):
        data = binary.getvalue()
    else:
        data = stack.enter_context(mmap.mmap(binary.fileno(), 0, access=mmap.ACCESS_READ))
    streams = mp3_frames.find_streams(data)
    if not streams:
        if mp3_frames.skip_tags(data, 0) >= len(data):
            raise undecodable(source_name(source), "it holds a tag and no audio")
        return None
    if len(streams) == 1 and streams[0].is_intact:
        return _sound_file(source, Mp3File)
    if with_junk and sum(stream.num_bytes for stream in streams) < len(data) / 2:
        return None
    lost = sum(stream.lost_seconds for stream in streams)
    if lost:
        seconds = sum(stream.seconds for stream in streams)
        notes.append(
            f"The MP3 is damaged or cut short: {lost:.3g} of {seconds:.3g} s are missing, or "
            "silent where more follows; the rest is used. Fetch it again. "
            f"Received: source={source_name(source)}"
        )
    return _join(source, binary, [stream.parts for stream in streams], notes, Mp3File)


def _open_chain(source: Source, stack: contextlib.ExitStack, notes: list[str]) -> OpenedFile | None:
    """Returns the joined streams of a chained Ogg file; None if it is healthy and not chained."""
    binary = _binary(source, stack)
    links = ogg_chains.find_links(binary)
    if not links or (len(links) == 1 and links[0].start == 0):
        return None
    if links[0].start:
        notes.append(
            f"The first {links[0].start} bytes of the file are no Ogg and are ignored: fetch it "
            f"again. Received: source={source_name(source)}"
        )
    try:
        return _join(source, binary, [[link] for link in links], notes)
    except soundfile.LibsndfileError as error:
        raise undecodable(source_name(source), error) from error


def _open_with_true_header(
    source: Source, stack: contextlib.ExitStack, notes: list[str]
) -> OpenedFile | None:
    """Returns a file whose header states too little audio with all of it, or None."""
    binary = _binary(source, stack)
    salvage = pcm_headers.true_header(binary)
    if salvage is None:
        return None
    try:
        file = soundfile.SoundFile(_spliced(binary, salvage.parts))
    except soundfile.LibsndfileError:
        return None
    if salvage.stated >= 0:
        notes.append(
            f"The header states {salvage.stated} bytes of audio, but {salvage.found} follow, as "
            f"after a recorder was interrupted: all {file.frames / file.samplerate:.4g} s are "
            f"used. Save it again to avoid this warning. Received: source={source_name(source)}"
        )
    return file


def _join(
    source: Source,
    binary: BinaryIO,
    streams: list[list[Part]],
    notes: list[str],
    file_type: type[soundfile.SoundFile] = soundfile.SoundFile,
) -> OpenedFile:
    if len(streams) == 1:
        return file_type(_spliced(binary, streams[0]))
    file = JoinedStreams([_spliced(binary, parts) for parts in streams], file_type)
    name = source_name(source)
    if file.num_unreadable:
        notes.append(
            f"Of the {len(streams)} streams in this file, {file.num_unreadable} cannot be decoded: "
            f"the others are used. Fetch it again. Received: source={name}"
        )
    if not file.is_uniform:
        notes.append(
            f"The file consists of {len(streams)} streams of different sample rates or channels: "
            f"all are converted to {file.samplerate} Hz and {file.channels} channel(s), those of "
            f"the first. Received: source={name}"
        )
    return file


def _spliced(binary: BinaryIO, parts: list[Part]) -> BinaryIO:
    return io.BufferedReader(SplicedFile(binary, parts), _BUFFER_BYTES)


def _binary(source: Source, stack: contextlib.ExitStack) -> BinaryIO:
    """Returns the bytes of a source as an open file, which the stack closes."""
    if isinstance(source, (str, os.PathLike)):
        return stack.enter_context(open(source, "rb"))
    return io.BytesIO(source)


def _sound_file(
    source: Source | BinaryIO, file_type: type[soundfile.SoundFile] = soundfile.SoundFile
) -> soundfile.SoundFile:
    if isinstance(source, (str, os.PathLike)):
        return file_type(os.fsdecode(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return file_type(io.BytesIO(source))
    return file_type(source)


def _first_bytes(source: Source) -> bytes:
    """Returns the first four bytes of a source; none if it cannot be read, or not twice."""
    if not isinstance(source, (str, os.PathLike)):
        return bytes(source[:4])
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe, which opening would wait for
            return b""
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return os.read(descriptor, 4)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):  # libsndfile's error is reported
        return b""


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
            return undecodable(name, failure.strerror, "give the path of a readable file")
    else:
        size = len(source)
        if 0 < size < 4096 and os.path.exists(bytes(source).replace(b"\0", b"?")):
            return undecodable(name, "the bytes are a path", "pass the path as str")
    if not size:
        return AudioEmptyError(f"The file is empty: fetch it again. Received: source={name}")
    return undecodable(name, why)


def undecodable(name: str, why: object, fix: str | None = None) -> AudioDecodeError:
    """Returns the error for a file that cannot be decoded.

    Args:
        name: Name of the source, from `source_name`.
        why: Reason, or libsndfile's error.
        fix: What to do. None advises to convert or exclude the file.
    """
    if isinstance(why, soundfile.LibsndfileError):
        why = why.error_string
    fix = fix or "convert it to WAV or FLAC, or exclude it"
    reason = str(why).strip().rstrip(".") or type(why).__name__
    return AudioDecodeError(
        f"The audio cannot be decoded ({reason}): {fix}. Received: source={name}"
    )

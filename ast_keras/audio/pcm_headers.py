"""Headers of WAV, RF64, AIFF, AU and CAF files that state a wrong amount of audio.

A recorder that loses power has not written the sizes into its header yet: they are 0, or those of
the last time it did so, though the audio follows. `true_header` finds the audio that is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ast_keras.audio.spliced_file import Part, Span

# Fewer bytes after the stated end are padding, not audio.
PADDING_BYTES = 1024
_SCAN_BYTES = 2**16
# What programs append to audio without a chunk around it.
TRAILERS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
MAX_SIZE = 0xFFFFFFFF
CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"JUNK", b"_PMX", b"cue ", b"smpl")
_W64_NAME_ENDS = (b"\xf3\xac\xd3\x11", b"\x2f\x91\xcf\x11")  # bytes 4 to 7 of 16


class Salvage(NamedTuple):
    """Audio whose header is wrong.

    Attributes:
        parts: Parts of a file with the right header, for `SplicedFile`.
        stated: Bytes of audio according to the header.
        found: Bytes of audio that are there.
    """

    parts: list[Part]
    stated: int
    found: int


class _Layout(NamedTuple):
    """Where a file holds its audio and its sizes: (position, format, what the size includes)."""

    start: int
    stated: int
    order: str  # of bytes: "<" or ">"
    sizes: list[tuple[int, str, int]]


def true_header(file: BinaryIO) -> Salvage | None:
    """Returns the audio that a header does not state, or None if there is none.

    Args:
        file: The file, open for reading.
    """
    file.seek(0)
    head = file.read(_SCAN_BYTES)
    size = file.seek(0, 2)
    layout = _find_layout(head)
    if layout is None or layout.start >= size:
        return None
    end = layout.start + layout.stated
    if end > size or (layout.stated >= 0 and not _is_audio(file, end, size, layout)):
        return None
    found = size - layout.start
    header = bytearray(head[: layout.start])
    for position, format, extra in layout.sizes:
        limit = MAX_SIZE if format == "I" else found + extra
        struct.pack_into(layout.order + format, header, position, min(found + extra, limit))
    return Salvage([bytes(header), Span(layout.start, size)], max(0, layout.stated), found)


def _find_layout(head: bytes) -> _Layout | None:
    """Returns the layout of a file from its first bytes; None if it has no chunk of audio."""
    magic, form = head[:4], head[8:12]
    if magic in (b".snd", b"dns.") and len(head) >= 24:
        order = "<" if magic == b"dns." else ">"
        start, stated = struct.unpack_from(order + "II", head, 4)
        return None if start > len(head) else _Layout(start, stated, order, [(8, "I", 0)])
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        return _find_wave(head, ">" if magic == b"RIFX" else "<")
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        for name, position, size in _chunks(head, 12, ">I", 8):
            if name == b"SSND":  # its size includes two numbers before the audio
                sizes = [(4, "I", position + 8), (position + 4, "I", 8)]
                return _Layout(position + 16, max(0, size - 8), ">", sizes)
    if magic == b"caff":
        for name, position, size in _chunks(head, 8, ">q", 12):
            if name == b"data":  # its size includes a number before the audio; -1: not known
                stated = -1 if size == -1 else max(0, size - 4)
                return _Layout(position + 16, stated, ">", [(position + 4, "q", 4)])
    if magic == b"riff" and head[24:28] == b"wave":  # W64: a size follows 16 bytes of name
        for name, position, size in _chunks(head, 40, "<12xQ", 0):
            if name == b"data":
                sizes = [(16, "Q", position + 24), (position + 16, "Q", 24)]
                return _Layout(position + 24, max(0, size - 24), "<", sizes)
    return None


def _find_wave(head: bytes, order: str) -> _Layout | None:
    large = None
    for name, position, size in _chunks(head, 12, order + "I", 8):
        if name == b"ds64":  # 64-bit sizes of RF64
            large = position + 8
        if name == b"data":
            start = position + 8
            sizes = [(4, "I", start - 8), (position + 4, "I", 0)]
            if large is not None and size in (0, MAX_SIZE):
                size = struct.unpack_from("<Q", head, large + 8)[0]
                sizes = [(large, "Q", start - 8), (large + 8, "Q", 0)]
            return _Layout(start, size, order, sizes)
    return None


def _chunks(
    head: bytes, position: int, size_format: str, header_bytes: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, position and size of each chunk whose header is in `head`."""
    length = struct.calcsize(size_format)
    while position + 4 + length <= len(head):
        name = head[position : position + 4]
        size = struct.unpack_from(size_format, head, position + 4)[0]
        yield name, position, size
        if size < 0 or (size < 24 and not header_bytes):
            return
        position += header_bytes + size + (size % 2 if header_bytes == 8 else -size % 8)


def _is_audio(file: BinaryIO, end: int, size: int, layout: _Layout) -> bool:
    """Returns whether audio, and not a chunk, a tag or padding, follows the stated end."""
    if size - end < (PADDING_BYTES if layout.stated else 1):
        return False
    for position in {end, end + end % 2}:  # not every program adds the byte that makes it even
        file.seek(position)
        rest = file.read(12)
        name, length = rest[:4], rest[4:8]
        if rest.startswith(TRAILERS) or len(rest) < 8:
            return False
        is_name = all(32 <= byte < 127 for byte in name)
        if is_name and (length in _W64_NAME_ENDS or name in CHUNKS):
            return False
        if is_name and end + 8 + struct.unpack(layout.order + "I", length)[0] <= size + 1:
            return False
    return layout.stated == 0 or _has_content(file, end)


def _has_content(file: BinaryIO, position: int) -> bool:
    """Returns whether any byte from a position on is not 0."""
    file.seek(position)
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            return True
    return False

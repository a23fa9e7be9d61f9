"""Chained Ogg files: several streams, one after the other, as recorders of radio write them.

libsndfile decodes the first stream only. `find_links` finds where each begins, from the headers of
the pages. Streams that play at the same time (multiplexed, as sound and subtitles) begin together
and are one link.

Reference: RFC 3533, sections 4 and 6.
"""

from __future__ import annotations

import itertools
from typing import BinaryIO

from ast_keras.audio.spliced_file import Span

_MAGIC = b"OggS\0"
_HEADER_BYTES = 27
_FIRST_PAGE = 0x02  # flag of the first page of a stream
_SEARCH_BYTES = 2**16


def find_links(file: BinaryIO) -> list[Span]:
    """Returns the span of each link of an Ogg file, in bytes. A file that is no chain has one.

    Args:
        file: The Ogg file, open for reading. Only the headers of its pages are read.

    Example:

    >>> import io, soundfile
    >>> stream = io.BytesIO()
    >>> soundfile.write(stream, [0.0] * 8000, 8000, format="OGG")
    >>> links = find_links(io.BytesIO(2 * stream.getvalue()))
    >>> [link.start for link in links] == [0, len(stream.getvalue())]
    True
    """
    starts: list[int] = []
    size = file.seek(0, 2)
    position, is_after_first = 0, False
    while position < size:
        file.seek(position)
        header = file.read(_HEADER_BYTES + 255)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            position = _next_page(file, position + 1)
            continue
        is_first = bool(header[5] & _FIRST_PAGE)
        if is_first and (is_after_first or not starts):
            starts.append(position)
        is_after_first = not is_first
        segments = header[26]
        position += _HEADER_BYTES + segments + sum(header[27 : 27 + segments])
    return [Span(a, b) for a, b in itertools.pairwise([*starts, size])]


def _next_page(file: BinaryIO, position: int) -> int:
    """Returns the position of the next page, or that of the end of the file."""
    while True:
        file.seek(position)
        chunk = file.read(_SEARCH_BYTES)
        found = chunk.find(_MAGIC)
        if found >= 0:
            return position + found
        if len(chunk) < _SEARCH_BYTES:
            return position + len(chunk)
        position += _SEARCH_BYTES - len(_MAGIC) + 1

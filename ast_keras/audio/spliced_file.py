"""A file that is put together from parts of another file, without copying it."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias


class Span(NamedTuple):
    """A span of bytes of the original file."""

    start: int
    stop: int


Part: TypeAlias = bytes | Span


class SplicedFile(io.RawIOBase):
    """Reads parts of a file and literal bytes as if they were one file.

    A damaged recording is repaired this way: its header is replaced, or what is damaged is left
    out, and a decoder reads the result. Only what is read is in memory.

    Args:
        file: The original file, open for reading. It is not closed.
        parts: Spans of the original and literal bytes, in the order in which they are read.

    Example:

    >>> spliced = SplicedFile(io.BytesIO(b"0123456789"), [Span(2, 4), b"ab", Span(8, 10)])
    >>> spliced.read(), spliced.seek(1), spliced.read(2)
    (b'23ab89', 1, b'3a')
    """

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file, self._parts = file, parts
        lengths = [len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts]
        self._ends = list(itertools.accumulate(lengths))
        self._size = self._ends[-1] if parts else 0
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer with the bytes from the position on; returns their number."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._size:
            index = bisect.bisect_right(self._ends, self._position)
            part, left = self._parts[index], self._ends[index] - self._position
            wanted = min(left, len(view) - filled)
            if isinstance(part, bytes):
                chunk = part[len(part) - left :][:wanted]
            else:
                self._file.seek(part.stop - left)
                chunk = self._file.read(wanted)
                if not chunk:  # the original became shorter
                    break
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
            self._position += len(chunk)
        return filled

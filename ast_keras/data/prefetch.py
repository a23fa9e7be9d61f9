"""Items read in threads while others are worked on; in order, in bounded memory."""

from __future__ import annotations

import collections
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Piece = TypeVar("Piece")

_LOOK_SECONDS = 0.1  # how often a thread that waits looks whether it is still wanted


class _Reader(threading.Thread, Generic[Item, Piece]):
    """Reads one item's pieces into a queue of bounded length."""

    def __init__(self, item: Item, read: Callable[[Item], Iterable[Piece]], depth: int) -> None:
        super().__init__(daemon=True)
        self.item, self.read = item, read
        self.pieces: queue.Queue[tuple[Piece | None, BaseException | None]] = queue.Queue(depth)
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            for piece in self.read(self.item):
                self._put((piece, None))
                if self.stopped.is_set():
                    return
            self._put((None, None))
        except BaseException as error:  # whatever it is, the one who asked is to know
            self._put((None, error))

    def _put(self, entry: tuple[Piece | None, BaseException | None]) -> None:
        while not self.stopped.is_set():
            try:
                self.pieces.put(entry, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Piece]:
        try:
            while True:
                piece, error = self.pieces.get()
                if error is not None:
                    raise error
                if piece is None:
                    return
                yield piece
        finally:
            self.stopped.set()


def prefetch(
    items: Iterable[Item], read: Callable[[Item], Iterable[Piece]], jobs: int, depth: int = 8
) -> Iterator[tuple[Item, Iterator[Piece]]]:
    """Yields each item, in order, with its pieces, which threads have begun to read.

    An error of `read` is raised by the item's iterator, and the next item goes on.

    Args:
      items: What to read.
      read: Returns an item's pieces, one by one; called in a thread. None is no piece.
      jobs: How many items are read at once.
      depth: How many pieces of each wait at most.

    Example:

    >>> [(word, list(letters)) for word, letters in prefetch(["ab", "c"], iter, jobs=2)]
    [('ab', ['a', 'b']), ('c', ['c'])]
    """
    rest = iter(items)
    waiting: collections.deque[_Reader[Item, Piece]] = collections.deque()
    try:
        while True:
            for item in itertools.islice(rest, jobs - len(waiting)):
                reader = _Reader(item, read, depth)
                reader.start()
                waiting.append(reader)
            if not waiting:
                return
            reader = waiting.popleft()
            try:
                yield reader.item, iter(reader)
            finally:
                reader.stopped.set()
    finally:
        for reader in waiting:
            reader.stopped.set()

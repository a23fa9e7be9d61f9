"""Prefetching in threads: results in order, a bounded number of them ahead.

| function | use it when |
|---|---|
| `map_ahead` | each item gives one result, such as a decoded file or a batch |
| `prefetch` | each item gives a stream of pieces, such as the blocks of an hour of audio |
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

_STOP_CHECK_SECONDS = 0.1  # how often a blocked thread checks whether it was stopped


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_threads: int,
    num_ahead: int | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order, computed ahead of the consumer in threads.

    Unlike `Executor.map`, it reads `items` lazily, so that an endless iterable is accepted, and it
    holds a bounded number of results. When the iterator is closed, calls that have not started are
    cancelled, and running ones are waited for. An error of `function` is raised in the place of its
    result and ends the iteration.

    Args:
        function: Called with one item, in a thread.
        items: Iterable of items, finite or endless.
        num_threads: Number of threads.
        num_ahead: Largest number of results computed ahead. `num_threads` by default.

    Returns:
        An iterator over the results.

    Example:

    >>> list(map_ahead(abs, [-1, 2, -3], num_threads=2))
    [1, 2, 3]
    """
    num_ahead = num_threads if num_ahead is None else num_ahead
    ahead: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > num_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prefetch(
    items: Iterable[Item], read: Callable[[Item], Iterable[Piece]], jobs: int, depth: int = 8
) -> Iterator[tuple[Item, Iterator[Piece]]]:
    """Yields each item, in order, with an iterator over its pieces, read ahead in threads.

    An error of `read` is raised by the iterator of that item; the following items are not affected.

    Args:
        items: Iterable of items.
        read: Returns an iterable over the pieces of an item; called in a thread. A piece must not
            be None.
        jobs: Number of items that are read at the same time.
        depth: Largest number of pieces that are held for each item.

    Returns:
        An iterator over pairs of an item and an iterator over its pieces.

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


class _Reader(threading.Thread, Generic[Item, Piece]):
    """Reads the pieces of one item into a queue of bounded length."""

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
        except BaseException as error:  # of any kind: it is raised again in the consumer's thread
            self._put((None, error))

    def _put(self, entry: tuple[Piece | None, BaseException | None]) -> None:
        while not self.stopped.is_set():
            try:
                self.pieces.put(entry, timeout=_STOP_CHECK_SECONDS)
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

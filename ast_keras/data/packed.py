"""Memory-efficient sequences of targets and paths, for data sets of millions of examples.

Two million tuples and strings take more than a gigabyte as Python objects. Here they are ragged
arrays: an example costs its content and about ten bytes. The classes are sequences, as `Split`
expects, and make an item when it is accessed.
"""

from __future__ import annotations

import array
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Rows:
    """A ragged array: rows of different lengths. Selecting rows copies no values.

    Args:
        values: Values of all rows.
        starts: Index of the first value of each row.
        lengths: Number of values of each row.

    Example:

    >>> rows = Rows.from_lengths(np.array([5, 6, 7]), np.array([2, 0, 1]))
    >>> rows.take(np.array([2, 0])).flat().tolist()
    [7, 5, 6]
    """

    values: Array
    starts: Array
    lengths: Array

    @classmethod
    def from_lengths(cls, values: Array, lengths: Array) -> Rows:
        """Returns rows whose values follow one another without gaps."""
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = _index_array(ends - lengths, len(values))
        return cls(values, starts, lengths.astype(np.uint16))

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Returns the rows of all parts, one part after the other."""
        values = np.concatenate([part.values for part in parts])
        firsts = itertools.accumulate((len(part.values) for part in parts), initial=0)
        starts = [part.starts.astype(np.int64) + f for part, f in zip(parts, firsts, strict=False)]
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(values, _index_array(np.concatenate(starts), len(values)), lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> Array:
        """Returns the values of one row."""
        start = int(self.starts[index])
        return self.values[start : start + int(self.lengths[index])]

    def take(self, indices: Array | slice) -> Rows:
        """Returns the rows at these indices, in this order."""
        return Rows(self.values, self.starts[indices], self.lengths[indices])

    def flat(self) -> Array:
        """Returns the values of all rows in one array, one row after the other."""
        lengths = self.lengths.astype(np.int64)
        shifts = self.starts - (np.cumsum(lengths) - lengths)
        return self.values[np.repeat(shifts, lengths) + np.arange(lengths.sum())]

    def blocks(self) -> Iterator[bytes]:
        """Yields lengths and values as bytes, some rows at a time; equal rows give equal bytes."""
        for first in range(0, len(self), _BLOCK_ROWS):
            block = self.take(slice(first, first + _BLOCK_ROWS))
            yield block.lengths.tobytes()
            yield block.flat().tobytes()


def _index_array(indices: Array, size: int) -> Array:
    return indices.astype(np.uint32) if size < 2**32 else indices


class PackedTargets(Sequence[tuple[int, ...]]):
    """Holds the label indices of many examples in four bytes each.

    Example:

    >>> targets = PackedTargets.pack([(0, 2), (), (1,)])
    >>> len(targets), targets[0], targets.take(np.array([2, 1]))[0]
    (3, (0, 2), (1,))
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @classmethod
    def pack(cls, targets: Sequence[tuple[int, ...]]) -> PackedTargets:
        """Returns packed targets; targets that are already packed are returned unchanged."""
        if isinstance(targets, cls):
            return targets
        lengths = np.fromiter((len(t) for t in targets), np.int64, len(targets))
        values = np.fromiter(itertools.chain.from_iterable(targets), np.int32, lengths.sum())
        return cls(Rows.from_lengths(values, lengths))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self.rows.row(index).tolist())

    def take(self, indices: Array) -> PackedTargets:
        """Returns the targets of these examples, in this order."""
        return PackedTargets(self.rows.take(indices))


class PackedPaths(Sequence[str]):
    """Holds the paths of many files in a small number of folders: each folder once, each name once.

    Example:

    >>> paths = PackedPaths.pack(["clips/a.wav", "clips/b.wav"])
    >>> len(paths), paths.name(1), paths.take(np.array([1])).name(0)
    (2, 'b.wav', 'b.wav')
    """

    def __init__(self, folders: Sequence[str], folder_of: Array, rows: Rows) -> None:
        self.folders = folders
        self.folder_of = folder_of  # index into `folders` for each path
        self.rows = rows  # name of each path, in the bytes of the file system

    @classmethod
    def pack(cls, paths: Iterable[str]) -> PackedPaths:
        """Packs paths while they are read from an iterable."""
        builder = PathBuilder()
        for path in paths:
            builder.add(*os.path.split(path))
        return builder.build()

    @classmethod
    def concatenate(cls, parts: Sequence[PackedPaths]) -> PackedPaths:
        """Returns the paths of all parts, one part after the other."""
        firsts = itertools.accumulate((len(part.folders) for part in parts), initial=0)
        return cls(
            [folder for part in parts for folder in part.folders],
            np.concatenate(
                [p.folder_of + np.int32(f) for p, f in zip(parts, firsts, strict=False)]
            ),
            Rows.concatenate([part.rows for part in parts]),
        )

    def name(self, index: int) -> str:
        """Returns the name of a file without its folder."""
        return os.fsdecode(self.rows.row(index).tobytes())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return os.path.join(self.folders[self.folder_of[index]], self.name(index))

    def name_hashes(self) -> Array:
        """Returns Python's 64-bit hash of each name, int64 `[paths]`.

        Unlike the names, the hashes fit into an array that NumPy can search.
        """
        return np.fromiter((hash(self.name(i)) for i in range(len(self))), np.int64, len(self))

    def take(self, indices: Array) -> PackedPaths:
        """Returns the paths at these indices, in this order."""
        return PackedPaths(self.folders, self.folder_of[indices], self.rows.take(indices))


class PathBuilder:
    """Collects paths one by one.

    Example:

    >>> builder = PathBuilder()
    >>> builder.add("clips", "a.wav")
    >>> len(builder.build())
    1
    """

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}
        self._folder_of = array.array("i")
        self._names = bytearray()
        self._lengths = array.array("H")

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, folder: str, name: str) -> None:
        """Adds the path of a file in a folder."""
        encoded = os.fsencode(name)
        self._folder_of.append(self._folders.setdefault(folder, len(self._folders)))
        self._names += encoded
        self._lengths.append(len(encoded))

    def build(self) -> PackedPaths:
        """Returns the paths in the order in which they were added."""
        names = np.frombuffer(bytes(self._names), np.uint8)
        lengths = np.array(self._lengths, np.uint16)
        rows = Rows.from_lengths(names, lengths)
        return PackedPaths(list(self._folders), np.array(self._folder_of, np.int32), rows)

"""Finds the files of AudioSet's clips in a folder, under the names that common downloaders give."""

from __future__ import annotations

import array
import collections
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedPaths, PathBuilder
from ast_keras.data.readers.audio_folder import (
    SHADOWED,
    preference,
    readable_suffixes,
    why_left_out,
)
from ast_keras.data.readers.audioset_lists import ID_LENGTH, UNKNOWN_START, ClipList, parse_stem
from ast_keras.errors import DatasetError

FILE_NAMES = (
    "YTID.wav, YYTID.wav, YTID_start.wav or YTID_start_end.wav (seconds or milliseconds; any audio "
    "suffix), in any of its subfolders"
)

_BATCH_FILES = 65_536
_NOT_A_CLIP = "not named like a clip (rename them)"

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class FoundClips:
    """The clips of a list that have a file.

    Args:
        indices: Indices of the clips in the list, ascending.
        paths: Path of each of these clips.
        num_other_segments: Number of files whose names state another segment of a listed video.
        suffix_counts: Suffixes of the files in the folder with their counts, for messages.
        left_out: Number of sounds in the folder that are not read, and one of them, by reason.
    """

    indices: Array
    paths: PackedPaths
    num_other_segments: int = 0
    suffix_counts: str = ""
    left_out: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def find_clips(folder: str, clips: ClipList) -> FoundClips:
    """Finds clips by their YTID in a folder and all its subfolders, each listed once.

    If the name of a file states a start, it must agree with the list within a second. If a clip has
    several files, the first is used, in the order of `AUDIO_SUFFIXES` (lossless first), then of the
    paths.

    Raises:
        DatasetError: If a folder cannot be listed, or a YTID occurs twice in the list.
    """
    order = np.argsort(clips.ytids, kind="stable")
    ytids = clips.ytids[order]
    _require_unique(ytids)
    builder, clip_of, suffixes = PathBuilder(), array.array("i"), collections.Counter[str]()
    num_other_segments, left_out = 0, _LeftOutCounts()
    for files in _batched(_files(folder, suffixes, left_out), _BATCH_FILES):
        keys = np.array([file.ytid for file in files], f"S{ID_LENGTH}")
        places = np.minimum(np.searchsorted(ytids, keys), len(ytids) - 1)
        for row in np.flatnonzero(ytids[places] == keys).tolist():
            file, clip = files[row], int(order[places[row]])
            if _same_start(file.times, int(clips.starts[clip])):
                builder.add(file.folder, file.name)
                clip_of.append(clip)
            else:
                num_other_segments += 1
    indices, paths = _first_of_each(np.array(clip_of, np.int32), builder.build())
    suffix_counts = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(5))
    if len(indices) < len(clip_of):
        left_out.add(SHADOWED, f"in {folder}", len(clip_of) - len(indices))
    return FoundClips(indices, paths, num_other_segments, suffix_counts, left_out.found)


class _File(NamedTuple):
    folder: str
    name: str
    ytid: str
    times: tuple[float, ...]


class _LeftOutCounts:
    """Counts sounds by the reason why they are not read; there may be millions."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, path: str, count: int = 1) -> None:
        number, first = self.found.get(reason, (0, path))
        self.found[reason] = number + count, first


def _files(
    folder: str, suffixes: collections.Counter[str], left_out: _LeftOutCounts
) -> Iterator[_File]:
    """Yields the audio files that are named like clips, and counts all others."""
    readable = frozenset(readable_suffixes())
    folders, visited = [folder], set()
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:  # a link to a folder above
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)
                    if entry.is_dir():
                        if not entry.name.startswith("."):
                            folders.append(entry.path)
                        continue
                    if suffix.lower() not in readable or entry.name.startswith("."):
                        if reason := why_left_out(entry.name):
                            left_out.add(reason, entry.path)
                        if not entry.name.startswith("."):
                            suffixes[suffix.lower() or "without suffix"] += 1
                        continue
                    suffixes[suffix.lower()] += 1
                    if parsed := parse_stem(stem):
                        yield _File(folder, entry.name, *parsed)
                    else:
                        left_out.add(_NOT_A_CLIP, entry.path)
        except OSError as error:
            raise DatasetError(
                f"Cannot list the folder of clips: {error.strerror}. Received: {folder}"
            ) from None


def _batched(files: Iterator[_File], size: int) -> Iterator[list[_File]]:
    while batch := list(itertools.islice(files, size)):
        yield batch


def _require_unique(ytids: Array) -> None:
    """Rejects a YTID that is listed twice; the YTIDs are sorted."""
    same = np.flatnonzero((ytids[1:] == ytids[:-1]) & (ytids[1:] != b""))
    if len(same):
        raise DatasetError(
            "A YTID must occur only once in all lists together, so that no clip is in two splits. "
            f"Received: {ytids[same[0]].decode()} twice"
        )


def _same_start(times: tuple[float, ...], start: int) -> bool:
    """Returns whether the start of a file, in seconds or milliseconds, may be that of the list."""
    if not times or start == UNKNOWN_START:
        return True
    return abs(1000 * times[0] - start) < 1000 or abs(times[0] - start) < 1


def _first_of_each(clip_of: Array, paths: PackedPaths) -> tuple[Array, PackedPaths]:
    """Returns the clips that have a file, ascending, and the preferred file of each."""
    order = np.argsort(clip_of, kind="stable")
    clips, firsts, counts = np.unique(clip_of[order], return_index=True, return_counts=True)
    chosen = order[firsts]
    for place in np.flatnonzero(counts > 1).tolist():
        rows = order[firsts[place] : firsts[place] + counts[place]]
        chosen[place] = min(rows.tolist(), key=lambda row: preference(paths[row]))
    return clips, paths.take(chosen)


def existing_clips(paths: PackedPaths) -> FoundClips:
    """Returns the paths at which a file exists. Each folder is listed only once.

    Raises:
        DatasetError: If an existing folder cannot be listed.
    """
    present, names = np.zeros(len(paths), bool), paths.name_hashes()
    order = np.argsort(paths.folder_of, kind="stable")
    bounds = np.searchsorted(paths.folder_of[order], np.arange(len(paths.folders) + 1))
    for number, folder in enumerate(paths.folders):
        rows = order[bounds[number] : bounds[number + 1]]
        present[rows] = np.isin(names[rows], _hashed_names(folder))
    indices = np.flatnonzero(present)
    return FoundClips(indices, paths.take(indices))


def _hashed_names(folder: str) -> Array:
    try:
        with os.scandir(folder) as entries:
            return np.fromiter((hash(entry.name) for entry in entries), np.int64)
    except (FileNotFoundError, NotADirectoryError):
        return np.zeros(0, np.int64)
    except OSError as error:
        raise DatasetError(
            f"Cannot list the folder of clips: {error.strerror}. Received: {folder}"
        ) from None

"""The layout of a folder of classes: which part of a path names the class, and which the split."""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ast_keras.data.dataset import split_of_name
from ast_keras.data.readers.unknown_and_silence import SILENCE, UNKNOWN
from ast_keras.errors import DatasetError

LAYOUT = (
    "The layout is class/any.wav, or train/class/any.wav and test/class/any.wav, or "
    "fold_1/class/any.wav and so on."
)
_ACCEPTED = "train, validation (or val, dev) and test (or eval), or fold_1, fold_2 and so on"
_FOLD = re.compile(r"(?:k?fold|split|cv)[\s_-]*(\d+)|(\d+)[\s_-]*fold", re.IGNORECASE)

Parts = Sequence[str]  # of a relative path, the last one is the name of the file


@dataclass(frozen=True)
class Layout:
    """Meaning of the parts of a path.

    Args:
        class_depth: Index of the part that names the class.
        split_depth: Index of the part that names the split or the fold; None if there is none.
        base: Folder that alone contains the classes or splits; empty for the root.
    """

    class_depth: int
    split_depth: int | None = None
    base: str = ""

    def label(self, parts: Parts) -> str:
        """Returns the class of a file; empty if it lies outside the folder of a class."""
        return parts[self.class_depth] if len(parts) - 1 > self.class_depth else ""

    def is_skipped(self, parts: Parts) -> bool:
        """Returns whether a folder around a file starts with `_` and is neither class nor split."""
        return any(map(_is_skipped, parts[: self.class_depth + 1][: len(parts) - 1]))

    def part(self, parts: Parts) -> str | int | None:
        """Returns the split or the number of the fold of a file; None without them."""
        if self.split_depth is None or len(parts) - 1 <= self.split_depth:
            return None
        return split_or_fold(parts[self.split_depth])


def split_or_fold(name: str) -> str | int | None:
    """Returns the split, or the number of the fold, that a folder is named after.

    Args:
        name: Name of the folder. One of its words may be the name of a split.

    Example:

    >>> split_or_fold("Training"), split_or_fold("audio_test"), split_or_fold("fold_2")
    ('train', 'test', 2)
    >>> split_or_fold("dog"), split_or_fold("2")
    (None, None)
    """
    if match := _FOLD.fullmatch(name.strip()):
        return int(match[1] or match[2])
    splits = {split_of_name(word) for word in re.findall(r"[^\W_]+", name)} - {None}
    return splits.pop() if len(splits) == 1 else split_of_name(name)


def _is_skipped(name: str) -> bool:
    return name.startswith("_") and name not in (UNKNOWN, SILENCE)


def find_layout(root: str, paths: Iterable[Parts]) -> Layout:
    """Returns the layout of the files in a folder.

    Folders above those of the classes, or directly in them, are splits or folds if all are named
    like that. A single such name among others is a class, such as the vehicle `train`, unless
    folders in it are also in the others: `train/dog` next to `holdout/dog`.

    Args:
        root: Folder of the data, for errors.
        paths: Parts of the relative path of each file.

    Raises:
        DatasetError: If folders of splits or folds are mixed with others.

    Example:

    >>> find_layout("sounds", [("dog", "1.wav"), ("hen", "2.wav")])
    Layout(class_depth=0, split_depth=None, base='')
    >>> find_layout("sounds", [("Train", "dog", "1.wav"), ("TEST", "dog", "2.wav")])
    Layout(class_depth=1, split_depth=0, base='')
    """
    paths = [parts for parts in paths if len(parts) == 1 or not _is_skipped(parts[0])]
    depth = _depth_of_base(paths)
    base = os.path.join("", *paths[0][:depth]) if depth else ""
    folders = [parts[depth:-1] for parts in paths if len(parts) > depth + 1]
    inside: Mapping[str, set[str]] = collections.defaultdict(set)
    for inner in folders:
        inside[inner[0]].update(inner[1:2])
    if _are_splits(root, inside, alone=True):
        return Layout(depth + 1, depth, base)
    below = {inner[1] if len(inner) > 1 else "": set[str]() for inner in folders}
    if _are_splits(root, below, alone=False):
        return Layout(depth, depth + 1, base)
    return Layout(depth, None, base)


def _depth_of_base(paths: Sequence[Parts]) -> int:
    """Returns the number of folders, one in the other, that contain nothing but the next one."""
    levels = zip(*(parts[:-1] for parts in paths), strict=False)
    common = [names[0] for names in itertools.takewhile(lambda n: len(set(n)) == 1, levels)]
    if any(len(parts) - 1 == len(common) for parts in paths):
        common = common[:-1]  # a folder with files is that of a class
    marked = [depth for depth, name in enumerate(common) if split_or_fold(name) is not None]
    return min([*marked, len(common)])


def _are_splits(root: str, inside: Mapping[str, set[str]], alone: bool) -> bool:
    """Returns whether folders are the splits or folds.

    Args:
        root: Folder of the data, for errors.
        inside: By the name of each folder, the folders in it; the name is empty for files without
            one.
        alone: Whether a single split is enough.
    """
    found = {name: split_or_fold(name) for name in sorted(inside)}
    parts = {part for part in found.values() if part is not None}
    others = [name for name, part in found.items() if part is None]
    exact = {name for name, part in found.items() if isinstance(part, int) or split_of_name(name)}
    is_single = len(parts) == 1 and not (alone and len(exact) == len(found))
    if not parts or (is_single and not _share_folders(inside, exact)):
        return False
    if len({type(part) for part in parts}) > 1:
        others = [name for name, part in found.items() if not isinstance(part, int)]
    if others:
        odd = ", ".join(repr(name) if name else "the files next to them" for name in others[:5])
        raise DatasetError(
            f"Folders of splits or folds must not be mixed with others: rename or move {odd}. "
            f"Splits are {_ACCEPTED}. "
            f"Received: path={root!r} with {', '.join(filter(None, list(found)[:8]))}"
        )
    return True


def _share_folders(inside: Mapping[str, set[str]], names: set[str]) -> bool:
    """Returns whether a folder in one of those named is also in one of the others."""
    others = set[str]().union(*(inside[name] for name in inside.keys() - names))
    return any(inside[name] & others for name in names)

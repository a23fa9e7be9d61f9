"""Reader of a folder for each class."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping

from ast_keras.data.dataset import SPLIT_NAMES, SoundDataset, from_examples
from ast_keras.data.left_out import LeftOut, left_out_notes, require_no_lost_class
from ast_keras.data.readers.audio_folder import HIDDEN, SoundTree, subfolders
from ast_keras.data.readers.folder_layout import LAYOUT, Layout, Parts, find_layout
from ast_keras.data.readers.groups import Grouping, groups_by_pattern
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet, spellings

_OUTSIDE = "outside the folders of the classes (move each into the folder of its class)"
_UNDERSCORE = "in folders whose names start with _ (rename a folder to make it a class)"


def read_class_folders(
    path: str,
    *,
    fold: int | None = None,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    group_pattern: str | None = None,
) -> SoundDataset:
    """Reads a folder whose subfolders are the classes, or splits or folds with the classes in them.

    If every subfolder is named like a split (`train`, `validation`, `test`, in any case, and usual
    variants) or like a fold (`fold_1`), these are the splits; they may also be the subfolders of
    the classes. Otherwise examples of every class are held out by a hash of their paths. Files may
    lie deeper in the folder of their class. A folder that holds only one other folder stands for
    that one. Folders whose names start with `_` are left out, except those of the classes
    `_unknown_` and `_silence_`. The labels are the names of the folders in alphabetical order.

    What looks like a sound and is not read is in `left_out`, and counted in the notes.

    Args:
        path: Folder of the classes, of the splits or of the folds.
        fold: Test fold of a folder of folds; the other folds are for training.
        test_fraction: Fraction of every class to hold out for testing. 0.2 by default.
        validation_fraction: Fraction of every class to hold out for validation. 0 by default.
        group_pattern: Regular expression that finds in the path of a file, relative to the folder,
            the group of files that stays in one split, such as its recording.

    Raises:
        DatasetError: If the folder holds no audio file or no folders of classes, if none of the
            sounds of a class can be read, if folders of splits are mixed with others, or if
            settings do not fit the folder.

    Example:

    >>> import os, tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("dog/1.wav", "dog/2.wav", "hen/1.wav", "hen/2.wav"):
    ...     os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
    ...     open(os.path.join(root, name), "w").close()
    >>> print(read_class_folders(root))
    folders: 2 labels; 2 train, 2 test; 20% of every class held out by name for testing
    """
    tree, layout = _scan(path)
    found: list[tuple[Parts, str]] = []  # parts of the path, and class
    left_out: list[LeftOut] = []
    for name in tree.sounds:
        parts: Parts = name.split(os.sep)
        if reason := _why_outside(layout, parts):
            left_out.append(LeftOut(name, reason))
        else:
            found.append((parts, layout.label(parts)))
    for sound in tree.left_out:
        parts = sound.path.split(os.sep)
        in_class = not (_why_outside(layout, parts) or layout.label(parts).startswith("."))
        label = layout.label(parts) if in_class else ""
        left_out.append(dataclasses.replace(sound, label=label))
    if not found:
        raise DatasetError(_nothing_found(path, left_out))
    require_no_lost_class(left_out, {label for _, label in found}, path)

    fractions = (test_fraction, validation_fraction)
    splits, notes = _splits(path, layout, found, fold, fractions, group_pattern)
    if layout.base:
        notes.insert(0, f"the classes are the folders in {layout.base}, the only folder")
    notes += _suffix_notes(tree.sounds)
    notes += _empty_folder_notes(path, layout, [parts for parts, _ in found])
    notes += _spelling_notes(path, [label for _, label in found], splits)
    labels = LabelSet(tuple(sorted({label for _, label in found})))
    examples: dict[str, list[tuple[str, tuple[int, ...]]]] = {s: [] for s in SPLIT_NAMES.values()}
    for split, (parts, label) in zip(splits, found, strict=True):
        examples[split].append((os.path.join(path, *parts), (labels.index_of(label),)))
    return from_examples("folders", labels, examples, notes=notes, left_out=left_out)


def folder_folds(path: str) -> tuple[int, ...]:
    """Returns the folds of a folder of folds, ascending; empty if it has none.

    Raises:
        DatasetError: If the folder does not exist, or mixes folds with other folders.

    Example:

    >>> import os, tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("fold_1/dog/1.wav", "fold_2/dog/2.wav"):
    ...     os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
    ...     open(os.path.join(root, name), "w").close()
    >>> folder_folds(root)
    (1, 2)
    """
    tree, layout = _scan(path)
    parts = {layout.part(name.split(os.sep)) for name in tree.sounds}
    return tuple(sorted(part for part in parts if isinstance(part, int)))


def _scan(path: str) -> tuple[SoundTree, Layout]:
    if not os.path.isdir(path):
        raise DatasetError(f"The folder does not exist. {LAYOUT} Received: path={path!r}")
    tree = SoundTree.scan(path)
    # What cannot be read shows the layout as well, so that a class does not vanish with it.
    names = [*tree.sounds, *(sound.path for sound in tree.left_out if sound.reason != HIDDEN)]
    return tree, find_layout(path, [name.split(os.sep) for name in names])


def _why_outside(layout: Layout, parts: Parts) -> str | None:
    """Returns why a file belongs to no class; None if it belongs to one."""
    if not layout.label(parts):
        return _OUTSIDE
    return _UNDERSCORE if layout.is_skipped(parts) else None


def _nothing_found(path: str, left_out: Iterable[LeftOut]) -> str:
    """Returns the error for a folder without any example: what is there, and what is missing."""
    outside = [sound.path for sound in left_out if sound.reason == _OUTSIDE]
    others = [*left_out_notes(sound for sound in left_out if sound.reason != _OUTSIDE)]
    tables = sorted(name for name in os.listdir(path) if name.lower().endswith((".csv", ".tsv")))
    if outside:
        rule = (
            f"{len(outside)} sounds lie directly in a folder that needs a folder for each class: "
            "move each sound into the folder of its class, or give a CSV with the columns "
            "path,labels as the path"
        )
        rule += f", such as {tables[0]} in the folder." if tables else "."
        others.insert(0, ", ".join(outside[:3]) + ", ..." * (len(outside) > 3))
    elif others:
        rule = "The folder holds no sound that is read as an example of a class."
    else:
        rule = "The folder holds no audio file."
    return f"{rule} {LAYOUT} Received: {'; '.join([f'path={path!r}', *others])}"


def _splits(
    path: str,
    layout: Layout,
    found: list[tuple[Parts, str]],
    fold: int | None,
    fractions: tuple[float | None, float | None],
    group_pattern: str | None,
) -> tuple[list[str], list[str]]:
    """Returns the split of every sound, and notes on how the splits were made."""
    given = [layout.part(parts) for parts, _ in found]
    folds = sorted({part for part in given if isinstance(part, int)})
    if fold is not None and not folds:
        raise DatasetError(
            "fold needs a folder for each fold, such as fold_1/class/any.wav. "
            f"Received: fold={fold!r} with path={path!r}"
        )
    keys = ["/".join(parts) for parts, _ in found]
    groups, notes = (keys, []) if group_pattern is None else groups_by_pattern(keys, group_pattern)
    grouping = Grouping(keys, groups, are_given=group_pattern is not None, places=keys)
    if layout.split_depth is None:
        test, validation = 0.2 if fractions[0] is None else fractions[0], fractions[1] or 0
        splits, made = grouping.hold_out([label for _, label in found], test, validation)
        return splits, [*notes, *made]
    grouping.require_whole(given)
    if fractions != (None, None):
        raise DatasetError(
            "A folder with train/ and test/, or with folds, has its own splits: omit the "
            f"fractions. Received: test_fraction={fractions[0]}, "
            f"validation_fraction={fractions[1]} with path={path!r}"
        )
    if not folds:
        return [str(part) for part in given], notes
    if fold not in folds or len(folds) == 1:
        raise DatasetError(
            "The folder has folds: set fold (data.fold) to the test fold, one of at least two, or "
            f"train with --all_folds. Folds: {', '.join(map(str, folds))}. "
            f"Received: fold={fold!r} with path={path!r}"
        )
    return ["test" if part == fold else "train" for part in given], notes


def _suffix_notes(sounds: Iterable[str]) -> Iterator[str]:
    """Yields a note on files that differ only in their suffix, which may be copies."""
    by_stem: Mapping[str, list[str]] = collections.defaultdict(list)
    for sound in sounds:
        by_stem[sound.rpartition(".")[0]].append(sound)
    groups = [names for names in by_stem.values() if len(names) > 1]
    if groups:
        yield (
            f"{len(groups)} names have several suffixes, and each file is an example: remove "
            f"copies of the same recording ({', '.join(groups[0])}{', ...' * (len(groups) > 1)})"
        )


def _empty_folder_notes(path: str, layout: Layout, found: Iterable[Parts]) -> Iterator[str]:
    """Yields a note on the folders next to those of classes that hold nothing like a sound."""
    siblings: set[Parts] = set()
    classes = {(*parts[: layout.class_depth + 1],) for parts in found}
    for above in {parts[:-1] for parts in classes}:
        siblings |= {(*above, name) for name in subfolders(os.path.join(path, *above))}
    if empty := sorted("/".join(parts) for parts in siblings - classes):
        listed = ", ".join(empty[:5]) + ", ..." * (len(empty) > 5)
        yield f"{len(empty)} folders without sounds, which are not classes: {listed}"


def _spelling_notes(path: str, names: Iterable[str], splits: Iterable[str]) -> Iterator[str]:
    """Yields notes on labels that differ only in spelling; rejects them in different splits."""
    splits_of: Mapping[str, set[str]] = collections.defaultdict(set)
    for name, split in zip(names, splits, strict=True):
        splits_of[name].add(split)
    for group in spellings(splits_of):
        listed = ", ".join(map(repr, group))
        if not set.intersection(*(splits_of[name] for name in group)):
            raise DatasetError(
                "A class must have the same name in all splits: rename the folders. "
                f"Received: path={path!r} with {listed}"
            )
        yield f"labels that differ only in case or separators are different classes: {listed}"

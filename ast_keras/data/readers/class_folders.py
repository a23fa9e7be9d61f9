"""Reader of a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ast_keras.data.dataset import SPLIT_NAMES, SoundDataset, from_examples
from ast_keras.data.readers.audio_folder import AudioFolder, hold_out, subfolders
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_LAYOUT = "The layout is class/any.wav, or train/class/any.wav and test/class/any.wav."


def read_class_folders(
    path: str, *, test_fraction: float | None = None, validation_fraction: float | None = None
) -> SoundDataset:
    """Reads a folder whose subfolders are the classes, or the splits with the classes in them.

    If every subfolder is named train, validation (or val) or test, these are the splits. Otherwise
    examples of every class are held out by a hash of their paths. Files may lie deeper in the
    folder of their class. The labels are the names of the folders in alphabetical order.

    Args:
        path: Folder of the classes, or of the splits.
        test_fraction: Fraction of every class to hold out for testing. 0.2 by default.
        validation_fraction: Fraction of every class to hold out for validation. 0 by default.

    Raises:
        DatasetError: If the folder holds no audio file, or fractions are given for a folder that
            has its own splits.

    Example:

    >>> import os, tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("dog/1.wav", "dog/2.wav", "hen/1.wav", "hen/2.wav"):
    ...     os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
    ...     open(os.path.join(root, name), "w").close()
    >>> print(read_class_folders(root))
    folders: 2 labels; 2 train, 2 test; 20% of every class held out by name for testing
    """
    if not os.path.isdir(path):
        raise DatasetError(f"The folder does not exist. {_LAYOUT} Received: path={path!r}")
    names = subfolders(path)
    own_splits = bool(names) and set(names) <= set(SPLIT_NAMES)
    fractions = (test_fraction, validation_fraction)
    if own_splits and fractions != (None, None):
        raise DatasetError(
            "A folder with train/ and test/ has its own splits: omit the fractions. "
            f"Received: test_fraction={test_fraction}, validation_fraction={validation_fraction}"
        )
    roots = {name: os.path.join(path, name) for name in names} if own_splits else {"": path}
    found = [(s, *pair) for s, root in roots.items() for pair in _class_files(root)]
    if not found:
        raise DatasetError(f"The folder holds no audio file. {_LAYOUT} Received: path={path!r}")
    labels = LabelSet(tuple(sorted({name for _, name, _ in found})))
    notes: list[str] = []
    if own_splits:
        splits = [SPLIT_NAMES[split] for split, _, _ in found]
    else:
        test, validation = 0.2 if test_fraction is None else test_fraction, validation_fraction or 0
        keys = [os.path.relpath(file, path).replace(os.sep, "/") for _, _, file in found]
        splits = hold_out(keys, [name for _, name, _ in found], test, validation)
        notes += held_out_notes("every class", test, validation)
    examples: dict[str, list[tuple[str, tuple[int, ...]]]] = {s: [] for s in SPLIT_NAMES.values()}
    for split, (_, name, file) in zip(splits, found, strict=True):
        examples[split].append((file, (labels.index_of(name),)))
    return from_examples("folders", labels, examples, notes=notes)


def held_out_notes(of: str, test_fraction: float, validation_fraction: float) -> Iterator[str]:
    """Yields a note for each fraction that was held out."""
    for fraction, purpose in ((test_fraction, "testing"), (validation_fraction, "validation")):
        if fraction:
            yield f"{fraction:.0%} of {of} held out by name for {purpose}"


def _class_files(root: str) -> Iterator[tuple[str, str]]:
    """Yields pairs of class and path in alphabetical order."""
    for name in subfolders(root):
        for folder, inner, _ in os.walk(os.path.join(root, name)):
            inner[:] = sorted(i for i in inner if not i.startswith("."))
            for file in AudioFolder.scan(folder).by_stem.values():
                yield name, os.path.join(folder, file)

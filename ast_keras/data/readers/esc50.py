"""Reader of ESC-50 and ESC-10 (Piczak 2015), from the folder as the archive unpacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ast_keras.data.dataset import SoundDataset, from_examples
from ast_keras.data.left_out import LeftOut, left_out_notes, require_no_lost_class
from ast_keras.data.readers.audio_folder import AudioFolder
from ast_keras.data.readers.csv_table import integer, read_table
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_LAYOUT = (
    "ESC-50 is a folder with audio/ and meta/esc50.csv, as https://github.com/karolpiczak/ESC-50 "
    "unpacks."
)
_NOT_LISTED = "not in meta/esc50.csv (add them to it, or read your own data as a manifest)"
_COLUMNS = ("filename", "fold", "target", "category", "esc10")


@dataclass(frozen=True)
class Row:
    """One row of `meta/esc50.csv`."""

    filename: str
    fold: int
    target: int
    in_esc10: bool


def read_esc50(path: str, *, fold: int = 1, subset: str = "esc50") -> SoundDataset:
    """Reads ESC-50: one fold as the test split, the other folds as the training split.

    A partial copy is accepted: missing files are counted in the notes, and so are sounds in
    `audio/` that are not read. A file may have another audio suffix than in the table.

    Args:
        path: Folder with `audio/` and `meta/esc50.csv`.
        fold: Test fold, 1 to 5. The published accuracy is the mean over the five.
        subset: "esc50", or "esc10" for the subset of ten classes, whose labels are numbered from 0
            in the order of their ESC-50 numbers.

    Raises:
        DatasetError: If the folder is not ESC-50, or has no file of a split.

    Reference:
        Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.

    Example:

    >>> read_esc50("no/such/folder")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: Cannot read the table: No such file or directory. ...
    """
    check_subset(subset)
    table = os.path.join(path, "meta", "esc50.csv")
    all_rows = list(read_rows(table))
    rows = [row for row in all_rows if subset == "esc50" or row.in_esc10]
    check_fold(fold, {row.fold for row in rows}, table)
    audio = os.path.join(path, "audio")
    if not os.path.isdir(audio):
        raise DatasetError(f"The folder audio/ is missing. {_LAYOUT} Received: path={path!r}")
    official = LabelSet.load("esc50")
    targets = sorted({row.target for row in rows}) if subset == "esc10" else range(len(official))
    index_of = {target: index for index, target in enumerate(targets)}

    folder = AudioFolder.scan(audio)
    examples: dict[str, list[tuple[str, tuple[int, ...]]]] = {"train": [], "test": []}
    for row in rows:
        source = folder.find(row.filename)
        if source:
            split = "test" if row.fold == fold else "train"
            examples[split].append((source, (index_of[row.target],)))
    left_out = [*_left_out(folder, all_rows, {row.filename for row in rows}, official)]
    for split, pairs in examples.items():
        if not pairs:
            raise DatasetError(
                f"No file of the {split} split exists (test fold {fold}). {_LAYOUT} "
                f"Received: {'; '.join([f'path={audio!r}', *left_out_notes(left_out)])}"
            )
    missing = len(rows) - sum(map(len, examples.values()))
    notes = [f"{missing} of {len(rows)} files are missing from {audio}"] if missing else []
    labels = official.subset(targets)
    read = {labels.names[target] for pairs in examples.values() for _, (target,) in pairs}
    require_no_lost_class(left_out, read, audio)
    return from_examples(subset, labels, examples, notes=notes, left_out=left_out)


def _left_out(
    folder: AudioFolder, rows: Sequence[Row], wanted: Collection[str], labels: LabelSet
) -> Iterator[LeftOut]:
    """Yields the sounds in `audio/` that are not read, except those outside the subset."""
    by_stem = {os.path.splitext(row.filename)[0]: row for row in rows}
    for sound in folder.left_out:
        row = by_stem.get(os.path.splitext(sound.path)[0])
        if row is None:
            yield sound
        elif row.filename in wanted:
            yield dataclasses.replace(sound, label=labels.names[row.target])
    for stem, name in folder.by_stem.items():
        if stem not in by_stem:
            yield LeftOut(name, _NOT_LISTED)


def check_subset(subset: str) -> None:
    """Raises a `DatasetError` unless the subset is "esc50" or "esc10"."""
    if subset not in ("esc50", "esc10"):
        raise DatasetError(f'subset must be "esc50" or "esc10". Received: subset={subset!r}')


def check_fold(fold: int, folds: Collection[int], where: str) -> None:
    """Raises a `DatasetError` unless the test fold is one of `folds`."""
    if fold not in folds:
        known = ", ".join(map(str, sorted(folds)))
        raise DatasetError(f"fold must be one of {known}. Received: fold={fold!r} of {where}")


def read_rows(table: str) -> Iterator[Row]:
    """Yields the validated rows of the table, in order."""
    names = LabelSet.load("esc50").names
    seen: dict[str, int] = {}
    rows = read_table(table, _COLUMNS, _LAYOUT).rows
    for line, row in rows:
        target = integer(row["target"], "target", table, line)
        if not 0 <= target < len(names) or row["category"] != names[target]:
            raise DatasetError(
                "target and category must be those of ESC-50; read other data as a manifest. "
                f"Received: {table} line {line}: {target}, {row['category']!r}"
            )
        if row["esc10"] not in ("True", "False"):
            raise DatasetError(
                f"esc10 must be True or False. Received: {table} line {line}: {row['esc10']!r}"
            )
        if row["filename"] in seen:
            raise DatasetError(
                "A file must occur only once, so that it is not in both splits. "
                f"Received: {table} lines {seen[row['filename']]} and {line}: {row['filename']}"
            )
        seen[row["filename"]] = line
        fold = integer(row["fold"], "fold", table, line)
        yield Row(row["filename"], fold, target, row["esc10"] == "True")

"""ESC-50 and ESC-10 (Piczak 2015), read from the folder as its archive unpacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ast_keras.data.dataset import SoundDataset, from_examples
from ast_keras.data.readers.audio_folder import AudioFolder
from ast_keras.data.readers.csv_table import integer, read_table
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_LAYOUT = (
    "ESC-50 is a folder with audio/ and meta/esc50.csv, as https://github.com/karolpiczak/ESC-50 "
    "unpacks."
)
_COLUMNS = ("filename", "fold", "target", "category", "esc10")


@dataclass(frozen=True)
class _Row:
    filename: str
    fold: int
    target: int


def read_esc50(path: str, *, fold: int = 1, subset: str = "esc50") -> SoundDataset:
    """Reads ESC-50: the clips of one fold are the test split, those of the others train.

    A partial copy is read as far as it goes: absent files are counted in the notes. A file may
    have another audio suffix than the table gives it.

    Args:
      path: The folder with `audio/` and `meta/esc50.csv`.
      fold: The test fold, 1 to 5; the published accuracy is the mean over the five.
      subset: "esc50", or "esc10" for its ten-class subset, whose labels are numbered from 0 in the
        order of their ESC-50 numbers.

    Raises:
      DatasetError: If the folder is not one of ESC-50 or has no file of a split.

    Reference: Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.

    Example:

    >>> read_esc50("no/such/folder")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: Cannot read the table: No such file or directory. \
ESC-50 is a folder with audio/ and meta/esc50.csv, as https://github.com/karolpiczak/ESC-50 \
unpacks. Received: no/such/folder/meta/esc50.csv
    """
    if subset not in ("esc50", "esc10"):
        raise DatasetError(f'subset must be "esc50" or "esc10". Received: subset={subset!r}')
    table = os.path.join(path, "meta", "esc50.csv")
    rows = list(read_rows(table, subset))
    folds = sorted({row.fold for row in rows})
    if fold not in folds:
        raise DatasetError(
            f"fold must be one of {', '.join(map(str, folds))}. Received: fold={fold!r} of {table}"
        )
    audio = os.path.join(path, "audio")
    if not os.path.isdir(audio):
        raise DatasetError(f"There is no folder audio/. {_LAYOUT} Received: path={path!r}")
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
    for split, pairs in examples.items():
        if not pairs:
            raise DatasetError(
                f"None of the files of the {split} split is there (test fold {fold}). {_LAYOUT} "
                f"Received: path={audio!r}"
            )
    missing = len(rows) - sum(map(len, examples.values()))
    notes = [f"{missing} of {len(rows)} files are missing from {audio}"] if missing else []
    return from_examples(subset, official.subset(targets), examples, notes=notes)


def read_rows(table: str, subset: str) -> Iterator[_Row]:
    """Yields the subset's rows in the order of the table, each checked."""
    names = LabelSet.load("esc50").names
    seen: dict[str, int] = {}
    _, rows = read_table(table, _COLUMNS, _LAYOUT)
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
                "A file may occur once, else it could be trained and tested on. "
                f"Received: {table} lines {seen[row['filename']]} and {line}: {row['filename']}"
            )
        seen[row["filename"]] = line
        if subset == "esc50" or row["esc10"] == "True":
            yield _Row(row["filename"], integer(row["fold"], "fold", table, line), target)

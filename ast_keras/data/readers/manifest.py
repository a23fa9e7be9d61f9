"""Reader of a manifest: a CSV file with the path and labels of each audio file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ast_keras.data.dataset import SPLIT_NAMES, SoundDataset, from_examples
from ast_keras.data.readers.audio_folder import hold_out, missing_files
from ast_keras.data.readers.class_folders import held_out_notes
from ast_keras.data.readers.csv_table import integer, read_table
from ast_keras.errors import DatasetError, LabelError, did_you_mean
from ast_keras.labels import PUBLISHED, LabelSet

_FORMAT = (
    "A manifest is a CSV with the columns path,labels and optionally split (train, validation, "
    'test) or fold. A folder with a folder for each class is data.kind="folders".'
)


@dataclass(frozen=True)
class _Row:
    line: int
    path: str  # joined to the manifest's folder
    labels: tuple[str, ...]
    split: str  # "" if the manifest has no such column
    fold: int | None


def read_manifest(
    path: str,
    *,
    labels_path: str | None = None,
    fold: int | None = None,
    multi_label: bool | None = None,
    allow_missing: bool = False,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
) -> SoundDataset:
    """Reads a CSV with the columns `path`, `labels` (separated by `;`) and `split` or `fold`.

    Without a column for the split, examples of every class are held out by a hash of their paths.
    In multi-label data an empty cell of labels is an example of none of the classes; otherwise it
    is an error. A path must occur only once, so that no file is in both training and test.

    Args:
        path: Path of the CSV. The paths in it are absolute or relative to its folder.
        labels_path: File for `LabelSet.from_file`, or "audioset", "esc50" or "speech_commands" for
            the published lists. By default the labels of the manifest, in alphabetical order.
        fold: Test fold of a manifest with a column `fold`; the other folds are for training.
        multi_label: Whether a file may have any number of labels. By default True if one has
            several.
        allow_missing: Whether files that do not exist are dropped and counted in the notes.
        test_fraction: Fraction to hold out for testing if no row is for testing. By default 0.2 if
            the manifest has no splits.
        validation_fraction: Fraction to hold out for validation if no row is for validation. 0 by
            default.

    Raises:
        DatasetError: If the table, a label or a file is not as described, with the line.

    Example:

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("a.wav", "b.wav"):
    ...     open(os.path.join(root, name), "w").close()
    >>> path = os.path.join(root, "farm.csv")
    >>> _ = open(path, "w").write("path,labels,split\\na.wav,dog;hen,train\\nb.wav,,test\\n")
    >>> print(read_manifest(path))
    farm: 2 labels; 1 train, 1 test
    """
    columns, table = read_table(path, ("path", "labels"), _FORMAT)
    rows = list(_read_rows(path, table))
    if not rows:
        raise DatasetError(f"The manifest has no rows. {_FORMAT} Received: {path}")
    if multi_label is None:
        multi_label = any(len(row.labels) > 1 for row in rows)
    if not multi_label:
        _require_one_label(path, rows)
    labels = _labels(rows, labels_path)
    targets = [_targets(path, row, labels) for row in rows]
    groups = [0 if multi_label else t[0] for t in targets]
    fractions = (test_fraction, validation_fraction)
    splits, notes = _splits(path, rows, columns, fold, fractions, groups)

    missing = set(missing_files(row.path for row in rows))
    if len(missing) == len(rows) or (missing and not allow_missing):
        raise _missing_error(path, rows, missing)
    if missing:
        notes.append(f"{len(missing)} of {len(rows)} files do not exist and were dropped")
    examples: dict[str, list[tuple[str, tuple[int, ...]]]] = {s: [] for s in SPLIT_NAMES.values()}
    for row, target, split in zip(rows, targets, splits, strict=True):
        if row.path not in missing:
            examples[split].append((row.path, target))
    name = os.path.splitext(os.path.basename(path))[0]
    return from_examples(name, labels, examples, multi_label=multi_label, notes=notes)


def manifest_folds(path: str) -> tuple[int, ...]:
    """Returns the folds in the column `fold` of a manifest, ascending; empty without the column.

    Raises:
        DatasetError: If the manifest cannot be read.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "farm.csv")
    >>> _ = open(path, "w").write("path,labels,fold\\na.wav,dog,2\\nb.wav,hen,1\\n")
    >>> manifest_folds(path)
    (1, 2)
    """
    _, table = read_table(path, ("path", "labels"), _FORMAT)
    return tuple(sorted({row.fold for row in _read_rows(path, table) if row.fold is not None}))


def _read_rows(path: str, table: Iterator[tuple[int, dict[str, str]]]) -> Iterator[_Row]:
    seen: dict[str, int] = {}
    for line, cells in table:
        if not cells["path"]:
            raise DatasetError(f"The path must not be empty. Received: {path} line {line}")
        file = os.path.normpath(os.path.join(os.path.dirname(path), cells["path"]))
        if file in seen:
            raise DatasetError(
                "A path must occur only once; separate several labels of a file by ';'. "
                f"Received: {path} lines {seen[file]} and {line}: {cells['path']}"
            )
        seen[file] = line
        split = cells.get("split")
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise DatasetError(
                f"split must be train, validation or test. Received: {path} line {line}: {split!r}"
            )
        yield _Row(
            line=line,
            path=file,
            labels=tuple(label.strip() for label in cells["labels"].split(";") if label.strip()),
            split=SPLIT_NAMES[split.lower()] if split else "",
            fold=integer(cells["fold"], "fold", path, line) if "fold" in cells else None,
        )


def _require_one_label(path: str, rows: Sequence[_Row]) -> None:
    for row in rows:
        if len(row.labels) != 1:
            raise DatasetError(
                "Single-label data needs exactly one label for each file; set multi_label=True to "
                f"allow any number. Received: {path} line {row.line}: {len(row.labels)} labels"
            )


def _labels(rows: Sequence[_Row], labels_path: str | None) -> LabelSet:
    if labels_path is None:
        names = sorted({label for row in rows for label in row.labels})
        if not names:
            raise DatasetError(f"No row has a label. Received: {len(rows)} rows without labels")
        return LabelSet(tuple(names))
    try:
        if labels_path in PUBLISHED:
            return LabelSet.load(labels_path)
        return LabelSet.from_file(os.path.expanduser(labels_path))
    except LabelError as error:
        raise DatasetError(str(error)) from None


def _targets(path: str, row: _Row, labels: LabelSet) -> tuple[int, ...]:
    try:
        return tuple(sorted({labels.index_of(label) for label in row.labels}))
    except LabelError as error:
        raise DatasetError(f"{error} in {path} line {row.line}") from None


def _splits(
    path: str,
    rows: Sequence[_Row],
    columns: Sequence[str],
    fold: int | None,
    fractions: tuple[float | None, float | None],
    groups: Sequence[int],
) -> tuple[list[str], list[str]]:
    """Returns the split of every row, and notes on how the splits were made."""
    if fold is not None:
        splits = _by_fold(path, rows, columns, fold)
    elif "split" in columns:
        splits = [row.split for row in rows]
    elif "fold" in columns:
        folds = ", ".join(map(str, sorted({row.fold for row in rows if row.fold is not None})))
        raise DatasetError(
            f"The manifest has folds: set fold to the test fold ({folds}). Received: {path}"
        )
    else:
        test, validation = 0.2 if fractions[0] is None else fractions[0], fractions[1] or 0.0
        return _held_out(path, rows, groups, test, validation)
    if fractions == (None, None):
        only_train = set(splits) == {"train"}
        return splits, [
            "no test rows; set test_fraction=0.2 to hold some out"
        ] if only_train else []
    if set(splits) != {"train"}:
        raise DatasetError(
            "Fractions can be held out only if all rows of the manifest are for training. "
            f"Received: test_fraction={fractions[0]}, validation_fraction={fractions[1]} with "
            f"{path}, which has {', '.join(sorted(set(splits)))}"
        )
    return _held_out(path, rows, groups, fractions[0] or 0.0, fractions[1] or 0.0)


def _by_fold(path: str, rows: Sequence[_Row], columns: Sequence[str], fold: int) -> list[str]:
    if "fold" not in columns:
        raise DatasetError(
            "fold needs a column named fold in the manifest. "
            f"{did_you_mean('fold', columns)} Received: fold={fold} with {path}"
        )
    folds = sorted({row.fold for row in rows if row.fold is not None})
    if fold not in folds or len(folds) == 1:
        raise DatasetError(
            "The manifest must have at least two folds, and fold must be one of them: "
            f"{', '.join(map(str, folds))}. Received: fold={fold!r} with {path}"
        )
    return ["test" if row.fold == fold else "train" for row in rows]


def _held_out(
    path: str, rows: Sequence[_Row], groups: Sequence[int], test: float, validation: float
) -> tuple[list[str], list[str]]:
    root = os.path.dirname(path) or "."
    keys = [os.path.relpath(row.path, root).replace(os.sep, "/") for row in rows]
    of = "every class" if len(set(groups)) > 1 else "the files"
    return hold_out(keys, groups, test, validation), [*held_out_notes(of, test, validation)]


def _missing_error(path: str, rows: Sequence[_Row], missing: set[str]) -> DatasetError:
    if len(missing) == len(rows):
        rule, fix = f"None of the {len(rows)} files exists.", ""
    else:
        rule = f"{len(missing)} of {len(rows)} files do not exist."
        fix = " Set allow_missing=True to drop them."
    absent = [f"line {row.line}: {row.path}" for row in rows if row.path in missing][:3]
    more = ", ..." if len(missing) > 3 else ""
    return DatasetError(
        f"{rule} Paths are relative to the manifest's folder.{fix} "
        f"Received: {path} {', '.join(absent)}{more}"
    )

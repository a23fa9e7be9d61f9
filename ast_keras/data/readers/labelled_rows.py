"""Rows of recording, span, labels, split and group as a data set, whatever file they come from."""

from __future__ import annotations

import collections
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ast_keras.data.dataset import SPLIT_NAMES, SoundDataset, Source, from_examples
from ast_keras.data.readers.audio_folder import missing_files
from ast_keras.data.readers.groups import Grouping, groups_by_pattern
from ast_keras.data.readers.label_cells import check_labels
from ast_keras.data.readers.row import Row
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError, LabelError
from ast_keras.labels import PUBLISHED, LabelSet, spellings


@dataclass(frozen=True)
class RowSettings:
    """Settings of the readers that read rows; see `read_manifest`."""

    labels_path: str | None = None
    fold: int | None = None
    multi_label: bool | None = None
    allow_missing: bool = False
    test_fraction: float | None = None
    validation_fraction: float | None = None
    group_pattern: str | None = None


def dataset_of_rows(
    path: str, root: str, rows: Sequence[Row], settings: RowSettings, notes: Sequence[str] = ()
) -> SoundDataset:
    """Makes a data set from rows, at least one.

    Args:
        path: Path of the table or of the annotated folder, for messages.
        root: Folder to which paths in hashes and patterns are relative.
        rows: The rows. They have splits, or folds, or neither.
        settings: Settings of the reader.
        notes: Messages about the rows.

    Raises:
        DatasetError: If the labels, splits or groups are inconsistent, or a file does not exist.
    """
    rows, missing = _find_files(rows)
    if len(missing) == len(rows) or (missing and not settings.allow_missing):
        raise _missing_error(path, rows, missing)
    _require_distinct(rows)
    notes = [*notes, *_segment_notes(rows)]
    multi_label = settings.multi_label
    if multi_label is None:
        multi_label = any(len(row.labels) > 1 for row in rows)
    if not multi_label:
        _require_one_label(rows)
    if settings.labels_path is None:
        notes += check_labels(rows)
    labels = _labels(path, rows, settings.labels_path)
    for group in spellings(labels.names) if settings.labels_path is None else ():
        listed = ", ".join(map(repr, group))
        notes.append(f"labels that differ only in case or separators are different: {listed}")
    targets = [_targets(row, labels) for row in rows]
    grouping, group_notes = _group(root, rows, settings.group_pattern)
    splits, split_notes = _splits(path, rows, targets, multi_label, settings, grouping)
    notes += [*group_notes, *split_notes]
    if missing:
        notes.append(f"{len(missing)} of {len(rows)} files do not exist and were dropped")
    examples: dict[str, list[tuple[Source, tuple[int, ...]]]] = {}
    for name in SPLIT_NAMES.values():
        examples[name] = []
    for row, target, split in zip(rows, targets, splits, strict=True):
        if row.path not in missing:
            examples[split].append((row.source, target))
    name = os.path.splitext(os.path.basename(os.path.abspath(path)))[0]
    return from_examples(name, labels, examples, multi_label=multi_label, notes=notes)


def _find_files(rows: Sequence[Row]) -> tuple[list[Row], set[str]]:
    """Returns the rows with the paths as the disk spells them, and the paths that do not exist."""
    missing = set(missing_files({row.path: None for row in rows}))
    spelled = {path: found for path in missing if (found := _spelled_otherwise(path))}
    if spelled:
        rows = [replace(row, path=spelled.get(row.path, row.path)) for row in rows]
    return list(rows), missing - set(spelled)


def _spelled_otherwise(path: str) -> str | None:
    """Returns the path of a file with slashes for `\\`, or in the other Unicode form."""
    slashed = os.path.normpath(path.replace("\\", "/"))
    for form in ("NFC", "NFD"):
        candidate = unicodedata.normalize(form, slashed)
        if os.path.exists(candidate):
            return candidate
    return slashed if os.path.exists(slashed) else None


def _require_distinct(rows: Sequence[Row]) -> None:
    seen: dict[str | Segment, Row] = {}
    for row in rows:
        first = seen.setdefault(row.source, row)
        if first is not row:
            raise DatasetError(
                "A path must occur only once, or with different start and end; separate several "
                f"labels of a sound by ';'. Received: {row.file} lines {first.line} and {row.line}:"
                f" {row.source}"
            )


def _segment_notes(rows: Sequence[Row]) -> list[str]:
    segments = [row.source for row in rows if row.start_seconds is not None]
    if not segments:
        return []
    recordings = len({segment.path for segment in segments})  # type: ignore[union-attr]
    return [
        f"{len(segments)} segments of {recordings} recordings; what lies between them is not used"
    ]


def _require_one_label(rows: Sequence[Row]) -> None:
    for row in rows:
        if len(row.labels) != 1:
            raise DatasetError(
                "Single-label data needs exactly one label for each sound; set multi_label=True to "
                f"allow any number. Received: {row.place}: {len(row.labels)} labels"
            )


def _labels(path: str, rows: Sequence[Row], labels_path: str | None) -> LabelSet:
    if labels_path is None:
        names = sorted({label for row in rows for label in row.labels})
        if not names:
            raise DatasetError(
                f"No row has a label. Received: {path}, {len(rows)} rows without labels"
            )
        return LabelSet(tuple(names))
    try:
        if labels_path in PUBLISHED:
            return LabelSet.load(labels_path)
        return LabelSet.from_file(os.path.expanduser(labels_path))
    except LabelError as error:
        raise DatasetError(str(error)) from None


def _targets(row: Row, labels: LabelSet) -> tuple[int, ...]:
    try:
        return tuple(sorted({labels.index_of(label) for label in row.labels}))
    except LabelError as error:
        raise DatasetError(f"{error} in {row.place}") from None


def _group(root: str, rows: Sequence[Row], pattern: str | None) -> tuple[Grouping, list[str]]:
    """Returns the groups of rows, from their column, a pattern or the recordings, and notes."""
    files = [_relative(row.path, root) for row in rows]
    keys = [
        file if row.start_seconds is None else file + str(row.source).removeprefix(row.path)
        for file, row in zip(files, rows, strict=True)
    ]
    places = [row.place for row in rows]
    has_column = any(row.group for row in rows)
    if pattern is None:
        # A row without a group is grouped with other segments of its recording.
        groups = [row.group or file for row, file in zip(rows, files, strict=True)]
        return Grouping(keys, groups, has_column, places), []
    if has_column:
        raise DatasetError(
            "The table has a column group: omit group_pattern, or rename the column. "
            f"Received: group_pattern={pattern!r} with {rows[0].file}"
        )
    groups, notes = groups_by_pattern(files, pattern)
    return Grouping(keys, groups, True, places), notes


def _relative(path: str, root: str) -> str:
    """Returns a path relative to the data, with `/`."""
    folder = os.path.join(root, "")
    if root and path.startswith(folder):  # os.path.relpath alone takes ten times as long
        return path.removeprefix(folder).replace(os.sep, "/")
    return os.path.relpath(path, root or ".").replace(os.sep, "/")


def _splits(
    path: str,
    rows: Sequence[Row],
    targets: Sequence[tuple[int, ...]],
    multi_label: bool,
    settings: RowSettings,
    grouping: Grouping,
) -> tuple[list[str], list[str]]:
    """Returns the split of every row, and notes on how the splits were made."""
    fractions = (settings.test_fraction, settings.validation_fraction)
    has_folds, has_splits = rows[0].fold is not None, bool(rows[0].split)
    if settings.fold is not None:
        splits = _by_fold(path, rows, settings.fold)
    elif has_splits:
        splits = [row.split for row in rows]
    elif has_folds:
        folds = ", ".join(map(str, sorted({row.fold for row in rows if row.fold is not None})))
        raise DatasetError(
            f"The manifest has folds: set fold to the test fold ({folds}). Received: {path}"
        )
    else:
        splits = ["train"] * len(rows)
        fractions = (0.2 if fractions[0] is None else fractions[0], fractions[1])
    if has_splits or has_folds:
        grouping.require_whole([row.fold if has_folds else row.split for row in rows])
    if fractions == (None, None):
        only_train = set(splits) == {"train"}
        advice = "no test rows; set test_fraction=0.2 to hold some out"
        return splits, [*grouping.torn_notes(splits), *([advice] if only_train else [])]
    if set(splits) != {"train"}:
        raise DatasetError(
            "Fractions can be held out only if all rows of the manifest are for training. "
            f"Received: test_fraction={fractions[0]}, validation_fraction={fractions[1]} with "
            f"{path}, which has {', '.join(sorted(set(splits)))}"
        )
    classes: list[int] = [0 if multi_label else target[0] for target in targets]
    if multi_label and len({*grouping.groups}) < len(rows):
        # By the rarest label of each, so that rare ones are tested too.
        counts = collections.Counter(label for target in targets for label in target)
        classes = [min(target, key=lambda t: (counts[t], t), default=-1) for target in targets]
    return grouping.hold_out(classes, fractions[0] or 0.0, fractions[1] or 0.0)


def _by_fold(path: str, rows: Sequence[Row], fold: int) -> list[str]:
    folds = sorted({row.fold for row in rows if row.fold is not None})
    if not folds:
        raise DatasetError(
            f"fold needs a column named fold in the manifest. Received: fold={fold} with {path}"
        )
    if fold not in folds or len(folds) == 1:
        raise DatasetError(
            "The manifest must have at least two folds, and fold must be one of them: "
            f"{', '.join(map(str, folds))}. Received: fold={fold!r} with {path}"
        )
    return ["test" if row.fold == fold else "train" for row in rows]


def _missing_error(path: str, rows: Sequence[Row], missing: set[str]) -> DatasetError:
    absent = {row.path: row for row in reversed(rows) if row.path in missing}
    total = len({row.path for row in rows})
    if len(absent) == total:
        rule, fix = f"None of the {total} files exists.", ""
    else:
        rule = f"{len(absent)} of {total} files do not exist."
        fix = " Set allow_missing=True to drop them."
    listed = [f"line {row.line}: {row.path}" for row in [*absent.values()][::-1]][:3]
    more = ", ..." if len(absent) > 3 else ""
    return DatasetError(
        f"{rule} Paths are relative to the manifest's folder.{fix} "
        f"Received: {path} {', '.join(listed)}{more}"
    )

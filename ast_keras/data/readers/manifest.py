"""Reader of a manifest: a table with the path and labels of each audio file or segment."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator

from ast_keras.data.dataset import SoundDataset, split_of_name
from ast_keras.data.readers.csv_table import Table, integer, read_table
from ast_keras.data.readers.label_cells import is_missing, split_labels
from ast_keras.data.readers.labelled_rows import RowSettings, dataset_of_rows
from ast_keras.data.readers.row import Row
from ast_keras.errors import DatasetError

_FORMAT = (
    "A manifest is a CSV with the columns path,labels and optionally split (train, validation, "
    'test) or fold. A folder with a folder for each class is data.kind="folders".'
)
_OTHER_NAMES = {
    "path": (
        "file", "filename", "file_name", "filepath", "file_path", "fname", "audio_path",
        "audio_file", "audio_filename", "recording", "begin file",
    ),
    "labels": (
        "label", "class", "classes", "class_name", "category", "tag", "tags", "target",
        "event_label", "species", "annotation",
    ),
    "start": (
        "start_seconds", "start_s", "start_sec", "start_time", "start (s)", "begin", "begin_time",
        "begin time (s)", "onset", "onset_seconds", "tmin",
    ),
    "end": (
        "end_seconds", "end_s", "end_sec", "end_time", "end (s)", "stop", "end time (s)", "offset",
        "offset_seconds", "tmax",
    ),
    "duration": ("duration_seconds", "duration_s", "duration_sec", "duration (s)"),
}  # fmt: skip
_COLUMNS = ("path", "labels", "split", "fold", "group", "start", "end")
_OTHER_UNIT = re.compile(
    r"(start|begin|onset|end|stop|offset)\w*[\s_(]+(ms|msec|millis\w*|samples?|frames?)\)?"
)


def read_manifest(
    path: str,
    *,
    labels_path: str | None = None,
    label_column: str | None = None,
    fold: int | None = None,
    multi_label: bool | None = None,
    allow_missing: bool = False,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    group_pattern: str | None = None,
) -> SoundDataset:
    """Reads a table with the columns `path`, `labels` (separated by `;`) and optional others.

    The columns `start` and `end` or `duration` (seconds) make an example of a part of a recording;
    an empty `end` is the end of the recording. Without a column `split` or `fold`, examples of
    every class are held out by a hash of their paths. Examples with the same value in a column
    `group`, and segments of the same recording, are held out together. In multi-label data an empty
    cell of labels is an example of none of the classes; otherwise it is an error.

    Args:
        path: Path of the table. The paths in it are absolute or relative to its folder.
        labels_path: File for `LabelSet.from_file`, or "audioset", "esc50" or "speech_commands" for
            the published lists. By default the labels of the manifest, in alphabetical order.
        label_column: Name of the column with the labels. By default `labels` or a usual name.
        fold: Test fold of a manifest with a column `fold`; the other folds are for training.
        multi_label: Whether a file may have any number of labels. By default True if one has
            several.
        allow_missing: Whether files that do not exist are dropped and counted in the notes.
        test_fraction: Fraction to hold out for testing if no row is for testing. By default 0.2 if
            the manifest has no splits. 1 tests on all rows.
        validation_fraction: Fraction to hold out for validation if no row is for validation. 0 by
            default.
        group_pattern: Regular expression that finds the group of an example in its path.

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
    label_column = (label_column or "labels").strip().lower()
    table = read_table(path, ("path", label_column), _FORMAT, other_names=_OTHER_NAMES)
    rows = list(_read_rows(path, table, label_column))
    if not rows:
        raise DatasetError(f"The manifest has no rows. {_FORMAT} Received: {path}")
    used = [label_column, *(name for name in _COLUMNS if name != "labels")]
    if "start" in table.columns and "end" not in table.columns:
        used.append("duration")
    unused = [name or "(without a name)" for name in table.columns if name not in used]
    notes = [f"columns that are not used: {', '.join(unused)}"] if unused else []
    settings = RowSettings(
        labels_path=labels_path,
        fold=fold,
        multi_label=multi_label,
        allow_missing=allow_missing,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        group_pattern=group_pattern,
    )
    return dataset_of_rows(path, os.path.dirname(path), rows, settings, notes)


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
    table = read_table(path, ("path",), _FORMAT, other_names=_OTHER_NAMES)
    if "fold" not in table.columns:
        return ()
    return tuple(sorted({integer(cells["fold"], "fold", path, n) for n, cells in table.rows}))


def _read_rows(path: str, table: Table, label_column: str) -> Iterator[Row]:
    if "end" in table.columns and "start" not in table.columns:
        raise DatasetError(
            f"A column for the end of segments needs one named start. Received: {path}"
        )
    if wrong := next(filter(_OTHER_UNIT.fullmatch, table.columns), None):
        raise DatasetError(
            "The times of segments must be in seconds: convert them and name the columns start and "
            f"end. Received: {path} with the column {wrong}"
        )
    has_spans, has_splits = "start" in table.columns, "split" in table.columns
    until = "end" if "end" in table.columns else "duration"
    find_split = functools.cache(split_of_name)
    folder, comma = os.path.dirname(path), table.delimiter != ","
    for line, cells in table.rows:
        place = f"{path} line {line}"
        if not cells["path"]:
            raise DatasetError(f"The path must not be empty. Received: {place}")
        group, split = cells.get("group", ""), find_split(cells["split"]) if has_splits else ""
        if split is None:
            raise DatasetError(
                f"split must be train, validation or test. Received: {place}: {cells['split']!r}"
            )
        if group and is_missing(group):
            raise DatasetError(
                f"A missing group must be an empty cell. Received: {place}: {group!r}"
            )
        file = os.path.expanduser(cells["path"])
        start, end = None, None
        if has_spans:
            start, end = (
                seconds(cells.get(name, ""), name, place, decimal_comma=comma)
                for name in ("start", until)
            )
            if end is not None and until == "duration":
                end += start or 0.0
        if start is not None or end is not None:
            start = start or 0.0
            require_span(start, end, place)
        yield Row(
            file=path,
            line=line,
            path=os.path.normpath(os.path.join(folder, file)),
            labels=split_labels(cells[label_column], place),
            start_seconds=start,
            end_seconds=end,
            split=split,
            fold=integer(cells["fold"], "fold", path, line) if "fold" in cells else None,
            group=group,
        )


def seconds(cell: str, column: str, place: str, *, decimal_comma: bool = True) -> float | None:
    """Returns the time in a cell; None if the cell is empty.

    Args:
        cell: The cell.
        column: Name of its column, for errors.
        place: File and line, for errors.
        decimal_comma: Whether the decimals may follow a comma, as German programs write them.

    Raises:
        DatasetError: If the cell is not a number of seconds.

    Example:

    >>> seconds("12,5", "start", "line 2"), seconds("", "end", "line 2")
    (12.5, None)
    """
    if not cell:
        return None
    try:
        value = float(cell.replace(",", ".") if decimal_comma else cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise DatasetError(
            f"{column} must be a number of seconds, not negative; rename the column if it is not "
            f"a time in the recording. Received: {place}: {cell!r}"
        )
    return value


def require_span(start: float, end: float | None, place: str) -> None:
    """Checks that a segment ends after its start.

    Args:
        start: Start in seconds.
        end: End in seconds; None is the end of the recording.
        place: File and line, for the error.

    Raises:
        DatasetError: If it does not.

    Example:

    >>> require_span(2.0, None, "line 2")
    """
    if end is not None and end <= start:
        raise DatasetError(
            f"A segment must end after its start. Received: {place}: start={start:g}, end={end:g}"
        )

"""Reader of recordings with annotation files next to them: Audacity labels, Raven selections.

`monday.wav` is annotated by `monday.txt`, or by a file such as `monday.Table.1.selections.txt`. A
Raven table may also name its recording in the column `Begin File`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ast_keras.data.dataset import SoundDataset, split_of_name
from ast_keras.data.left_out import left_out_notes
from ast_keras.data.readers.audio_folder import (
    SoundTree,
    is_audio,
    walk_folders,
    why_left_out,
)
from ast_keras.data.readers.csv_table import read_lines, read_table
from ast_keras.data.readers.label_cells import split_labels
from ast_keras.data.readers.labelled_rows import RowSettings, dataset_of_rows
from ast_keras.data.readers.manifest import require_span, seconds
from ast_keras.data.readers.row import Row
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError

_LAYOUT = (
    "Annotated recordings are a folder of sounds with the annotations of NAME.wav in NAME.txt, "
    "labels of Audacity or a selection table of Raven."
)
_SUFFIXES = (".txt", ".tsv")
_AUDACITY = re.compile(r"\s*\d+([.,]\d*)?\t\s*\d+([.,]\d*)?\s*(\t|$)")
_ANNOTATIONS = re.compile(
    r"[\s._-]+(labels?|label ?track|annotations?|selections?)$", re.IGNORECASE
)
_BEGIN, _END, _FILE, _OFFSET = "begin time (s)", "end time (s)", "begin file", "file offset (s)"
# Columns in which users of Raven write the class.
_LABEL_COLUMNS = (
    "annotation", "annotations", "label", "labels", "species", "species code", "common name",
    "call type", "class", "type", "tags", "tag", "id", "sound type", "category",
)  # fmt: skip


def read_annotations(
    path: str,
    *,
    labels_path: str | None = None,
    label_column: str | None = None,
    multi_label: bool | None = None,
    allow_missing: bool = False,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    group_pattern: str | None = None,
) -> SoundDataset:
    """Reads a folder of recordings with an annotation file next to each.

    Each annotation is an example: the span of the recording from its start to its end. Several
    annotations of one span are one example with several labels. All annotations of a recording are
    in the same split.

    Args:
        path: The folder, or a single annotation file next to its recording.
        labels_path: File for `LabelSet.from_file`, or the name of published labels. By default the
            labels of the annotations, in alphabetical order.
        label_column: Column with the labels in Raven's tables. By default `Annotation` or a usual
            name.
        multi_label: Whether a span may have any number of labels. By default True if one has
            several.
        allow_missing: Whether annotations without their recording are dropped and counted.
        test_fraction: Fraction of every class to hold out for testing. 0.2 by default.
        validation_fraction: Fraction of every class to hold out for validation. 0 by default.
        group_pattern: Regular expression that finds in the path of a recording the group that stays
            in one split, such as its site. By default each recording is a group.

    Raises:
        DatasetError: If there are no annotations, or they are invalid, with the line.

    Example:

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> for day in ("monday", "sunday"):
    ...     open(os.path.join(root, f"{day}.wav"), "w").close()
    ...     with open(os.path.join(root, f"{day}.txt"), "w") as file:
    ...         _ = file.write("1.5\\t2\\tdog\\n4\\t5.5\\then\\n")
    >>> dataset = read_annotations(root)
    >>> dataset.labels.names, len(dataset.split("train")), len(dataset.split("test"))
    (('dog', 'hen'), 2, 2)
    """
    root = path if os.path.isdir(path) else os.path.dirname(path) or "."
    files, recordings = _scan(root)
    if not os.path.isdir(path):
        if not is_annotation_file(path):
            raise DatasetError(f"This is no annotation file. {_LAYOUT} Received: {path}")
        files = {f: found for f, found in files.items() if os.path.samefile(f, path)}
    rows: list[Row] = []
    left_out = SoundTree.scan(path).left_out if os.path.isdir(path) else ()
    notes = [*left_out_notes(left_out)]
    for file, found in files.items():
        if is_annotation_file(file):
            rows += _read_file(file, found, label_column)
    if not rows:
        raise DatasetError(f"There are no annotations of a sound. {_LAYOUT} Received: {path}")
    annotated = {row.path for row in rows}
    without = [os.path.relpath(file, root) for file in recordings if file not in annotated]
    points = [row.place for row in rows if row.start_seconds == row.end_seconds]
    rows = [row for row in rows if row.start_seconds != row.end_seconds]
    unlabelled = [row.place for row in rows if not row.labels and not multi_label]
    rows = _merged(row for row in rows if row.labels or multi_label)
    for places, what in (
        (without if os.path.isdir(path) else [], "recordings without annotations"),
        (points, "annotations of a point in time, which has no length,"),
        (unlabelled, "annotations without a label"),
    ):
        if places:
            first = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            notes.append(f"{len(places)} {what} are not used: {first}")
    if not rows:
        raise DatasetError(f"No annotation can be used. Received: {path} with {'; '.join(notes)}")
    settings = RowSettings(
        labels_path=labels_path,
        multi_label=multi_label,
        allow_missing=allow_missing,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        group_pattern=group_pattern,
    )
    return dataset_of_rows(path, root, _with_splits(rows, root), settings, notes)


def is_annotation_file(path: str) -> bool:
    """Returns whether a file holds labels of Audacity or selections of Raven.

    Args:
        path: Path of the file.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "monday.txt")
    >>> _ = open(path, "w").write("1.5\\t2.25\\tdog\\n")
    >>> is_annotation_file(path)
    True
    """
    if not path.lower().endswith(_SUFFIXES) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        content = file.read(4096)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = content.decode(encoding, errors="replace").splitlines()
    first = next((line for line in lines if line.strip()), "")
    return _BEGIN in first.lower() or bool(_AUDACITY.match(first))


def is_annotated_folder(path: str) -> bool:
    """Returns whether a folder holds a recording with an annotation file next to it.

    Args:
        path: Path of the folder.
    """
    return any(found and is_annotation_file(file) for file, found in _scan(path)[0].items())


def _scan(root: str) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the text files with the recordings of the same name, and all recordings."""
    texts: dict[str, list[str]] = {}
    recordings: list[str] = []
    for relative, files, hidden in walk_folders(root):
        folder, names = os.path.join(root, relative), [file.name for file in files]
        if hidden:
            continue
        stems: dict[str, list[str]] = {}
        for name in sorted(names):
            if is_audio(name) or why_left_out(name):  # the latter is an error when it is decoded
                stems.setdefault(os.path.splitext(name)[0], []).append(os.path.join(folder, name))
        recordings += [path for paths in stems.values() for path in paths]
        for name in sorted(names):
            if name.lower().endswith(_SUFFIXES):
                parts = name.split(".")  # monday.Table.1.selections.txt
                prefixes = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
                stem = _ANNOTATIONS.sub("", os.path.splitext(name)[0])  # monday_labels.txt
                found = next((stems[p] for p in (*prefixes, stem) if p in stems), [])
                texts[os.path.join(folder, name)] = found
    return texts, recordings


def _read_file(file: str, recordings: Sequence[str], label_column: str | None) -> Iterator[Row]:
    """Yields the annotations in a file; those of a point in time end at their start.

    Args:
        file: The annotation file.
        recordings: Recordings of the same name.
        label_column: Column of the labels in a table of Raven.
    """
    if len(recordings) > 1:
        raise DatasetError(
            "The annotations belong to one recording: rename or move the others. "
            f"Received: {file} for {' and '.join(map(os.path.basename, recordings))}"
        )
    lines = read_lines(file, _LAYOUT)
    is_table = _BEGIN in next((line for line in lines if line.strip()), "").lower()
    cells = _raven_cells(file, label_column) if is_table else _audacity_cells(file, lines)
    for line, begin, end, label, name in cells:
        place = f"{file} line {line}"
        start = seconds(begin, "start", place)
        stop = seconds(end, "end", place)
        if start is None or stop is None:
            raise DatasetError(f"An annotation needs a start and an end. Received: {place}")
        if stop != start:
            require_span(start, stop, place)
        recording = os.path.join(os.path.dirname(file), os.path.basename(name.replace("\\", "/")))
        if recordings and not (name and os.path.isfile(recording)):
            recording = recordings[0]
        elif not name:
            recording = os.path.splitext(file)[0] + ".wav"  # reported as missing
        yield Row(file, line, recording, split_labels(label, place), start, stop)


Cells = tuple[int, str, str, str, str]  # line, start, end, label and recording


def _audacity_cells(file: str, lines: Sequence[str]) -> Iterator[Cells]:
    for line, text in enumerate(lines, 1):
        if not text.strip() or text.startswith("\\"):  # the second line of a spectral label
            continue
        cells = text.rstrip("\n").split("\t", 2)
        if len(cells) < 2:
            raise DatasetError(
                "A line of Audacity's labels is start, end and label with tabs between them. "
                f"Received: {file} line {line}: {text.strip()!r}"
            )
        yield line, cells[0].strip(), cells[1].strip(), "".join(cells[2:]).strip(), ""


def _raven_cells(file: str, label_column: str | None) -> Iterator[Cells]:
    wanted = () if label_column is None else (label_column.strip().lower(),)
    table = read_table(file, (_BEGIN, _END, *wanted), _LAYOUT)
    found = [name for name in wanted or _LABEL_COLUMNS if name in table.columns]
    if len(found) != 1 and found[:1] != ["annotation"]:
        raise DatasetError(
            "Set data.label_column to the column that holds the labels. "
            f"Received: {file} with {', '.join(found or filter(None, table.columns))}"
        )
    rows = list(table.rows)
    sounds = {row.get(_FILE, "") for _, row in rows}
    if len(sounds) > 1 and _OFFSET not in table.columns:
        raise DatasetError(
            "A table of several recordings needs the column File Offset (s), because its times are "
            f"those of the whole sequence. Received: {file} with {', '.join(sorted(sounds)[:3])}"
        )
    for line, row in rows:
        begin, end = row[_BEGIN], row[_END]
        if len(sounds) > 1:
            place = f"{file} line {line}"
            offset, start, stop = (
                seconds(row[name], name, place) or 0.0 for name in (_OFFSET, _BEGIN, _END)
            )
            begin, end = repr(offset), repr(offset + stop - start)
        yield line, begin, end, row[found[0]], row.get(_FILE, "")


def _merged(rows: Iterable[Row]) -> list[Row]:
    """Returns one row for each span, with all of its labels.

    Raven writes a selection once for each view.
    """
    merged: dict[str | Segment, Row] = {}
    for row in rows:
        first = merged.setdefault(row.source, row)
        labels = dict.fromkeys((*first.labels, *row.labels))
        merged[row.source] = replace(first, labels=tuple(labels))
    return list(merged.values())


def _with_splits(rows: list[Row], root: str) -> list[Row]:
    """Returns the rows with the splits that folders such as train/ and test/ name, if all do."""
    folders = [os.path.relpath(row.path, root).split(os.sep)[0] for row in rows]
    splits = [split_of_name(name) or "" for name in folders]
    if len(set(splits)) < 2 or "" in splits:
        return rows
    return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]

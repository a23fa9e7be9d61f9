"""Lists of AudioSet's clips: the official segment CSVs, and the JSON files of the AST's authors.

Both are read record by record into arrays: two million clips take about 60 MB.
"""

from __future__ import annotations

import array
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedPaths, PackedTargets, PathBuilder, Rows
from ast_keras.errors import DatasetError, LabelError
from ast_keras.labels import LabelSet

ID_LENGTH = 11  # of a YTID, the identifier of a video
UNKNOWN_START = -1

_CHUNK = 1 << 20
_ID = re.compile(rb"[A-Za-z0-9_-]{11}")
_SECONDS = re.compile(rb"\d{1,6}(\.\d*)?")
_JSON_START = re.compile(r'\s*(\{\s*"data"\s*:\s*)?\[')
_SEPARATOR = re.compile(r"[\s,]*")
# Name of a clip's file: YTID or YYTID, then optionally its start (and end).
_FILE_STEM = re.compile(r"(?:Y(?=[\w-]{11}(?:_\d|$)))?([\w-]{11})((?:_[\d.]+){0,2})", re.ASCII)


def parse_stem(stem: str) -> tuple[str, tuple[float, ...]] | None:
    """Returns the YTID in the stem of a file name, and its start and end if they are stated.

    Example:

    >>> parse_stem("Y--4gqARaEJE_30.000_40.000"), parse_stem("-0SdAVK79lg"), parse_stem("song")
    (('--4gqARaEJE', (30.0, 40.0)), ('-0SdAVK79lg', ()), None)
    """
    match = _FILE_STEM.fullmatch(stem)
    if match is None:
        return None
    try:
        return match[1], tuple(float(time) for time in match[2].split("_")[1:])
    except ValueError:
        return None


@dataclass(frozen=True, eq=False)
class ClipList:
    """Clips and their labels, as one or several lists give them.

    Args:
        ytids: YTID of each clip, bytes `[clips]`; empty if the name of a file in a JSON list is not
            in the usual form.
        starts: Start of each clip in its video in milliseconds, or `UNKNOWN_START`.
        targets: Label indices of each clip.
        paths: Path of each clip, or None if a list has no paths (CSV).
    """

    ytids: npt.NDArray[np.bytes_]
    starts: npt.NDArray[np.int32]
    targets: PackedTargets
    paths: PackedPaths | None = None

    def __len__(self) -> int:
        return len(self.ytids)

    @classmethod
    def concatenate(cls, lists: Sequence[ClipList]) -> ClipList:
        """Returns one list of all clips; it has paths only if all lists have them."""
        paths = [part.paths for part in lists if part.paths is not None]
        return cls(
            np.concatenate([part.ytids for part in lists]),
            np.concatenate([part.starts for part in lists]),
            PackedTargets(Rows.concatenate([part.targets.rows for part in lists])),
            PackedPaths.concatenate(paths) if len(paths) == len(lists) else None,
        )


class _Builder:
    """Collects clips one by one."""

    def __init__(self, labels: LabelSet) -> None:
        self._indices = {label.encode(): i for i, label in enumerate(labels.ids)}
        self._ytids = bytearray()
        self._starts = array.array("i")
        self._values = array.array("i")
        self._lengths = array.array("H")

    def add(self, ytid: bytes, start: int, labels: bytes) -> None:
        names = [part.strip() for part in labels.replace(b";", b",").split(b",")]
        try:
            found = {self._indices[name] for name in names if name}
        except KeyError as error:
            name = error.args[0].decode(errors="replace")
            raise LabelError(
                "Labels must be mids of AudioSet's 527 classes, separated by commas. "
                f"Received: {name!r}"
            ) from None
        self._ytids += ytid.ljust(ID_LENGTH, b"\0")
        self._starts.append(start)
        self._values.extend(sorted(found))
        self._lengths.append(len(found))

    def build(self, paths: PackedPaths | None = None) -> ClipList:
        rows = Rows.from_lengths(np.array(self._values, np.int32), np.array(self._lengths))
        ytids = np.frombuffer(bytes(self._ytids), f"S{ID_LENGTH}")
        return ClipList(ytids, np.array(self._starts, np.int32), PackedTargets(rows), paths)


def read_clip_list(path: str, labels: LabelSet) -> ClipList:
    """Reads a list of clips with their labels from a JSON or CSV file.

    Rows of a CSV file are `YTID, start_seconds, end_seconds, "mid,mid"` as in the official files,
    or `YTID, "mid,mid"`; lines that begin with `#` and a header are skipped. A JSON file has the
    form `{"data": [{"wav": PATH, "labels": "mid,mid"}, ...]}`; relative paths are joined to its
    folder.

    Args:
        path: Path of the list.
        labels: Labels whose ids occur in the list; for AudioSet the mids, such as "/m/09x0r".

    Raises:
        DatasetError: If the file cannot be read or is malformed; with the line or the record.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "eval_segments.csv")
    >>> _ = open(path, "w").write('--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/05zppz"')
    >>> clips = read_clip_list(path, LabelSet.load("audioset"))
    >>> clips.ytids[0].decode(), clips.starts[0].item(), clips.targets[0]
    ('--4gqARaEJE', 0, (0, 1))
    """
    try:
        read = _read_json if path.lower().endswith(".json") else _read_csv
        clips = read(path, _Builder(labels))
    except OSError as error:
        raise DatasetError(
            f"Cannot read the list of clips: {error.strerror}. Received: {path}"
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"Save the list of clips as UTF-8. Received: {path}") from None
    if not len(clips):
        raise DatasetError(f"The list of clips is empty. Received: {path}")
    return clips


def _read_csv(path: str, builder: _Builder) -> ClipList:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not line or line.startswith(b"#"):
                continue
            try:
                ytid, start, labels = _csv_cells(line)
                if ytid.lower() == b"ytid":
                    continue
                if not _ID.fullmatch(ytid):
                    raise LabelError(f"A YTID has 11 letters, digits, - or _. Received: {ytid!r}")
                builder.add(ytid, start, labels)
            except LabelError as error:
                raise DatasetError(f"{error} in {path} line {number}") from None
    return builder.build()


def _csv_cells(line: bytes) -> tuple[bytes, int, bytes]:
    ytid, comma, rest = line.partition(b",")
    if not comma:
        raise LabelError(
            f'A row must have the form YTID, start, end, "mid,mid" or YTID, "mid,mid". '
            f"Received: {line!r}"
        )
    cells = rest.split(b",", 2)
    start = UNKNOWN_START
    if len(cells) == 3 and _SECONDS.fullmatch(cells[0].strip()):
        start, rest = round(float(cells[0]) * 1000), cells[2]
    return ytid.strip(b' "'), start, rest.strip(b' "')


def _read_json(path: str, builder: _Builder) -> ClipList:
    paths = PathBuilder()
    root = os.path.dirname(path)
    folders: dict[str, str] = {}
    for number, record in enumerate(_json_records(path), 1):
        try:
            folder, name = os.path.split(record["wav"])
            labels = record["labels"].encode()
        except (TypeError, KeyError, AttributeError):
            raise DatasetError(
                'A record must have the form {"wav": PATH, "labels": "mid,mid"}. '
                f"Received: {path} record {number}: {str(record)[:80]}"
            ) from None
        try:
            stem = parse_stem(os.path.splitext(name)[0])
            builder.add(stem[0].encode() if stem else b"", UNKNOWN_START, labels)
        except LabelError as error:
            raise DatasetError(f"{error} in {path} record {number}") from None
        if folder not in folders:
            folders[folder] = os.path.normpath(os.path.join(root, folder))
        paths.add(folders[folder], name)
    return builder.build(paths.build())


def _json_records(path: str) -> Iterator[Any]:
    """Yields the elements of the list in a JSON file, one at a time."""
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(_CHUNK)
        start = _JSON_START.match(text)
        if start is None:
            raise DatasetError(f'A JSON list must begin with {{"data": [. Received: {path}')
        place, number = start.end(), 0
        while True:
            place = _end_of(_SEPARATOR, text, place)
            if text.startswith("]", place):
                return
            try:
                record, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                if not more or len(text) - place > _CHUNK:
                    raise DatasetError(
                        f"Not valid JSON: {error.msg}. Received: {path} record {number + 1}"
                    ) from None
                text, place = text[place:] + more, 0
                continue
            number += 1
            yield record


def _end_of(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    return match.end() if match else place

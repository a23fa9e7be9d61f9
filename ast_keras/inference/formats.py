"""Predictions as plain records, and as a table, JSON, CSV or Audacity label tracks.

The record of a file, made by `clip_row` or `windows_row`:

    {"file": "a.wav", "seconds": 2.0,
     "predictions": [{"index": 0, "label": "dog", "score": 0.9}, ...],
     "windows": [{"start": 0.0, "end": 1.0, "predictions": [...]}, ...],       # with windows
     "events": [{"onset": 0.5, "offset": 1.2, "index": 0, "label": "dog", "score": 0.9}, ...]}
"""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.files import write_text
from ast_keras.inference.events import Event
from ast_keras.inference.windows import WindowScores
from ast_keras.labels import LabelSet

Row = dict[str, Any]
Thresholds = float | Sequence[float]

_NONE_REACHED = "no class reaches its threshold"


def clip_row(
    path: str,
    seconds: float,
    scores: npt.NDArray[Any],
    labels: LabelSet | None,
    top: int,
    thresholds: Thresholds = 0.0,
) -> Row:
    """Returns the record of a file that was processed at once.

    Args:
        path: Path of the file.
        seconds: Length of the file in seconds.
        scores: Score of each class, `[classes]`.
        labels: Names of the classes; None for "class 0", "class 1", ...
        top: Largest number of classes in the record.
        thresholds: Score that a class must reach, of all classes or of each.

    Example:

    >>> clip_row("a.wav", 2.0, np.array([0.1, 0.9]), LabelSet(("cow", "dog")), top=1)
    {'file': 'a.wav', 'seconds': 2.0, 'predictions': [{'index': 1, 'label': 'dog', 'score': 0.9}]}
    """
    return {
        "file": path,
        "seconds": round(seconds, 3),
        "predictions": _best(scores, labels, top, thresholds),
    }


def windows_row(
    path: str,
    windows: WindowScores,
    events: Sequence[Event] | None,
    labels: LabelSet | None,
    top: int,
    thresholds: Thresholds = 0.0,
) -> Row:
    """Returns the record of a file that was processed in windows.

    Args:
        path: Path of the file.
        windows: Scores of the windows.
        events: Events of the file; None for a record without "events".
        labels: Names of the classes; None for "class 0", "class 1", ...
        top: Largest number of classes for the file and for each window.
        thresholds: Score that a class must reach, of all classes or of each.
    """
    seconds = float(windows.ends[-1])
    row = clip_row(path, seconds, windows.clip_scores, labels, top, thresholds)
    row["windows"] = [
        {
            "start": round(float(start), 3),
            "end": round(float(end), 3),
            "predictions": _best(scores, labels, top, thresholds),
        }
        for start, end, scores in zip(windows.starts, windows.ends, windows.scores, strict=True)
    ]
    if events is not None:
        row["events"] = [
            {
                "onset": round(event.onset, 3),
                "offset": round(event.offset, 3),
                **_prediction(event.index, event.score, labels),
            }
            for event in events
        ]
    return row


def _best(
    scores: npt.NDArray[Any], labels: LabelSet | None, top: int, thresholds: Thresholds
) -> list[Row]:
    reached = scores >= np.asarray(thresholds)
    best = [index for index in np.argsort(-scores, kind="stable") if reached[index]]
    return [_prediction(int(index), float(scores[index]), labels) for index in best[:top]]


def _prediction(index: int, score: float, labels: LabelSet | None) -> Row:
    name = labels.names[index] if labels else f"class {index}"
    return {"index": index, "label": name, "score": round(score, 6)}


def as_table(rows: Sequence[Row]) -> str:
    """Returns text for people: each file with its best classes and its events or windows.

    Args:
        rows: Records of files.

    Example:

    >>> best = [{"index": 0, "label": "dog", "score": 0.9}]
    >>> print(as_table([{"file": "a.wav", "seconds": 2.0, "predictions": best}]), end="")
    a.wav  (2.00 s)
      0.9000  dog
    """
    lines = []
    for row in rows:
        lines.append(f"{row['file']}  ({row['seconds']:.2f} s)")
        lines += [f"  {p['score']:.4f}  {p['label']}" for p in row["predictions"]] or [
            f"  {_NONE_REACHED}"
        ]
        if "events" in row:
            lines += [
                f"  {e['onset']:9.2f} {e['offset']:9.2f}  {e['score']:.4f}  {e['label']}"
                for e in row["events"]
            ] or ["  no events"]
        else:
            lines += [
                f"  {w['start']:9.2f} {w['end']:9.2f}  "
                + (", ".join(f"{p['score']:.4f} {p['label']}" for p in w["predictions"][:3]) or "-")
                for w in row.get("windows", ())
            ]
    return "".join(line + "\n" for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    """Returns the complete records as JSON.

    Args:
        rows: Records of files.
    """
    return json.dumps(rows, indent=2) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Returns a CSV table with a line per event, or per class of a window, or per class of a file.

    A window or file of which no class reaches its threshold has one line without a class.

    Args:
        rows: Records of files. The lines are those of events if any record has events, else those
            of windows if any record has windows.
    """
    if any("events" in row for row in rows):
        columns = ["file", "onset", "offset", "index", "label", "score"]
        lines = ([row["file"], *(e[c] for c in columns[1:])] for row in rows for e in row["events"])
    elif any("windows" in row for row in rows):
        columns = ["file", "start", "end", "rank", "index", "label", "score"]
        lines = (
            [row["file"], w["start"], w["end"], *ranked]
            for row in rows
            for w in row["windows"]
            for ranked in _ranked(w)
        )
    else:
        columns = ["file", "seconds", "rank", "index", "label", "score"]
        lines = ([row["file"], row["seconds"], *ranked] for row in rows for ranked in _ranked(row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


def _ranked(row: Row) -> Iterable[list[Any]]:
    if not row["predictions"]:
        yield [""] * 4
    for rank, p in enumerate(row["predictions"], 1):
        yield [rank, p["index"], p["label"], p["score"]]


def as_audacity(rows: Sequence[Row]) -> str:
    """Returns the events as an Audacity label track: onset, offset and label, tab-separated.

    Args:
        rows: Records of one file, with events.

    Example:

    >>> event = {"onset": 1.0, "offset": 2.5, "label": "dog", "index": 0, "score": 0.9}
    >>> as_audacity([{"file": "a.wav", "events": [event]}])
    '1.000000\\t2.500000\\tdog 0.90\\n'
    """
    return "".join(
        f"{e['onset']:.6f}\t{e['offset']:.6f}\t{e['label']} {e['score']:.2f}\n"
        for row in rows
        for e in row["events"]
    )


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "table": as_table,
    "json": as_json,
    "csv": as_csv,
    "audacity": as_audacity,
}


def write_rows(rows: Sequence[Row], format: str, output: str) -> None:
    """Writes records of files in one of the formats of `WRITERS`.

    Args:
        rows: Records of files.
        format: A key of `WRITERS`.
        output: Path to write. With "audacity" it is a folder that receives one label track per
            file, unless there is one file and the path has a suffix.
    """
    if format != "audacity":
        write_text(output, WRITERS[format](rows))
        return
    folder = pathlib.Path(output)
    if len(rows) == 1 and folder.suffix:
        write_text(folder, as_audacity(rows))
        return
    names = set[str]()
    for row in rows:
        name = f"{pathlib.Path(row['file']).stem}.txt"
        if name in names:  # another folder has a file of this name
            name = f"{pathlib.Path(row['file']).as_posix().strip('/').replace('/', '_')}.txt"
        names.add(name)
        write_text(folder / name, as_audacity([row]))

"""Predictions as text: a table, JSON, CSV, or labels for Audacity."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def as_table(rows: Sequence[Row]) -> str:
    """Returns lines to read: each file with its best classes, and its events where there are any.

    Example:

    >>> best = [{"index": 0, "label": "dog", "score": 0.9}]
    >>> print(as_table([{"file": "a.wav", "seconds": 2.0, "predictions": best}]), end="")
    a.wav  (2.00 s)
      0.9000  dog
    """
    lines = []
    for row in rows:
        lines.append(f"{row['file']}  ({row['seconds']:.2f} s)")
        lines += [f"  {p['score']:.4f}  {p['label']}" for p in row["predictions"]]
        if "events" in row:
            lines += [
                f"  {e['onset']:9.2f} {e['offset']:9.2f}  {e['score']:.4f}  {e['label']}"
                for e in row["events"]
            ] or ["  no events"]
        else:
            lines += [
                f"  {w['start']:9.2f} {w['end']:9.2f}  "
                + ", ".join(f"{p['score']:.4f} {p['label']}" for p in w["predictions"][:3])
                for w in row.get("windows", ())
            ]
    return "".join(line + "\n" for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    """Returns the rows with all they hold."""
    return json.dumps(rows, indent=2) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Returns one line for each event, else for each class of a window, else of a file."""
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
    for rank, p in enumerate(row["predictions"], 1):
        yield [rank, p["index"], p["label"], p["score"]]


def as_audacity(rows: Sequence[Row]) -> str:
    """Returns the events of one file as a label track: onset, offset and label, tabs between.

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

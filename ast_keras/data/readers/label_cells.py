"""Labels as they stand in a cell of a table: split, and refused where two readings are possible."""

from __future__ import annotations

import ast
import collections
import functools
import unicodedata
from collections.abc import Iterable
from typing import Any

from ast_keras.data.readers.row import Row
from ast_keras.errors import DatasetError

# What spreadsheets, pandas and R write for a missing value, in lower case.
_MISSING = frozenset(("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nil"))
# Some programs separate several labels by these. `,` and `|` rarely stand between two labels
# that are never used alone; the others do, as in `fan/broken`.
_SEPARATORS = ",|/+&"
_LISTING = ",|"


def is_missing(cell: str) -> bool:
    """Returns whether a cell is empty or holds what programs write for a missing value.

    Example:

    >>> is_missing("NaN"), is_missing(""), is_missing("dog")
    (True, True, False)
    """
    return not cell or cell.casefold() in _MISSING


def split_labels(cell: str, place: str) -> tuple[str, ...]:
    """Returns the labels in a cell: separated by `;`, or a list as pandas and JSON write it.

    Labels are brought to one Unicode form, and several spaces to one.

    Args:
        cell: The cell.
        place: File and line, for errors.

    Raises:
        DatasetError: If the cell starts like a list and is none.

    Example:

    >>> split_labels("dog; cat;", "line 2"), split_labels("['dog', 'cat']", "line 3")
    (('dog', 'cat'), ('dog', 'cat'))
    """
    parts: Any = cell.split(";")
    if cell.startswith("[") and cell.endswith("]"):
        try:
            parts = ast.literal_eval(cell)
        except (SyntaxError, ValueError):
            parts = None
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise DatasetError(
                "A list of labels must hold quoted names: separate them by ';' without brackets. "
                f"Received: {place}: {cell}"
            )
    return tuple(filter(None, dict.fromkeys(_plain(part) for part in parts)))


@functools.cache
def _plain(label: str) -> str:
    """Returns a label in one Unicode form, with single spaces and without invisible ones."""
    visible = label.replace("\u200b", "").replace("\ufeff", "")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def check_labels(rows: Iterable[Row]) -> list[str]:
    """Checks that the labels of a table are labels, when no list of labels says what they are.

    Args:
        rows: The rows of the table.

    Returns:
        Notes on labels that might be meant as several.

    Raises:
        DatasetError: If a label looks like a missing value, or like several other labels.

    Example:

    >>> labels = ("dog", "cat", "dog,cat")
    >>> check_labels(Row("farm.csv", 2 + i, f"{i}.wav", labels[i : i + 1]) for i in range(3))
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: 'dog,cat' may be one label or several: write dog;cat for \
several, or list the labels in a file and set data.labels_path to it. Received: farm.csv line 4
    """
    places: dict[str, str] = {}
    for row in rows:
        for label in row.labels:
            places.setdefault(label, row.place)
    for label, place in places.items():
        if is_missing(label):
            raise DatasetError(
                f"{label!r} looks like a missing value: leave the cell empty for a sound of no "
                "class, rename the label, or list the labels in a file and set data.labels_path "
                f"to it. Received: {place}"
            )
    for separator in _SEPARATORS:
        parts = {
            label: [part.strip() for part in label.casefold().split(separator)]
            for label in places
            if separator in label
        }
        known = {label.casefold() for label in places}
        if separator in _LISTING:
            counts = collections.Counter(part for found in parts.values() for part in set(found))
            known |= {part for part, count in counts.items() if count > 1}
        for label, found in parts.items():
            if all(part in known for part in found):
                several = ";".join(part.strip() for part in label.split(separator))
                raise DatasetError(
                    f"{label!r} may be one label or several: write {several} for several, or list "
                    "the labels in a file and set data.labels_path to it. "
                    f"Received: {places[label]}"
                )
    listed = [label for label in places if any(separator in label for separator in _LISTING)]
    if not listed:
        return []
    first = ", ".join(map(repr, listed[:3])) + (", ..." if len(listed) > 3 else "")
    return [f"labels are separated by ';' only, so each of these is one label: {first}"]

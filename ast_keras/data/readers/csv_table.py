"""CSV files as rows with line numbers, and errors that name the line."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator, Sequence

from ast_keras.errors import DatasetError, did_you_mean


def read_table(
    path: str, required: Sequence[str], fix: str
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Reads the columns and rows of a comma-separated file with a header.

    A byte-order mark, CRLF line ends, quoted commas and blank lines are accepted. The names of
    columns are converted to lower case, and spaces around cells are removed.

    Args:
        path: Path of the file.
        required: Names of columns that must exist.
        fix: Sentence to add to the error for a missing file: the expected format and where to get
            it.

    Returns:
        The names of the columns, and an iterator over pairs of line number and row.

    Raises:
        DatasetError: If the file is missing, is not a table, or lacks a column; during iteration,
            if a row has too few or too many cells.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "table.csv")
    >>> _ = open(path, "w").write("path,labels\\na.wav,dog\\n")
    >>> columns, rows = read_table(path, ["path"], "")
    >>> columns, list(rows)
    (['path', 'labels'], [(2, {'path': 'a.wav', 'labels': 'dog'})])
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"Save the table as UTF-8. Received: {path}") from None
    except OSError as error:
        raise DatasetError(
            f"Cannot read the table: {error.strerror}. {fix} Received: {path}"
        ) from None
    reader = csv.reader(io.StringIO(text))
    columns = [cell.strip().lower() for cell in next(_filled(reader, path), (0, []))[1]]
    for name in required:
        if name not in columns:
            raise DatasetError(
                f"The table lacks the column {name!r}: its first line must name "
                f"{','.join(required)}, separated by commas. {did_you_mean(name, columns)} "
                f"Received: {path} line 1"
            )
    duplicates = {name for name in columns if columns.count(name) > 1}
    if duplicates:
        raise DatasetError(
            "Every column must occur only once. "
            f"Received: {path} line 1: {', '.join(sorted(duplicates))}"
        )
    return columns, _rows(reader, columns, path)


def _rows(
    reader: Iterator[list[str]], columns: list[str], path: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in _filled(reader, path):
        if len(cells) != len(columns):
            raise DatasetError(
                f"A row must have {len(columns)} cells, like the header; quote cells that contain "
                f"a comma. Received: {path} line {line}: {len(cells)} cells"
            )
        yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}


def _filled(reader: Iterator[list[str]], path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that are not blank, with the number of their last line."""
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells  # type: ignore[attr-defined]
    except csv.Error as error:
        raise DatasetError(f"Not a valid CSV: {error}. Received: {path}") from None


def integer(cell: str, column: str, path: str, line: int) -> int:
    """Returns the integer in a cell.

    Raises:
        DatasetError: If it is not an integer, with the file and the line.

    Example:

    >>> integer("3", "fold", "meta.csv", 2)
    3
    """
    try:
        return int(cell)
    except ValueError:
        raise DatasetError(
            f"{column} must be an integer. Received: {path} line {line}: {cell!r}"
        ) from None

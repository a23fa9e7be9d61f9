"""CSV files as rows with line numbers, and the errors that point at a line."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator, Sequence

from ast_keras.errors import DatasetError, did_you_mean


def read_table(
    path: str, required: Sequence[str], fix: str
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Reads a comma-separated file with a header: its columns, and its rows with line numbers.

    A byte-order mark, CRLF line ends, quoted commas and blank lines are understood; the names of
    columns are read in lower case, and cells without the spaces around them.

    Args:
      path: Of the file.
      required: Columns that must be there.
      fix: A sentence for whoever has no such file: what is expected and where to get it.

    Raises:
      DatasetError: If the file is missing, is not such a table, or lacks a column; while the rows
        are read, if a row has too few or too many cells.

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
            f"Every column may occur once. Received: {path} line 1: {', '.join(sorted(duplicates))}"
        )
    return columns, _rows(reader, columns, path)


def _rows(
    reader: Iterator[list[str]], columns: list[str], path: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in _filled(reader, path):
        if len(cells) != len(columns):
            raise DatasetError(
                f"A row needs {len(columns)} cells, as the header has; put a cell that holds a "
                f"comma in quotes. Received: {path} line {line}: {len(cells)} cells"
            )
        yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}


def _filled(reader: Iterator[list[str]], path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that are not blank, each with the line on which it ends."""
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells  # type: ignore[attr-defined]
    except csv.Error as error:
        raise DatasetError(f"Not a valid CSV: {error}. Received: {path}") from None


def integer(cell: str, column: str, path: str, line: int) -> int:
    """Returns a cell's whole number.

    Raises:
      DatasetError: If it is not one, with the file and the line.

    Example:

    >>> integer("3", "fold", "meta.csv", 2)
    3
    """
    try:
        return int(cell)
    except ValueError:
        raise DatasetError(
            f"{column} must be a whole number. Received: {path} line {line}: {cell!r}"
        ) from None

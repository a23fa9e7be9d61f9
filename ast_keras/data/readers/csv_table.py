"""Tables as rows with line numbers, whatever program wrote them, and errors that name the line."""

from __future__ import annotations

import codecs
import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ast_keras.errors import DatasetError, did_you_mean

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Table(NamedTuple):
    """A table whose header was read.

    Attributes:
        columns: Names of the columns in lower case; empty for a column without a name.
        delimiter: Character between the cells.
        rows: Iterator over pairs of line number and cells by the name of their column.
    """

    columns: list[str]
    delimiter: str
    rows: Iterator[tuple[int, dict[str, str]]]


def read_table(
    path: str,
    required: Sequence[str],
    fix: str,
    *,
    other_names: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Reads the columns and rows of a table with a header.

    The cells are separated by commas, semicolons, tabs or bars, whichever finds the required
    columns in the header, or as a first line such as `sep=;` says. The file is encoded in UTF-8, or
    in UTF-16 with a byte-order mark. CRLF line ends, quoted cells, blank lines and empty columns at
    the end are accepted. The names of columns are converted to lower case, and spaces around cells
    are removed.

    Args:
        path: Path of the file.
        required: Names of columns that must exist.
        fix: Sentence to add to the error for a missing file: the expected format and where to get
            it.
        other_names: Other names, in lower case, under which a column is found if its own is absent.

    Returns:
        The table, with the columns under their own names.

    Raises:
        DatasetError: If the file is missing, is not a table, or lacks a column; during iteration,
            if a row has too few or too many cells.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "table.csv")
    >>> _ = open(path, "w").write("File;Labels;;\\na.wav;dog;;\\n")
    >>> table = read_table(path, ["path"], "", other_names={"path": ["file"]})
    >>> table.columns, list(table.rows)
    (['path', 'labels'], [(2, {'path': 'a.wav', 'labels': 'dog'})])
    """
    lines = read_lines(path, fix)
    stated = (
        lines[0].strip('" \n').removeprefix("sep=")
        if lines[0].startswith(("sep=", '"sep='))
        else ""
    )
    first = 1 if stated else 0
    candidates = [stated] if stated in _DELIMITERS else list(_DELIMITERS)
    headers = {
        delimiter: next(_filled(_reader(lines, first, delimiter), path, first), (first + 1, []))
        for delimiter in candidates
    }
    # Without the required columns, the delimiter that gives the most cells is that of the table.
    delimiter = max(
        candidates,
        key=lambda d: (_num_found(headers[d][1], required, other_names), len(headers[d][1])),
    )
    header_line, header = headers[delimiter]
    columns = [cell.strip().lower() for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    place = f"{path} line {header_line}"
    duplicates = {name for name in columns if name and columns.count(name) > 1}
    if duplicates:
        raise DatasetError(
            f"Every column must occur only once. Received: {place}: {', '.join(sorted(duplicates))}"
        )
    for name, others in (other_names or {}).items():
        _rename(columns, name, others, place)
    for name in required:
        if name not in columns:
            raise DatasetError(
                f"The table lacks the column {name!r}: its first line must name "
                f"{','.join(required)}, separated by {_DELIMITERS[delimiter]}. "
                f"{did_you_mean(name, filter(None, columns))} Received: {place}"
            )
    reader = _filled(_reader(lines, header_line, delimiter), path, header_line)
    return Table(columns, delimiter, _rows(reader, columns, path))


def read_lines(path: str, fix: str) -> list[str]:
    """Returns the lines of a text file, at least one, each with its line end.

    Args:
        path: Path of the file, in UTF-8, or in UTF-16 with a byte-order mark.
        fix: Sentence to add to the error for a missing file.

    Raises:
        DatasetError: If the file cannot be read or has another encoding.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "table.csv")
    >>> _ = open(path, "w", encoding="utf-16").write("path,labels\\n")
    >>> read_lines(path, "")
    ['path,labels\\n']
    """
    try:
        content = pathlib.Path(path).read_bytes()
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"Cannot read the table: {error.strerror}. {fix} Received: {path}"
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    lines = list(io.StringIO(text, newline=None)) or [""]
    if "\0" in lines[0]:  # UTF-16 without a byte-order mark has a zero in every letter
        raise DatasetError(f'Save the table as UTF-8 (Excel: "CSV UTF-8"). Received: {path}')
    return lines


def _reader(lines: Sequence[str], first: int, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines[first:], delimiter=delimiter, skipinitialspace=True)


def _num_found(
    header: Sequence[str], required: Sequence[str], other_names: Mapping[str, Sequence[str]] | None
) -> int:
    names = {cell.strip().lower() for cell in header}
    return sum(bool({name, *(other_names or {}).get(name, ())} & names) for name in required)


def _rename(columns: list[str], name: str, others: Sequence[str], place: str) -> None:
    """Renames the column that has one of the other names, unless there is one with the name."""
    found = [other for other in others if other in columns]
    if name in columns or not found:
        return
    if len(found) > 1:
        raise DatasetError(
            f"Several columns may be the one named {name!r}: rename the right one to that. "
            f"Received: {place}: {', '.join(found)}"
        )
    columns[columns.index(found[0])] = name


def _rows(
    reader: Iterator[tuple[int, list[str]]], columns: list[str], path: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in reader:
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(columns):
            raise DatasetError(
                f"A row must have {len(columns)} cells, like the header; quote cells that contain "
                f"the separator. Received: {path} line {line}: {len(cells)} cells"
            )
        yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if name}


def _filled(reader: Iterator[list[str]], path: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that are not blank, with the number of their last line.

    Args:
        reader: A `csv.reader`.
        path: Path of the table.
        first: Number of lines before the first one of the reader.
    """
    try:
        for cells in reader:
            if any("\0" in cell for cell in cells):
                raise csv.Error("it holds zero bytes")
            if any(cell.strip() for cell in cells):
                yield first + reader.line_num, cells  # type: ignore[attr-defined]
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

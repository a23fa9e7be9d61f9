"""Rendering of self-contained HTML pages from the Jinja2 templates in `templates/`.

A page holds its style, scripts, pictures and sounds, and its content security policy forbids the
browser to fetch anything. Jinja2 escapes every value, so that labels and file names cannot become
part of the page.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ast_keras.reports.tables import format_cell

if TYPE_CHECKING:
    import jinja2

_FOLDER = pathlib.Path(__file__).with_name("templates")

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds a table for the `table` macro of `parts.html`.

    Args:
        columns: Headings of the columns.
        rows: Cells: text, integers, floats (printed with four decimals), or None for a missing
            value.
        sortable: Whether a click on a heading sorts the rows.
        bars: Headings of columns with values in [0, 1] that are also drawn as bars.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    bars: Sequence[str] = ()


def render(template: str, **values: Any) -> str:
    """Returns the page of a template.

    Args:
        template: File name in `templates/`.
        **values: Variables of the template; text is escaped where the template prints it.

    Example:

    >>> page = render("page.html", title="rain & <b>wind</b>")
    >>> "<h1>rain &amp; &lt;b&gt;wind&lt;/b&gt;</h1>" in page
    True
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The project's own style and scripts are the only text that is not escaped.
    environment.globals["asset"] = lambda name: markupsafe.Markup(
        (_FOLDER / name).read_text(encoding="utf-8")
    )
    environment.filters |= {"data_uri": _data_uri, "cell": _page_cell, "missing": _is_missing}
    environment.filters["plain"] = lambda v: v if isinstance(v, str) else json.dumps(v)
    return environment


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_missing(value: Cell) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _page_cell(value: Cell) -> str:
    return "-" if _is_missing(value) else format_cell(value)  # tables of text print infinity

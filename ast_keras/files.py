"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` in one move when the block ends well.

    A reader, and a process killed at any moment, finds the old file or the new one. The temporary
    name keeps the suffix, which many writers look at.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "note.txt")
    >>> with replacing(target) as part:
    ...     _ = part.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    part = target.with_name(f".{target.stem}.{writer}{target.suffix}")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file as UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes indented JSON, whole or not at all; what is not a finite number becomes null.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "scores.json")
    >>> write_json(target, {"auc": math.nan})
    >>> json.loads(target.read_text())
    {'auc': None}
    """
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

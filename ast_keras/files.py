"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
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


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a new folder beside the target, which takes the target's place when all went well.

    An old folder there is moved away first and deleted last; whether it may be is the caller's to
    know. After an error the old one is untouched and the new one gone.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "model")
    >>> with replacing_folder(target) as part:
    ...     _ = (part / "note.txt").write_text("whole")
    >>> (target / "note.txt").read_text()
    'whole'
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp makes it private
        _swap(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _swap(new: pathlib.Path, target: pathlib.Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}-old-{os.getpid()}")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


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


def cache_folder() -> pathlib.Path:
    """Returns where checksums are kept and presets are looked for: AST_KERAS_CACHE decides.

    Left out, it is `ast-keras` in XDG_CACHE_HOME or in `~/.cache`. It need not exist.

    Example:

    >>> import unittest.mock
    >>> with unittest.mock.patch.dict(os.environ, AST_KERAS_CACHE="/scratch/ast"):
    ...     cache_folder().name
    'ast'
    """
    if chosen := os.environ.get("AST_KERAS_CACHE"):
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base, "ast-keras")

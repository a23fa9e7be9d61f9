"""Atomic writing of files and folders, and the location of the cache."""

from __future__ import annotations

import contextlib
import errno
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
    """Replaces a file atomically: yields a temporary path that is renamed to `path` on success.

    At every moment, also if the process is killed, `path` is either the old file or the complete
    new one. After an exception the old file is kept. The temporary name has the suffix of `path`,
    since many writers choose the format by it.

    Args:
        path: Path of the file. Missing parent folders are created.

    Yields:
        Path of the temporary file that the caller must write.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "note.txt")
    >>> with replacing(target) as part:
    ...     _ = part.write_text("complete")
    >>> target.read_text()
    'complete'
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
    """Replaces a folder: yields a temporary folder that is renamed to `path` on success.

    An existing folder is renamed first and deleted last. After an exception it is unchanged, and
    the temporary folder is deleted. The caller must check that an existing folder may be replaced.

    Args:
        path: Path of the folder. Missing parent folders are created.

    Yields:
        Path of the temporary folder, in the same parent folder.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "model")
    >>> with replacing_folder(target) as part:
    ...     _ = (part / "note.txt").write_text("complete")
    >>> (target / "note.txt").read_text()
    'complete'
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp restricts it to its owner
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
    """Writes a text file atomically, in UTF-8.

    Args:
        path: Path of the file. Missing parent folders are created.
        text: Content of the file.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes indented JSON atomically. NaN and infinite numbers are written as null.

    Args:
        path: Path of the file. Missing parent folders are created.
        value: Value of types that JSON supports; tuples become lists.

    Example:

    >>> import tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "scores.json")
    >>> write_json(target, {"auc": math.nan})
    >>> json.loads(target.read_text())
    {'auc': None}
    """
    write_text(path, json.dumps(_without_nan(value), indent=2) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cache_folder() -> pathlib.Path:
    """Returns the cache folder, which may not exist yet.

    It is the value of the environment variable AST_KERAS_CACHE if that is set, else `ast-keras`
    in XDG_CACHE_HOME, else `~/.cache/ast-keras`.

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


def require_disk_space(folder: str | os.PathLike[str], num_bytes: int) -> None:
    """Checks that a number of bytes can be written to a folder.

    Raises:
        OSError: If the disk, or the user's quota, has less space.
    """
    trial = pathlib.Path(folder, f".space-{os.getpid()}")
    try:
        with open(trial, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            elif shutil.disk_usage(folder).free < num_bytes:  # macOS and Windows
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    finally:
        trial.unlink(missing_ok=True)


def megabytes(num_bytes: int) -> int:
    """Returns a size in units of 10^6 bytes, at least 1, for messages.

    Example:

    >>> megabytes(346_400_000)
    346
    """
    return max(1, round(num_bytes / 1e6))


def one_line(error: BaseException) -> str:
    """Returns the message of an error in one line of at most 200 characters, for messages.

    Example:

    >>> one_line(ValueError("no such host.\\nTry again."))
    'no such host. Try again'
    """
    return " ".join(str(error).split())[:200].rstrip(". ")

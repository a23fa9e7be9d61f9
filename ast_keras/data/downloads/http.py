"""One large file from the web, resumed where an earlier try broke off. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, BinaryIO

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_TRIES = 5  # without any progress in between
_SECONDS_BETWEEN_LINES = 10.0


class DownloadError(OSError):
    """Raised when a file cannot be fetched; what has arrived is kept for the next try."""


class _Interruption(Exception):
    """The connection broke off after it had begun."""


def download(
    url: str,
    target: str | os.PathLike[str],
    max_bytes: int,
    log: Callable[[str], None] | None = None,
    pause_seconds: float = 1.0,
) -> pathlib.Path:
    """Fetches a file over HTTP; it appears under its name only when it is whole.

    What has arrived lies beside it as NAME.part, and NAME.part.tag says of which version: the rest
    alone is asked for, as long as the server still has that one. A connection that breaks off is
    taken up again at once.

    Args:
      url: Starts with http:// or https://; redirections are followed.
      target: Where the file is to be; its folder exists.
      max_bytes: Larger files are refused.
      log: Takes lines on how far it is, every ten seconds.
      pause_seconds: Before a broken connection is taken up again.

    Raises:
      DownloadError: If the server does not give the file, cannot be reached, or gives too much.
    """
    path = pathlib.Path(target)
    part = path.with_name(f"{path.name}.part")
    tries = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, max_bytes, log or (lambda line: None))
            break
        except _Interruption as interruption:
            tries = 1 if _size(part) > before else tries + 1
            if tries == _TRIES:
                raise DownloadError(f"{url} broke off: {interruption}") from interruption
            time.sleep(pause_seconds)
    os.replace(part, path)
    _tag_of(part).unlink(missing_ok=True)
    return path


def _receive(url: str, part: pathlib.Path, max_bytes: int, log: Callable[[str], None]) -> None:
    """Appends what is missing; returns when the file is whole."""
    with contextlib.closing(_open(url, part)) as response:
        start = _start(response, part)
        total = _total(response, start)
        if total is not None and total > max_bytes:
            raise DownloadError(f"{url} is larger than expected: {total} bytes")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        with open(part, "r+b" if start else "wb") as file:
            # Only now: until here an older version's bytes may be in the file.
            _tag_of(part).write_text("" if tag.startswith("W/") else tag, encoding="utf-8")
            file.seek(start)
            _copy(response, file, total, max_bytes, log)
    if total is not None and _size(part) != total:
        raise _Interruption(f"{_size(part)} of {total} bytes arrived")


def _open(url: str, part: pathlib.Path) -> Any:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} does not start with http:// or https://")
    headers = {"User-Agent": "ast-keras", "Accept-Encoding": "identity"}
    tag = _read_tag(part)
    if tag and _size(part):
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": tag}
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:  # nothing is missing, or it is another file
            part.unlink()
            return _open(url, part)
        raise DownloadError(f"{url} gives HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} cannot be reached: {reason}") from error


def _start(response: Any, part: pathlib.Path) -> int:
    """Returns the first byte that the server sends: where we are, or the beginning."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != _size(part):
        _tag_of(part).unlink()
        raise _Interruption("the server sent another part than was asked for")
    return int(match[1])


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _copy(
    response: Any, file: BinaryIO, total: int | None, max_bytes: int, log: Callable[[str], None]
) -> None:
    of = f" of {total / 1e6:.0f}" if total is not None else ""
    spoke = time.monotonic()
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interruption(f"{type(error).__name__}: {error}") from error
        if not block:
            return
        file.write(block)
        if file.tell() > max_bytes:
            raise DownloadError(f"More than {max_bytes} bytes arrived, which is not what it is")
        if time.monotonic() - spoke > _SECONDS_BETWEEN_LINES:
            log(f"{file.tell() / 1e6:.0f}{of} MB")
            spoke = time.monotonic()


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_of(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: pathlib.Path) -> str:
    try:
        text = _tag_of(part).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if text.isprintable() else ""  # it becomes a header

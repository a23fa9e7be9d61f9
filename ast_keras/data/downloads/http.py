"""Download of one large file over HTTP, resumed after an interruption."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import re
import time
import urllib.error
import urllib.request
from typing import Any, BinaryIO

from ast_keras.progress import ProgressBar

_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
_MAX_TRIES = 5  # consecutive tries in which no byte arrives


class DownloadError(OSError):
    """Raised when a file cannot be downloaded; the part that arrived is kept for the next try."""


class _InterruptedError(Exception):
    """Raised when the connection breaks after the reply has begun."""


def download(
    url: str, target: str | os.PathLike[str], max_bytes: int, pause_seconds: float = 1.0
) -> pathlib.Path:
    """Downloads a file over HTTP; the target appears only when it is complete.

    Until then the bytes that arrived are in NAME.part, and the version of the file on the server
    (its ETag) in NAME.part.tag. A later call requests only the rest, provided that the version on
    the server is still the same. A connection that breaks is resumed at once. Progress
    is shown on standard error.

    Args:
        url: URL with the scheme http or https. Redirections are followed.
        target: Path of the file to write. Its folder must exist.
        max_bytes: Largest size of the file in bytes.
        pause_seconds: Pause before a broken connection is resumed, in seconds.

    Returns:
        The path of the file.

    Raises:
        DownloadError: If the server cannot be reached, replies with an error, or sends more than
            `max_bytes`.
    """
    path = pathlib.Path(target)
    part = path.with_name(f"{path.name}.part")
    tries = 0
    while True:
        num_bytes = _size(part)
        try:
            _receive(url, part, max_bytes)
            break
        except _InterruptedError as error:
            tries = 1 if _size(part) > num_bytes else tries + 1
            if tries == _MAX_TRIES:
                raise DownloadError(f"{url} was interrupted: {error}") from error
            time.sleep(pause_seconds)
    os.replace(part, path)
    _tag_path(part).unlink(missing_ok=True)
    return path


def _receive(url: str, part: pathlib.Path, max_bytes: int) -> None:
    """Appends the missing bytes to `part`; returns when the file is complete."""
    with contextlib.closing(_open(url, part)) as response:
        start = _start(response, part)
        total = _total(response, start)
        if total is not None and total > max_bytes:
            raise DownloadError(f"{url} is larger than {max_bytes} bytes: {total} bytes")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        with open(part, "r+b" if start else "wb") as file:
            # Only after the file is truncated: before, it may hold bytes of an older version.
            _tag_path(part).write_text("" if tag.startswith("W/") else tag, encoding="utf-8")
            file.seek(start)
            _copy(response, file, total, max_bytes)
    if total is not None and _size(part) != total:
        raise _InterruptedError(f"{_size(part)} of {total} bytes arrived")


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
        if error.code == 416 and "Range" in headers:  # the part is as long as the file, or longer
            part.unlink()
            return _open(url, part)
        raise DownloadError(f"{url} replies HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} cannot be reached: {reason}") from error


def _start(response: Any, part: pathlib.Path) -> int:
    """Returns the position of the first byte in the reply: the size of `part`, or 0."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != _size(part):
        _tag_path(part).unlink()
        raise _InterruptedError("the server sent another range than the requested one")
    return int(match[1])


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _copy(response: Any, file: BinaryIO, total: int | None, max_bytes: int) -> None:
    with ProgressBar(total, "B", initial=file.tell(), unit_scale=True, leave=True) as bar:
        while True:
            try:
                block = response.read(_BLOCK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _InterruptedError(f"{type(error).__name__}: {error}") from error
            if not block:
                return
            file.write(block)
            if file.tell() > max_bytes:
                raise DownloadError(f"The server sent more than {max_bytes} bytes")
            bar.update(len(block))


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_path(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: pathlib.Path) -> str:
    try:
        text = _tag_path(part).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if text.isprintable() else ""  # it is sent as a header

"""Archives of others, unpacked without trust: nothing lands outside, no links, bounded size."""

from __future__ import annotations

import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

_MAX_MEMBERS = 1_000_000
_BLOCK = 1 << 20

Member = tuple[str, IO[bytes]]


class ArchiveError(OSError):
    """Raised when an archive is damaged, too large, or would write where it must not."""


def unpack(path: str | os.PathLike[str], folder: str | os.PathLike[str], max_bytes: int) -> None:
    """Unpacks the regular files of a `.zip`, `.tar` or `.tar.gz` into an empty folder.

    A single folder that holds everything is left away. Links and devices are passed over; owners,
    modes and times are not restored.

    Args:
      path: Of the archive.
      folder: Exists and is empty.
      max_bytes: How much may be written; counted while writing, not as the archive says.

    Raises:
      ArchiveError: If a member lies outside the folder, there is too much, or the archive is
        damaged. What was written until then is left.

    Example:

    >>> import tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> with zipfile.ZipFile(root / "farm.zip", "w") as file:
    ...     file.writestr("farm-master/hen.txt", "cluck")
    >>> (root / "farm").mkdir()
    >>> unpack(root / "farm.zip", root / "farm", max_bytes=100)
    >>> (root / "farm" / "hen.txt").read_text()
    'cluck'
    """
    root = pathlib.Path(folder)
    left = max_bytes
    try:
        for count, (name, content) in enumerate(_members(path), 1):
            target = root.joinpath(*_parts(name, path))
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                while block := content.read(min(_BLOCK, left + 1)):
                    left -= len(block)
                    if left < 0 or count > _MAX_MEMBERS:
                        raise ArchiveError(f"{path} holds more than {max_bytes} bytes")
                    file.write(block)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ArchiveError(f"{path} is damaged: {error}") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(f"{path} holds two files of one name: {error.filename}") from error
    except (NotImplementedError, RuntimeError) as error:  # a method of packing, or a password
        raise ArchiveError(f"{path} cannot be unpacked: {error}") from error
    _lift(root)


def _members(path: str | os.PathLike[str]) -> Iterator[Member]:
    """Yields the regular files in the order of the archive, each to be read before the next."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if not info.is_dir() and kind in (0, stat.S_IFREG):
                    with archive.open(info) as content:
                        yield info.filename, content
        return
    # As a stream: a list of all members would first read, and keep, the whole archive.
    with tarfile.open(path, "r|*") as stream:
        for member in stream:
            stream.members = []  # type: ignore[attr-defined]
            file = stream.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, file


def _parts(name: str, path: str | os.PathLike[str]) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    bad = name.startswith("/") or ".." in parts or not parts or set(name) & set("\\:\0")
    if bad:
        raise ArchiveError(f"{path} would write outside of its folder. Received: {name!r}")
    return parts


def _lift(root: pathlib.Path) -> None:
    """Moves the content of a single folder up."""
    entries = list(root.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return
    # Under another name first: it may hold an entry of its own name.
    single = entries[0].rename(root / ".unpacked")
    for entry in list(single.iterdir()):
        entry.rename(root / entry.name)
    single.rmdir()

"""Unpacking of untrusted archives: no file outside the folder, no links, bounded size."""

from __future__ import annotations

import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

_MAX_FILES = 1_000_000
_BLOCK_BYTES = 1 << 20


class ArchiveError(OSError):
    """Raised when an archive is damaged, too large, or has a file outside its folder."""


def unpack(path: str | os.PathLike[str], folder: str | os.PathLike[str], max_bytes: int) -> None:
    """Unpacks the regular files of a `.zip`, `.tar` or compressed `.tar` file into a folder.

    A single top-level folder is stripped. Links and devices are ignored. Owners, modes and times
    are not restored.

    Args:
        path: Path of the archive.
        folder: Empty folder to write to.
        max_bytes: Largest number of bytes to write. It is checked against the bytes written, not
            against the sizes that the archive states.

    Raises:
        ArchiveError: If a file lies outside the folder, two files have the same name, the content
            exceeds `max_bytes`, or the archive is damaged. Files written before the error remain.

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
    root, num_bytes = pathlib.Path(folder), 0
    try:
        for number, (name, content) in enumerate(_regular_files(path), start=1):
            # The filter rejects names that lead outside of the folder, for both formats.
            target = root / tarfile.data_filter(tarfile.TarInfo(name), os.fspath(root)).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if number > _MAX_FILES:
                raise ArchiveError(f"{path} holds more than {_MAX_FILES} files")
            with open(target, "xb") as file:
                while block := content.read(_BLOCK_BYTES):
                    num_bytes += len(block)
                    if num_bytes > max_bytes:
                        raise ArchiveError(f"{path} holds more than {max_bytes} bytes")
                    file.write(block)
    except tarfile.FilterError as error:
        raise ArchiveError(f"{path} has a file outside of its folder: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ArchiveError(f"{path} is damaged: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ArchiveError(f"{path} has two files of the same name: {error.filename}") from error
    except (NotImplementedError, RuntimeError) as error:  # unknown compression, or a password
        raise ArchiveError(f"{path} cannot be unpacked: {error}") from error
    _strip_single_folder(root)


def _regular_files(path: str | os.PathLike[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields name and content in the order of the archive; read each before the next."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
                    with archive.open(info) as content:
                        yield info.filename, content
        return
    # As a stream: a list of the members would first read the whole archive, and keep it.
    with tarfile.open(path, "r|*") as stream:
        for member in stream:
            stream.members = []  # type: ignore[attr-defined]
            file = stream.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, file


def _strip_single_folder(root: pathlib.Path) -> None:
    entries = list(root.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return
    # Renamed first, because the folder may hold an entry of the same name.
    single = entries[0].rename(root / ".unpacked")
    for entry in list(single.iterdir()):
        entry.rename(root / entry.name)
    single.rmdir()

"""Public data sets on this machine: found in the data folder, or downloaded once.

The data folder is the environment variable AST_KERAS_DATA_DIR, or by default `data` in
`ast_keras.files.cache_folder()`. ESC-50 and Speech Commands can be downloaded; the clips of
AudioSet cannot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import filelock
from absl import logging

from ast_keras import files
from ast_keras.data.downloads.archives import ArchiveError, unpack
from ast_keras.data.downloads.http import DownloadError, download
from ast_keras.errors import DatasetError
from ast_keras.files import megabytes, one_line, replacing_folder

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Archive:
    """Describes a data set that is published as one archive file.

    Args:
        title: Name of the data set in messages.
        url: URL of the archive.
        filename: Name of the archive in the data folder and on a mirror.
        num_bytes: Size of the archive in bytes; approximate if the publisher packs it on request.
        unpacked_bytes: Size of the content in bytes.
        folder: Name of the folder to which the archive unpacks.
        markers: Files and folders that identify an unpacked copy.
        recordings: Glob pattern of the recordings.
        num_recordings: Number of recordings.
        sha256: SHA-256 of the archive, or None if it is not always the same file.
    """

    title: str
    url: str
    filename: str
    num_bytes: int
    unpacked_bytes: int
    folder: str
    markers: tuple[str, ...]
    recordings: str
    num_recordings: int
    sha256: str | None = None


# By kind of data set, which is also the name of the folder it is unpacked to.
ARCHIVES: dict[str, Archive] = {
    "esc50": Archive(
        title="ESC-50",
        url="https://github.com/karoldvl/ESC-50/archive/master.zip",
        filename="ESC-50-master.zip",
        num_bytes=645_000_000,
        unpacked_bytes=900_000_000,
        folder="ESC-50-master",
        markers=("meta/esc50.csv", "audio"),
        recordings="audio/*.wav",
        num_recordings=2_000,
    ),
    "speech_commands": Archive(
        title="Speech Commands V2",
        url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        filename="speech_commands_v0.02.tar.gz",
        num_bytes=2_428_923_189,
        unpacked_bytes=3_700_000_000,
        folder="speech_commands_v0.02",
        markers=("validation_list.txt", "testing_list.txt"),
        recordings="[!_]*/*.wav",  # without _background_noise_
        num_recordings=105_829,
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}
_NOT_DOWNLOADABLE = {
    "audioset": (
        "AudioSet's clips cannot be downloaded: it is published as a list of YouTube segments. Set "
        "data.path to your copy (recipes/README.md describes its layout)"
    ),
}


def data_folder() -> pathlib.Path:
    """Returns the folder of public data sets; it need not exist.

    Example:

    >>> import unittest.mock
    >>> with unittest.mock.patch.dict(os.environ, AST_KERAS_DATA_DIR="/scratch/sounds"):
    ...     data_folder().name
    'sounds'
    """
    if chosen := os.environ.get("AST_KERAS_DATA_DIR"):
        return pathlib.Path(chosen).expanduser()
    return files.cache_folder() / "data"


def find_data(kind: str, log: Log | None = None) -> pathlib.Path | None:
    """Returns the folder of a public data set, downloading it first if necessary.

    The data folder (`data_folder`) is searched for a folder named after the kind, a folder as the
    archive unpacks (ESC-50-master, speech_commands_v0.02), and the archive itself. If none is
    found, the archive is downloaded from the mirror AST_KERAS_MIRROR (a URL to which `/` and the
    name of the archive are added) or from its publisher, verified and unpacked. An interrupted
    download is resumed. Of several processes only one downloads; the others wait for it.

    Args:
        kind: Kind of data set, a key of `READERS`.
        log: Called with each message about the download. By default messages are logged as
            warnings, because commands show no messages below that level.

    Returns:
        The path of the folder, or None for a kind that is not a public data set.

    Raises:
        DatasetError: If the data set is not found and cannot be downloaded (the message names the
            file to provide), or if the download is not the expected data set.

    Example:

    >>> import tempfile, unittest.mock
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "ESC-50-master" / "audio").mkdir(parents=True)
    >>> (folder / "ESC-50-master" / "meta").mkdir()
    >>> (folder / "ESC-50-master" / "meta" / "esc50.csv").touch()
    >>> with unittest.mock.patch.dict(os.environ, AST_KERAS_DATA_DIR=str(folder)):
    ...     find_data("esc50").name
    'ESC-50-master'
    """
    if kind in _NOT_DOWNLOADABLE:
        raise DatasetError(f"{_NOT_DOWNLOADABLE[kind]}. Received: data.path=None")
    if kind not in ARCHIVES:
        return None
    archive, root = ARCHIVES[kind], data_folder()
    if found := _find_unpacked(archive, kind, root):
        return found
    log = log or logging.warning
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f".{kind}.lock", log):
            # Another process may have downloaded it in the meantime.
            return _find_unpacked(archive, kind, root) or _fetch(archive, kind, root, log)
    except (DownloadError, ArchiveError, OSError) as error:
        raise DatasetError(_failure_message(archive, kind, root, error)) from error


def _find_unpacked(archive: Archive, kind: str, root: pathlib.Path) -> pathlib.Path | None:
    for folder in (root / kind, root / archive.folder):
        if all((folder / marker).exists() for marker in archive.markers):
            return folder
    return None


def _fetch(archive: Archive, kind: str, root: pathlib.Path, log: Log) -> pathlib.Path:
    """Downloads (unless the archive is there), verifies and unpacks a data set."""
    target = root / kind
    if target.exists():
        raise ArchiveError(f"{target} exists and is not {archive.title}: move it elsewhere")
    for leftover in root.glob(f".{kind}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    packed = root / archive.filename
    provided = packed.is_file()
    if not provided:
        _require_room(root, archive.num_bytes + archive.unpacked_bytes)
        log(
            f"Downloading {archive.title}: {megabytes(archive.num_bytes)} MB from "
            f"{_url(archive)}, {megabytes(archive.unpacked_bytes)} MB unpacked, to {target}"
        )
        download(_url(archive), packed, 2 * archive.num_bytes)
    try:
        _require_digest(archive, packed)
        log(f"Unpacking {packed}")
        _require_room(root, archive.unpacked_bytes)
        with replacing_folder(target) as part:
            unpack(packed, part, 2 * archive.unpacked_bytes)
            _require_complete(archive, part)
    except ArchiveError:
        if not provided:
            packed.unlink()  # so that the next call downloads it again
        raise
    if not provided:
        packed.unlink()
    return target


def _url(archive: Archive) -> str:
    mirror = os.environ.get("AST_KERAS_MIRROR")
    return f"{mirror.rstrip('/')}/{archive.filename}" if mirror else archive.url


def _require_room(root: pathlib.Path, num_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < num_bytes:
        raise ArchiveError(
            f"{megabytes(num_bytes)} MB are needed in {root} and {megabytes(free)} MB are free: "
            "free some space, or set AST_KERAS_DATA_DIR to another folder"
        )


def _require_digest(archive: Archive, path: pathlib.Path) -> None:
    if archive.sha256 is None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise ArchiveError(
            f"{path} is damaged: its SHA-256 is {digest}, that of {archive.title} is "
            f"{archive.sha256}"
        )


def _require_complete(archive: Archive, folder: pathlib.Path) -> None:
    count = sum(1 for _ in folder.glob(archive.recordings))
    missing = [marker for marker in archive.markers if not (folder / marker).exists()]
    if missing or count != archive.num_recordings:
        raise ArchiveError(
            f"The archive does not hold {archive.title}: {count} of {archive.num_recordings} "
            f"recordings {archive.recordings}"
            f"{', without ' + ', '.join(missing) if missing else ''}"
        )


@contextlib.contextmanager
def _locked(path: pathlib.Path, log: Log) -> Iterator[None]:
    """Waits until no other process downloads the same data set."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        log(f"Another process is downloading to {path.parent}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _failure_message(archive: Archive, kind: str, root: pathlib.Path, error: Exception) -> str:
    reason = one_line(error)
    return (
        f"{archive.title} is not on this machine and cannot be downloaded ({reason}). "
        f"Put {archive.url} ({megabytes(archive.num_bytes)} MB) at {root / archive.filename}, or "
        f"its unpacked content at {root / kind}, or set data.path to a folder that holds it"
    )

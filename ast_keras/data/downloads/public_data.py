"""Public data on this machine: in the data folder, or downloaded into it once.

The folder is AST_KERAS_DATA_DIR, else `data` in `files.cache_folder()`. ESC-50 and Speech Commands
can be fetched; the clips of AudioSet cannot. Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

from ast_keras import files
from ast_keras.data.downloads.archives import ArchiveError, unpack
from ast_keras.data.downloads.http import DownloadError, download
from ast_keras.errors import DatasetError
from ast_keras.files import replacing_folder

try:
    import fcntl
except ImportError:  # Windows: there two processes may fetch the same
    fcntl = None  # type: ignore[assignment]

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Archive:
    """Describes a data set that one file holds.

    Args:
      title: What people call the data.
      url: Of the file.
      filename: What the file is called where a person puts it, or a mirror has it.
      num_bytes: Size of the file; of one that is packed anew at each request about that.
      unpacked_bytes: Size of what is in it.
      sha256: Of the file, where it is always the same.
      folder: What people have who unpack it themselves.
      signs: Files and folders by which the data is recognised.
      sounds: Pattern of its recordings.
      num_sounds: How many there are.
    """

    title: str
    url: str
    filename: str
    num_bytes: int
    unpacked_bytes: int
    folder: str
    signs: tuple[str, ...]
    sounds: str
    num_sounds: int
    sha256: str | None = None


# By kind of data set, which is the name of the folder it is unpacked to.
ARCHIVES: dict[str, Archive] = {
    "esc50": Archive(
        title="ESC-50",
        url="https://github.com/karoldvl/ESC-50/archive/master.zip",
        filename="ESC-50-master.zip",
        num_bytes=645_000_000,
        unpacked_bytes=900_000_000,
        folder="ESC-50-master",
        signs=("meta/esc50.csv", "audio"),
        sounds="audio/*.wav",
        num_sounds=2_000,
    ),
    "speech_commands": Archive(
        title="Speech Commands V2",
        url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        filename="speech_commands_v0.02.tar.gz",
        num_bytes=2_428_923_189,
        unpacked_bytes=3_700_000_000,
        folder="speech_commands_v0.02",
        signs=("validation_list.txt", "testing_list.txt"),
        sounds="[!_]*/*.wav",  # all but _background_noise_
        num_sounds=105_829,
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}
_BEYOND_REACH = {
    "audioset": (
        "AudioSet's clips cannot be fetched: it is published as a list of YouTube segments. Set "
        "data.path to your copy (recipes/README.md says how it is laid out)"
    ),
}


def data_folder() -> pathlib.Path:
    """Returns where public data is looked for and fetched to; it need not exist.

    Example:

    >>> import unittest.mock
    >>> with unittest.mock.patch.dict(os.environ, AST_KERAS_DATA_DIR="/scratch/sounds"):
    ...     data_folder().name
    'sounds'
    """
    if chosen := os.environ.get("AST_KERAS_DATA_DIR"):
        return pathlib.Path(chosen).expanduser()
    return files.cache_folder() / "data"


def find_data(kind: str, log: Say | None = None) -> pathlib.Path | None:
    """Returns the folder of public data, fetched if it is not here yet; None for other kinds.

    In the data folder (`data_folder`) it may lie under its kind, as its archive unpacks
    (ESC-50-master, speech_commands_v0.02), or still be packed. Else it is downloaded, from the
    mirror AST_KERAS_MIRROR (an address to which `/` and the file's name are added) or from its
    publisher, checked and unpacked. A download that broke off goes on where it was, and several
    processes fetch once.

    Args:
      kind: A kind of `load_dataset`.
      log: Takes the lines that announce what is fetched; left out, they are printed on stderr.

    Raises:
      DatasetError: If it is nowhere to be had (the message says which file to put where), or what
        was fetched is not what it should be.

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
    if kind in _BEYOND_REACH:
        raise DatasetError(f"{_BEYOND_REACH[kind]}. Received: data.path=None")
    if kind not in ARCHIVES:
        return None
    archive, root = ARCHIVES[kind], data_folder()
    if found := _unpacked(archive, kind, root):
        return found
    log = log or _print
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{kind}.lock", log):
            # Another process may have fetched it in the meantime.
            return _unpacked(archive, kind, root) or _fetch(archive, kind, root, log)
    except (DownloadError, ArchiveError, OSError) as error:
        raise DatasetError(_advice(archive, kind, root, error)) from error


def _unpacked(archive: Archive, kind: str, root: pathlib.Path) -> pathlib.Path | None:
    for folder in (root / kind, root / archive.folder):
        if all((folder / sign).exists() for sign in archive.signs):
            return folder
    return None


def _fetch(archive: Archive, kind: str, root: pathlib.Path, log: Say) -> pathlib.Path:
    target = root / kind
    if target.exists():
        raise ArchiveError(f"{target} holds something else: move it away")
    for left in root.glob(f".{kind}-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    packed = root / archive.filename
    given = packed.is_file()
    if not given:
        _require_room(root, archive.num_bytes + archive.unpacked_bytes)
        log(
            f"Fetching {archive.title}: {_megabytes(archive.num_bytes)} MB of {_url(archive)}, "
            f"{_megabytes(archive.unpacked_bytes)} MB unpacked, to {target}"
        )
        download(_url(archive), packed, 2 * archive.num_bytes, log)
    try:
        _require_digest(archive, packed)
        log(f"Unpacking {packed}")
        _require_room(root, archive.unpacked_bytes)
        with replacing_folder(target) as part:
            unpack(packed, part, 2 * archive.unpacked_bytes)
            _require_complete(archive, part)
    except ArchiveError:
        if not given:
            packed.unlink()  # so that it is fetched anew
        raise
    if not given:
        packed.unlink()
    return target


def _url(archive: Archive) -> str:
    mirror = os.environ.get("AST_KERAS_MIRROR")
    return f"{mirror.rstrip('/')}/{archive.filename}" if mirror else archive.url


def _require_room(root: pathlib.Path, num_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < num_bytes:
        raise ArchiveError(
            f"{_megabytes(num_bytes)} MB are needed in {root} and {_megabytes(free)} MB are free: "
            "make room, or set AST_KERAS_DATA_DIR to another folder"
        )


def _require_digest(archive: Archive, path: pathlib.Path) -> None:
    if archive.sha256 is None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise ArchiveError(
            f"{path} is damaged: its SHA-256 is {digest}, that of {archive.title} {archive.sha256}"
        )


def _require_complete(archive: Archive, folder: pathlib.Path) -> None:
    count = sum(1 for _ in folder.glob(archive.sounds))
    missing = [sign for sign in archive.signs if not (folder / sign).exists()]
    if missing or count != archive.num_sounds:
        raise ArchiveError(
            f"What was unpacked is not {archive.title}: {count} of {archive.num_sounds} recordings "
            f"{archive.sounds}{', without ' + ', '.join(missing) if missing else ''}"
        )


@contextlib.contextmanager
def _alone(path: pathlib.Path, log: Say) -> Iterator[None]:
    """Waits until no other process fetches the same."""
    if fcntl is None:
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"Another process is fetching to {path.parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _advice(archive: Archive, kind: str, root: pathlib.Path, error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(". ")
    return (
        f"{archive.title} is not on this machine and cannot be fetched ({reason}). "
        f"Put {archive.url} ({_megabytes(archive.num_bytes)} MB) at {root / archive.filename}, or "
        f"what it unpacks to at {root / kind}, or set data.path to a folder that holds it"
    )


def _megabytes(num_bytes: int) -> int:
    return round(num_bytes / 1e6)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

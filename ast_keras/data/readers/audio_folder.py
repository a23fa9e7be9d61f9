"""Audio files in folders: listed in a fixed order, and found by name.

A file that looks like a sound and is not read is never ignored silently: it becomes a `LeftOut`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ast_keras.audio.ffmpeg import FFMPEG_SUFFIXES, ffmpeg_command
from ast_keras.data.left_out import LeftOut
from ast_keras.errors import DatasetError

# Of several files with the same stem the first in this order is used: lossless before lossy.
# fmt: off
AUDIO_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".flac", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".voc", ".sph", ".nist", ".ircam", ".avr", ".paf", ".pvf", ".svx", ".8svx",
    ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".gsm",
)
# Sounds in formats that may be protected, notes without samples, or read by few programs.
_OTHER_SUFFIXES = (
    ".aa", ".aax", ".dff", ".kar", ".m4p", ".mid", ".midi", ".mpc", ".ra", ".ram", ".rm", ".sd2",
    ".sf2", ".shn", ".tak",
)
# Added to the name of a file that is not here completely, or packed.
_UNFINISHED_SUFFIXES = (
    ".part", ".partial", ".crdownload", ".download", ".opdownload", ".tmp", ".icloud", ".gz",
    ".bz2", ".xz", ".zst", ".zip",
)
# fmt: on
_WITH_FFMPEG = (*AUDIO_SUFFIXES, *(s for s in FFMPEG_SUFFIXES if s not in AUDIO_SUFFIXES))
_ALL_SUFFIXES = frozenset((*_WITH_FFMPEG, *_OTHER_SUFFIXES))

NEEDS_FFMPEG = (
    "unreadable without ffmpeg (install it, or convert them where it is: "
    "ffmpeg -i NAME{suffix} NAME.flac)"
)
NO_READER = "in a format that nothing here reads (convert them to WAV or FLAC)"
UNFINISHED = "unfinished or packed (download them again, or unpack them)"
HIDDEN = "hidden by a dot before their name or folder (rename it to read them)"
NOT_A_FILE = "neither files nor folders (remove them)"
SHADOWED = "next to a file that differs only in its suffix and is read (remove one of the two)"


def readable_suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the sounds that can be read here, preferred ones first.

    Example:

    >>> readable_suffixes()[0]
    '.wav'
    """
    return AUDIO_SUFFIXES if ffmpeg_command() is None else _WITH_FFMPEG


def is_audio(name: str) -> bool:
    """Returns whether a file name has an audio suffix and is not hidden (as macOS's `._x.wav`).

    Example:

    >>> is_audio("DOG.WAV"), is_audio("._dog.wav"), is_audio("notes.txt")
    (True, False, False)
    """
    return not name.startswith(".") and _suffix(name) in readable_suffixes()


def why_left_out(name: str) -> str | None:
    """Returns why a file that looks like a sound is not read; None for all other files.

    Args:
        name: Name of the file.

    Example:

    >>> why_left_out("dog.flac.part")
    'unfinished or packed (download them again, or unpack them)'
    >>> why_left_out("dog.flac") or why_left_out("notes.txt")
    """
    if name.startswith("._"):  # what macOS stores about a file, not its sound
        return None
    suffix = _suffix(name)
    if suffix in _UNFINISHED_SUFFIXES:
        inner = _suffix(os.path.splitext(name.strip())[0])
        return UNFINISHED if inner in _ALL_SUFFIXES else None
    if suffix not in _ALL_SUFFIXES:
        return None
    if name.startswith("."):
        return HIDDEN
    if suffix in readable_suffixes():
        return None
    return NEEDS_FFMPEG.format(suffix=suffix) if suffix in FFMPEG_SUFFIXES else NO_READER


def _suffix(name: str) -> str:
    return os.path.splitext(name.strip())[1].lower()


def subfolders(path: str) -> list[str]:
    """Returns the sorted names of the subfolders, except those that start with `.` or `_`."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "_")))


@dataclass(frozen=True)
class SoundTree:
    """All sounds in a folder and its subfolders.

    Args:
        path: Path of the folder.
        sounds: Path of each sound that is read, relative to the folder. Folders and stems are in
            alphabetical order, the files of a folder come before its subfolders.
        left_out: What looks like a sound and is not read.

    Example:

    >>> import tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("b.wav", "a.flac", "c.flac.part"):
    ...     open(os.path.join(root, name), "w").close()
    >>> tree = SoundTree.scan(root)
    >>> tree.sounds, [sound.path for sound in tree.left_out]
    (('a.flac', 'b.wav'), ['c.flac.part'])
    """

    path: str
    sounds: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @classmethod
    def scan(cls, path: str) -> SoundTree:
        """Lists a folder and its subfolders (`walk_folders`).

        Raises:
            DatasetError: If a folder cannot be listed.
        """
        sounds: list[str] = []
        left_out: list[LeftOut] = []
        readable = frozenset(readable_suffixes())  # once: there may be millions of files
        for folder, files, hidden in walk_folders(path):
            for entry in files:
                is_sound = _suffix(entry.name) in readable and not entry.name.startswith(".")
                reason = None if is_sound else why_left_out(entry.name)
                if hidden and (reason or is_sound):
                    reason = HIDDEN
                elif is_sound and not entry.is_file() and not entry.is_symlink():
                    reason = NOT_A_FILE  # a broken link is an error when it is read
                name = os.path.join(folder, entry.name)
                if reason:
                    left_out.append(LeftOut(name, reason))
                elif is_sound:
                    sounds.append(name)
        return cls(path, tuple(sounds), tuple(left_out))


def walk_folders(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]], bool]]:
    """Yields a folder and its subfolders, each with its files and whether it is hidden by a dot.

    Links to folders are followed, except to a folder that contains the link: that would never end.

    Args:
        root: Path of the folder.

    Yields:
        The relative path of a folder, its files in the order of their stems, and whether its name
        or that of a folder around it starts with a dot. Subfolders come after their folder, in
        alphabetical order.

    Raises:
        DatasetError: If a folder cannot be listed.
    """
    above = os.path.realpath(root)
    containing = {_identity(above)}
    while above != os.path.dirname(above):
        above = os.path.dirname(above)
        containing.add(_identity(above))
    yield from _walk(root, "", frozenset(containing), hidden=False)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _walk(
    root: str, relative: str, containing: frozenset[tuple[int, int]], hidden: bool
) -> Iterator[tuple[str, list[os.DirEntry[str]], bool]]:
    try:
        with os.scandir(os.path.join(root, relative)) as entries:
            listed = sorted(entries, key=lambda entry: (*os.path.splitext(entry.name), entry.name))
        folders = [entry for entry in listed if entry.is_dir()]
        yield relative, [entry for entry in listed if not entry.is_dir()], hidden
        for entry in sorted(folders, key=lambda entry: entry.name):
            identity = _identity(entry.path)
            if identity not in containing:
                inner = hidden or entry.name.startswith(".")
                path = os.path.join(relative, entry.name)
                yield from _walk(root, path, containing | {identity}, inner)
    except OSError as error:
        raise DatasetError(
            f"Cannot list a folder of the data: {error.strerror}. Received: {error.filename}"
        ) from None


@dataclass(frozen=True)
class AudioFolder:
    """The content of one folder, without its subfolders, for look-ups by name.

    Args:
        path: Path of the folder.
        names: Names of all files in it.
        by_stem: Name of the audio file of each stem, in the order of the stems.
        left_out: What looks like a sound and is not in `by_stem`: it cannot be read, or another
            file has the same stem. Paths are names.

    Example:

    >>> import tempfile
    >>> folder = AudioFolder.scan(tempfile.mkdtemp())
    >>> folder.find("dog.wav") is None
    True
    """

    path: str
    names: frozenset[str]
    by_stem: dict[str, str]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def scan(cls, path: str) -> AudioFolder:
        """Lists a folder once; later look-ups do not access the disk."""
        with os.scandir(path) as entries:
            return cls.of(path, (entry.name for entry in entries if not entry.is_dir()))

    @classmethod
    def of(cls, path: str, files: Iterable[str]) -> AudioFolder:
        """Returns the folder with these files in it, without accessing the disk.

        Args:
            path: Path of the folder.
            files: Names of its files.
        """
        names, by_stem = frozenset(files), dict[str, str]()
        left_out = [LeftOut(n, reason) for n in sorted(names) if (reason := why_left_out(n))]
        for name in sorted(filter(is_audio, names), key=preference):
            if by_stem.setdefault(os.path.splitext(name)[0], name) != name:
                left_out.append(LeftOut(name, SHADOWED))
        return cls(path, names, dict(sorted(by_stem.items())), tuple(left_out))

    def find(self, name: str) -> str | None:
        """Returns the path of a file by its name, or by its stem with another audio suffix.

        Published lists name `.wav` files; a copy may hold them as `.flac` without changing the
        lists.
        """
        if name not in self.names:
            name = self.by_stem.get(os.path.splitext(name)[0], "")
        return os.path.join(self.path, name) if name else None


def preference(path: str) -> tuple[int, str]:
    """Returns a key that sorts files with the same stem: lossless before lossy."""
    return readable_suffixes().index(_suffix(path)), path


def missing_files(paths: Iterable[str]) -> list[str]:
    """Returns the paths at which no file exists. Each folder is listed only once.

    Example:

    >>> missing_files(["no/such/dog.wav"])
    ['no/such/dog.wav']
    """
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            known = os.path.isdir(folder or ".")
            listings[folder] = frozenset(os.listdir(folder or ".")) if known else frozenset()
        # A file system that ignores case may find a name that its listing spells differently.
        if name not in listings[folder] and not os.path.exists(path):
            missing.append(path)
    return missing

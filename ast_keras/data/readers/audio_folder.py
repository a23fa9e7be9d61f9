"""Audio files in folders: listed in a fixed order, found by name, split by a hash of the name."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ast_keras.errors import DatasetError

# Of several files with the same stem the first in this order is used: lossless before lossy.
# fmt: off
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
    ".ogg", ".oga", ".opus", ".mp3", ".gsm",
)
# fmt: on


def is_audio(name: str) -> bool:
    """Returns whether a file name has an audio suffix and is not hidden (as macOS's `._x.wav`).

    Example:

    >>> is_audio("DOG.WAV"), is_audio("._dog.wav"), is_audio("notes.txt")
    (True, False, False)
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def subfolders(path: str) -> list[str]:
    """Returns the sorted names of the subfolders, except those that start with `.` or `_`."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "_")))


@dataclass(frozen=True)
class AudioFolder:
    """The content of one folder, without its subfolders.

    Args:
        path: Path of the folder.
        names: Names of all files in it.
        by_stem: Name of the audio file of each stem, in the order of the stems.
        num_shadowed: Number of audio files that are not in `by_stem`, because another one has the
            same stem.

    Example:

    >>> import tempfile
    >>> folder = AudioFolder.scan(tempfile.mkdtemp())
    >>> folder.find("dog.wav") is None
    True
    """

    path: str
    names: frozenset[str]
    by_stem: dict[str, str]
    num_shadowed: int

    @classmethod
    def scan(cls, path: str) -> AudioFolder:
        """Lists a folder once; later look-ups do not access the disk."""
        with os.scandir(path) as entries:
            names = frozenset(entry.name for entry in entries if not entry.is_dir())
        audio = sorted(filter(is_audio, names), key=_preference)
        by_stem: dict[str, str] = {}
        for name in audio:
            by_stem.setdefault(os.path.splitext(name)[0], name)
        return cls(path, names, dict(sorted(by_stem.items())), len(audio) - len(by_stem))

    def find(self, name: str) -> str | None:
        """Returns the path of a file by its name, or by its stem with another audio suffix.

        Published lists name `.wav` files; a copy may hold them as `.flac` without changing the
        lists.
        """
        if name not in self.names:
            name = self.by_stem.get(os.path.splitext(name)[0], "")
        return os.path.join(self.path, name) if name else None


def _preference(name: str) -> tuple[int, str]:
    return AUDIO_SUFFIXES.index(os.path.splitext(name)[1].lower()), name


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


def hold_out(
    keys: Sequence[str],
    classes: Sequence[Hashable],
    test_fraction: float,
    validation_fraction: float,
    groups: Sequence[str] | None = None,
) -> list[str]:
    """Assigns each example to "train", "validation" or "test" by a hash of its key or group.

    The same keys give the same assignment on every machine and in any order. Each class is divided
    separately, so that rare classes are tested too: every class has at least one training example,
    and a held-out example if it has two. With groups, whole groups are held out, those of the class
    with the fewest groups first; a group that would miss the fraction by more than no group does is
    left in training, unless the class would not be held out at all.

    Args:
        keys: Unique names, such as paths relative to the data set.
        classes: Class of each example.
        test_fraction: Fraction of each class to hold out for testing. 1 tests on all examples.
        validation_fraction: Fraction of each class to hold out for validation.
        groups: Group of each example, which stays in one split. None if each is on its own.

    Returns:
        The name of the split of each example.

    Raises:
        DatasetError: If a fraction is negative, or they leave nothing to train on.

    Example:

    >>> hold_out(["a", "b", "c", "d"], [0, 0, 0, 0], 0.25, 0.0)
    ['train', 'train', 'train', 'test']
    >>> hold_out(["a1", "a2", "b1", "b2"], [0, 0, 0, 0], 0.5, 0.0, groups=["a", "a", "b", "b"])
    ['train', 'train', 'test', 'test']
    """
    fractions = {"test": test_fraction, "validation": validation_fraction}
    if fractions == {"test": 1, "validation": 0}:
        return ["test"] * len(keys)
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise DatasetError(
            "The held-out fractions must not be negative and must sum to less than 1. "
            f"Received: test_fraction={test_fraction}, validation_fraction={validation_fraction}"
        )
    names = keys if groups is None else groups
    hashes = {n: hashlib.sha256(n.encode("utf-8", "surrogatepass")).digest() for n in {*names}}
    sizes: dict[Hashable, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    classes_of: dict[str, set[Hashable]] = collections.defaultdict(set)
    for name, label in zip(names, classes, strict=True):
        sizes[label][name] += 1
        classes_of[name].add(label)
    num_trained = {label: len(found) for label, found in sizes.items()}  # groups for training
    split_of: dict[str, str] = {}

    def hold(name: str, split: str) -> None:
        split_of[name] = split
        for label in classes_of[name]:
            num_trained[label] -= 1

    def free(label: Hashable) -> Iterator[str]:
        """Yields the groups of a class that may be held out, by their hashes."""
        for name in sorted(sizes[label], key=hashes.__getitem__):
            if name not in split_of and all(num_trained[other] > 1 for other in classes_of[name]):
                yield name

    for label in sorted(
        sizes, key=lambda c: (len(sizes[c]), min(map(hashes.__getitem__, sizes[c])))
    ):
        for split, fraction in fractions.items():
            wanted = max(1, round(fraction * sizes[label].total())) if fraction else 0
            held = sum(size for name, size in sizes[label].items() if split_of.get(name) == split)
            for name in free(label):
                if held >= wanted:
                    break
                size = sizes[label][name]
                if held + size - wanted <= wanted - held:
                    hold(name, split)
                    held += size
            if wanted and not held:
                for name in sorted(free(label), key=sizes[label].__getitem__)[:1]:
                    hold(name, split)
    return [split_of.get(name, "train") for name in names]

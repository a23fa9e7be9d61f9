"""Reader of Speech Commands (Warden 2018), from the folder as the archive unpacks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ast_keras.data.dataset import SoundDataset, from_examples
from ast_keras.data.readers.audio_folder import AudioFolder, subfolders
from ast_keras.errors import DatasetError, did_you_mean
from ast_keras.labels import LabelSet

_LAYOUT = (
    "Speech Commands is a folder of word/speaker_nohash_n.wav with validation_list.txt and "
    "testing_list.txt, as "
    "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz unpacks. A folder of classes "
    'without lists is data.kind="folders".'
)
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def read_speech_commands(path: str, *, words: Sequence[str] | None = None) -> SoundDataset:
    """Reads Speech Commands: listed clips are for validation or test, all others for training.

    A partial copy is accepted: listed clips that are missing are counted in the notes. A file may
    have another audio suffix than in the lists. Recordings of background noise are ignored.

    Args:
        path: Folder with a folder for each word and the two lists.
        words: Words to read, in the order of the model's outputs. By default all that are present:
            in the order of the released models if these know every word, otherwise in alphabetical
            order.

    Raises:
        DatasetError: If the folder is not Speech Commands, or lacks one of the words.

    Reference:
        Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", arXiv
        1804.03209.

    Example:

    >>> import os, tempfile
    >>> root = tempfile.mkdtemp()
    >>> for name in ("validation_list.txt", "testing_list.txt", "yes/1_nohash_0.wav"):
    ...     os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
    ...     open(os.path.join(root, name), "w").close()
    >>> print(read_speech_commands(root))
    speech_commands: 1 labels; 1 train
    """
    listed = _read_lists(path)
    folders = {word: AudioFolder.scan(os.path.join(path, word)) for word in subfolders(path)}
    present = [word for word, folder in folders.items() if folder.by_stem]
    if not present:
        raise DatasetError(
            f"The folder holds no recording of any word. {_LAYOUT} Received: path={path!r}"
        )
    labels = choose_labels(present, words, f"path={path!r}")

    examples: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        "train": [],
        **{s: [] for s in _LISTS},
    }
    for target, word in enumerate(labels.names):
        for stem, name in folders[word].by_stem.items():
            split = listed.pop((word, stem), "train")
            examples[split].append((os.path.join(path, word, name), (target,)))
    notes = []
    wanted = set(labels.names) if words is not None else {word for word, _ in listed}
    absent = [split for (word, _), split in listed.items() if word in wanted]
    for split, file in _LISTS.items():
        if split in absent:
            notes.append(f"{absent.count(split)} clips of {file} are missing from {path}")
    shadowed = sum(folders[word].num_shadowed for word in labels.names)
    if shadowed:
        notes.append(f"{shadowed} files ignored: another file differs only in its suffix")
    if len(present) < len(folders):
        empty = sorted(set(folders) - set(present))
        notes.append(f"{len(empty)} folders without a recording ignored: {', '.join(empty[:5])}")
    if os.path.isdir(os.path.join(path, "_background_noise_")):
        notes.append("_background_noise_ ignored: it is not a word")
    return from_examples("speech_commands", labels, examples, notes=notes)


def choose_labels(present: Sequence[str], words: Sequence[str] | None, where: str) -> LabelSet:
    """Returns the labels of the words to read, in the order of the model's outputs.

    Args:
        present: Words that have a recording.
        words: Words to read, in order. By default all that are present: in the order of the
            released models if these know every word, otherwise in alphabetical order.
        where: Description of the data for errors.

    Raises:
        DatasetError: If a word has no recording.
    """
    official = LabelSet.load("speech_commands")
    if words is None:
        known = set(present) <= set(official.names)
        words = [w for w in official.names if w in present] if known else sorted(present)
    for word in words:
        if word not in present:
            raise DatasetError(
                f"There is no recording of {word!r}. {did_you_mean(word, present)} "
                f"Received: {where}"
            )
    if set(words) <= set(official.names):
        return official.subset([official.index_of(word) for word in words])
    return LabelSet(tuple(words))


def _read_lists(path: str) -> dict[tuple[str, str], str]:
    """Returns the split of each listed pair of word and stem."""
    listed: dict[tuple[str, str], str] = {}
    for split, name in _LISTS.items():
        file = os.path.join(path, name)
        try:
            with open(file, encoding="utf-8-sig") as lines:
                entries = [line.strip() for line in lines]
        except OSError as error:
            raise DatasetError(
                f"{error.strerror}: {file}. {_LAYOUT} Received: path={path!r}"
            ) from None
        for number, entry in enumerate(entries, 1):
            if not entry:
                continue
            word, slash, recording = entry.partition("/")
            if not (word and slash and recording):
                raise DatasetError(
                    "An entry must have the form word/file.wav. "
                    f"Received: {file} line {number}: {entry!r}"
                )
            key = (word, os.path.splitext(recording)[0])
            if listed.setdefault(key, split) != split:
                raise DatasetError(
                    f"A clip must be in only one list. Received: {file} line {number}: {entry!r}, "
                    f"also in {_LISTS[listed[key]]}"
                )
    return listed

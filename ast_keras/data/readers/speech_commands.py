"""Reader of Speech Commands (Warden 2018), from the folder as the archive unpacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

from ast_keras.data.dataset import SoundDataset, from_examples
from ast_keras.data.left_out import LeftOut, left_out_notes, require_no_lost_class
from ast_keras.data.readers.audio_folder import AudioFolder, SoundTree, subfolders
from ast_keras.data.readers.unknown_and_silence import (
    NOISE_FOLDER,
    SILENCE,
    UNKNOWN,
    Examples,
    add_silence,
    add_unknown,
)
from ast_keras.errors import DatasetError, did_you_mean
from ast_keras.labels import LabelSet

_LAYOUT = (
    "Speech Commands is a folder of word/speaker_nohash_n.wav with validation_list.txt and "
    "testing_list.txt, as "
    "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz unpacks. A folder of classes "
    'without lists is data.kind="folders".'
)
_OUTSIDE = "outside the folders of the words (move each into the folder of its word)"
TEN_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def read_speech_commands(
    path: str,
    *,
    words: Sequence[str] | None = None,
    subset: str | None = None,
    unknown_fraction: float = 0.1,
    silence_fraction: float = 0.1,
) -> SoundDataset:
    """Reads Speech Commands: listed clips are for validation or test, all others for training.

    A partial copy is accepted: listed clips that are missing are counted in the notes. A file may
    have another audio suffix than in the lists.

    The class `_unknown_` holds clips of the words that are not chosen, and `_silence_` seconds of
    the recordings in `_background_noise_`; both are read only if they are named (`add_unknown`,
    `add_silence`).

    Args:
        path: Folder with a folder for each word and the two lists.
        words: Words to read, in the order of the model's outputs, which may include "_unknown_" and
            "_silence_". By default all words that are present: in the order of the released models
            if these know every word, otherwise in alphabetical order.
        subset: "twelve" for the twelve classes of the original task: "_silence_", "_unknown_" and
            `TEN_WORDS`.
        unknown_fraction: Number of clips of "_unknown_" in a split, as a fraction of those of the
            chosen words.
        silence_fraction: Number of clips of "_silence_" in a split, as a fraction of those of the
            chosen words.

    Raises:
        DatasetError: If the folder is not Speech Commands, or lacks one of the words or the
            background noise.

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
    words = _chosen_words(words, subset)
    listed = _read_lists(path)
    folders, left_out = _word_folders(path)
    present = [word for word, folder in folders.items() if folder.by_stem]
    if not present:
        raise DatasetError(
            f"The folder holds no recording of any word. {_LAYOUT} "
            f"Received: {'; '.join([f'path={path!r}', *left_out_notes(left_out)])}"
        )
    extra = [word for word in words or () if word in (UNKNOWN, SILENCE)]
    chosen = choose_labels(
        # A word of which no recording can be read is refused below.
        sorted({*present, *(sound.label for sound in left_out if sound.label)}),
        None if words is None else [word for word in words if word not in extra],
        f"path={path!r}",
    )
    labels = chosen if words is None else _with_extra(chosen, words)

    examples: Examples = {"train": [], **{s: [] for s in _LISTS}}
    other_clips: dict[str, list[str]] = {split: [] for split in examples}
    for word, folder in folders.items():
        target = labels.names.index(word) if word in chosen.names else None
        for stem, name in folder.by_stem.items():
            split = listed.pop((word, stem), "train")
            clip = os.path.join(path, word, name)
            if target is None:
                other_clips[split].append(clip)
            else:
                examples[split].append((clip, (target,)))
    for split in examples:
        examples[split].sort(key=lambda example: example[1])  # in the order of the labels
    notes = []
    sizes = {split: len(pairs) for split, pairs in examples.items()}
    if UNKNOWN in extra:
        target = labels.names.index(UNKNOWN)
        notes += add_unknown(examples, other_clips, sizes, unknown_fraction, target)
    noise = os.path.join(path, NOISE_FOLDER)
    if SILENCE in extra:
        add_silence(examples, noise, sizes, silence_fraction, labels.names.index(SILENCE))
    wanted = set(chosen.names) if words is not None else {word for word, _ in listed}
    absent = [split for (word, _), split in listed.items() if word in wanted]
    for split, file in _LISTS.items():
        if split in absent:
            notes.append(f"{absent.count(split)} clips of {file} are missing from {path}")
    empty = [w for w in subfolders(path) if w not in folders]
    if empty:
        notes.append(f"{len(empty)} folders without a recording ignored: {', '.join(empty[:5])}")
    if SILENCE not in extra and os.path.isdir(noise):
        notes.append(f"{NOISE_FOLDER} ignored: it is not a word")
    left_out = [sound for sound in left_out if sound.label in ("", *chosen.names)]
    require_no_lost_class(left_out, present, path)
    return from_examples("speech_commands", labels, examples, notes=notes, left_out=left_out)


def _chosen_words(words: Sequence[str] | None, subset: str | None) -> Sequence[str] | None:
    if subset is None:
        return words
    if subset != "twelve" or words is not None:
        raise DatasetError(
            'subset of Speech Commands must be "twelve", without words. '
            f"Received: subset={subset!r}, words={words}"
        )
    return (SILENCE, UNKNOWN, *TEN_WORDS)


def _with_extra(chosen: LabelSet, words: Sequence[str]) -> LabelSet:
    """Returns the labels of all words in their order; those of no word identify themselves."""
    ids = dict(zip(chosen.names, chosen.ids, strict=True))
    return LabelSet(tuple(words), tuple(ids.get(word, word) for word in words))


def _word_folders(path: str) -> tuple[dict[str, AudioFolder], list[LeftOut]]:
    """Returns the folder of each word with a recording, and the sounds that are not read."""
    tree = SoundTree.scan(path)
    names: dict[str, list[str]] = {}
    left_out = []
    for path_in_tree in tree.sounds:
        word, _, name = path_in_tree.partition(os.sep)
        if name and os.sep not in name and not word.startswith("_"):
            names.setdefault(word, []).append(name)
        elif word != NOISE_FOLDER:
            left_out.append(LeftOut(path_in_tree, _OUTSIDE))
    folders = {word: AudioFolder.of(os.path.join(path, word), names[word]) for word in names}
    for sound in (*tree.left_out, *_shadowed(folders)):
        word = sound.path.partition(os.sep)[0] if sound.path.count(os.sep) == 1 else ""
        if word != NOISE_FOLDER:
            label = "" if word.startswith(("_", ".")) else word
            left_out.append(dataclasses.replace(sound, label=label))
    return folders, left_out


def _shadowed(folders: Mapping[str, AudioFolder]) -> Iterator[LeftOut]:
    for word, folder in folders.items():
        for sound in folder.left_out:
            yield dataclasses.replace(sound, path=os.path.join(word, sound.path))


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

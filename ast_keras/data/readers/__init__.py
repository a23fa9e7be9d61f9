"""Readers: functions that return a data set from its files, without decoding audio.

| module | holds |
|---|---|
| `class_folders` | a folder for each class |
| `manifest` | a CSV file with paths and labels |
| `annotations` | recordings with labels of Audacity or selections of Raven next to them |
| `esc50`, `speech_commands` | the public data sets, in the folders of their archives |
| `audioset`, `audioset_lists`, `audioset_clips` | AudioSet: segment lists, and clips in a folder |
| `array_record`, `array_record_index` | data sets written by `ast_keras.data.builders` |
| `synthetic`, `synthetic_sounds` | ten classes of sounds, rendered in memory |
| `recognise` | the kind of a data set, by its files |
| `audio_folder`, `folder_layout` | helpers: audio files in folders; classes, splits and folds |
| `csv_table`, `hold_out` | helpers: tables with line numbers; splits by a hash of the names |
| `row`, `labelled_rows`, `label_cells`, `groups` | helpers: rows of any table as a data set |
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.readers.annotations import read_annotations
from ast_keras.data.readers.array_record import read_built
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.data.readers.class_folders import read_class_folders
from ast_keras.data.readers.esc50 import read_esc50
from ast_keras.data.readers.manifest import read_manifest
from ast_keras.data.readers.recognise import recognise
from ast_keras.data.readers.speech_commands import read_speech_commands
from ast_keras.data.readers.synthetic import synthetic_sounds
from ast_keras.errors import DatasetError, did_you_mean

__all__ = ["READERS", "load_dataset"]

READERS: Mapping[str, Callable[..., SoundDataset]] = {
    "annotations": read_annotations,
    "audioset": read_audioset,
    "built": read_built,
    "esc50": read_esc50,
    "folders": read_class_folders,
    "manifest": read_manifest,
    "speech_commands": read_speech_commands,
    "synthetic": synthetic_sounds,
}


def load_dataset(
    kind: str, path: str | os.PathLike[str] | None = None, **settings: Any
) -> SoundDataset:
    """Reads a data set of one of the known kinds.

    Args:
        kind: Key of `READERS`: "annotations", "audioset", "built", "esc50", "folders", "manifest",
            "speech_commands" or "synthetic". "auto" is the kind that `recognise` finds.
        path: Path of the folder or manifest; `~` is expanded. None for "synthetic".
        **settings: Arguments of the reader, for example `fold=1` for `read_esc50`.

    Raises:
        DatasetError: If the kind or a setting is unknown, the path is missing, or the reader cannot
            read the data.

    Example:

    >>> print(load_dataset("synthetic", num_train=30, num_validation=10, num_test=10))
    synthetic: 10 labels; 30 train, 10 validation, 10 test; rendered in memory from seed 0
    """
    if kind == "auto":
        if path is None:
            raise DatasetError(
                "Give the path of the data: a CSV with the columns path,labels, or a folder with a "
                'folder for each class. Received: kind="auto", path=None'
            )
        kind = recognise(os.fspath(path))
    if kind not in READERS:
        raise DatasetError(
            f"There is no such kind of data set. {did_you_mean(kind, (*READERS, 'auto'))} "
            f"Received: kind={kind!r}"
        )
    known = set(inspect.signature(READERS[kind]).parameters)
    needs_path = "path" in known
    known.discard("path")
    for name in settings:
        if name not in known:
            raise DatasetError(
                f"{kind} data has no such setting. {did_you_mean(name, sorted(known))} "
                f"Received: {name}={settings[name]!r}"
            )
    if needs_path != (path is not None):
        rule = "needs a path" if needs_path else "is rendered in memory: it takes no path"
        raise DatasetError(f"{kind} data {rule}. Received: path={path!r}")
    if path is not None:
        return READERS[kind](os.path.expanduser(os.fspath(path)), **settings)
    return READERS[kind](**settings)

"""Data sets as labels and splits: read straight from folders, or rendered in memory.

Nothing here decodes a sound or needs TensorFlow; `ast_keras.data.pipeline` does.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.readers.array_record import read_built
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.data.readers.class_folders import read_class_folders
from ast_keras.data.readers.esc50 import read_esc50
from ast_keras.data.readers.manifest import read_manifest
from ast_keras.data.readers.speech_commands import read_speech_commands
from ast_keras.data.readers.synthetic import synthetic_sounds
from ast_keras.errors import DatasetError, did_you_mean

__all__ = ["READERS", "load_dataset"]

READERS: Mapping[str, Callable[..., SoundDataset]] = {
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
      kind: A key of `READERS`: "audioset", "built", "esc50", "folders", "manifest",
        "speech_commands" or "synthetic".
      path: The folder or manifest; None for "synthetic", which has none. `~` is understood.
      **settings: Those of the reader, e.g. `fold=1` of `read_esc50`.

    Raises:
      DatasetError: If the kind or a setting is unknown, a path is lacking, or the reader finds
        something else than it expects.

    Example:

    >>> print(load_dataset("synthetic", num_train=30, num_validation=10, num_test=10))
    synthetic: 10 labels; 30 train, 10 validation, 10 test; rendered in memory from seed 0
    """
    if kind not in READERS:
        raise DatasetError(
            f"There is no such kind of data set. {did_you_mean(kind, READERS)} "
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
        rule = "needs a path" if needs_path else "is rendered in memory and takes no path"
        raise DatasetError(f"{kind} data {rule}. Received: path={path!r}")
    if path is not None:
        return READERS[kind](os.path.expanduser(os.fspath(path)), **settings)
    return READERS[kind](**settings)

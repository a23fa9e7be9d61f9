"""Reader of data sets in ArrayRecord files, as `ast_keras.data.builders` writes them.

Records hold encoded audio files and are read by index during training.
"""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.dataset import SoundDataset, Split, unused_label_notes
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.readers.array_record_index import Index, index_path
from ast_keras.data.readers.audioset import replace_labels, subset_parts
from ast_keras.data.readers.esc50 import check_fold, check_subset
from ast_keras.data.readers.speech_commands import choose_labels
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

Array = npt.NDArray[Any]

_LAYOUT = (
    "A built data set is a folder NAME/VERSION with dataset_info.json, written by `tfds build "
    "ast_keras/data/builders/NAME --data_dir FOLDER`."
)


def read_built(
    path: str,
    *,
    fold: int | None = None,
    subset: str | None = None,
    words: Sequence[str] | None = None,
    enhanced_labels: str | None = None,
) -> SoundDataset:
    """Reads a built ESC-50, Speech Commands or AudioSet like the folder that it was built from.

    The same settings give the same examples in the same order, and thus the same training batches.
    Only labels and names are read here; audio is read by index when it is needed.

    Args:
        path: Folder with `dataset_info.json`, or one above it that holds a single built data set.
        fold: Test fold of ESC-50, as in `read_esc50`.
        subset: Subset of ESC-50 or AudioSet, as in `read_esc50` and `read_audioset`.
        words: Words of Speech Commands, as in `read_speech_commands`.
        enhanced_labels: Label list for AudioSet, as in `read_audioset`.

    Raises:
        DatasetError: If there is no built data set, it is incomplete, or it has no such setting.

    Example:

    >>> read_built("no/such/folder")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: The folder holds no built data set. ...
    """
    built = BuiltSet(path)
    if built.name not in _READERS:
        raise DatasetError(
            f"A built data set must be one of {', '.join(_READERS)}, written by "
            f"ast_keras/data/builders. Received: {built.path} with {built.name!r}"
        )
    read = _READERS[built.name]
    given = {
        "fold": fold,
        "subset": subset,
        "words": words,
        "enhanced_labels": enhanced_labels,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    for name in settings.keys() - inspect.signature(read).parameters.keys():
        raise DatasetError(
            f"A built {built.name} has no such setting. Received: {name}={settings[name]!r}"
        )
    return read(built, **settings)


class BuiltSet:
    """A built data set: its indices and records.

    Args:
        path: Folder with `dataset_info.json`, or one above it that holds a single built data set.

    Raises:
        DatasetError: If there is none, or tensorflow-datasets is not installed.
    """

    def __init__(self, path: str) -> None:
        self.path = _find(path)
        try:
            import tensorflow_datasets as tfds

            self._builder = tfds.builder_from_directory(self.path)
        except ImportError as error:
            raise DatasetError(
                f"Reading a built data set needs tensorflow-datasets ({error}): "
                f"pip install tensorflow-datasets. Received: path={path!r}"
            ) from None
        self.name: str = self._builder.name
        self.metadata: Mapping[str, Any] = dict(self._builder.info.metadata or {})
        self.split_names: list[str] = list(self._builder.info.splits)

    @property
    def notes(self) -> list[str]:
        """Messages of the builder for the user, such as the number of missing clips."""
        return list(self.metadata.get("notes", ()))

    def index(self, split: str) -> Index:
        """Returns the index of a split in the order of its records."""
        index = Index.load(index_path(self.path, split))
        records = self._builder.info.splits[split].num_examples
        if records != len(index):
            raise DatasetError(
                "The data set is incomplete: it has fewer records than its index. Build it again. "
                f"Received: {self.path} with {records} of {len(index)} in {split!r}"
            )
        return index

    def records(self, split: str, paths: PackedPaths, rows: Array) -> Records:
        """Returns the audio of selected rows of a split, or of several splits joined by "+"."""
        return Records(self._builder.as_data_source(split=split), paths, rows)


class Records(Sequence[bytes]):
    """Reads encoded audio files of a built split by index. Threads may read concurrently.

    Args:
        source: Random-access source of `tfds.data_source`.
        paths: Path of each record, to verify that records and index belong together.
        rows: Numbers of the selected records, in order.
    """

    def __init__(self, source: Any, paths: PackedPaths, rows: Array) -> None:
        self._source = source
        self._paths = paths
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = int(self._rows[index])
        record = self._source[row]
        if os.fsdecode(record["path"]) != self._paths[row]:
            raise DatasetError(
                "The records do not match the index: build the data set again. "
                f"Received: record {row} of {self._source!r} is {record['path']!r}, not "
                f"{self._paths[row]!r}"
            )
        return record["audio"]


def _find(path: str) -> str:
    """Returns the only folder with `dataset_info.json` at a path or up to two levels below it."""
    for level in ("", "*", os.path.join("*", "*")):
        pattern = os.path.join(glob.escape(path), level, "dataset_info.json")
        found = sorted(map(os.path.dirname, glob.glob(pattern)))
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetError(
                "The folder holds several built data sets: give the path of one. "
                f"Received: path={path!r} with {', '.join(os.path.relpath(f, path) for f in found)}"
            )
    raise DatasetError(f"The folder holds no built data set. {_LAYOUT} Received: path={path!r}")


def _esc50(built: BuiltSet, fold: int = 1, subset: str = "esc50") -> SoundDataset:
    check_subset(subset)
    index, official = built.index("train"), LabelSet.load("esc50")
    folds = index.columns["fold"]
    check_fold(fold, np.unique(folds).tolist(), built.path)
    chosen, targets = np.ones(len(index), bool), range(len(official))
    if subset == "esc10":
        chosen, targets = index.columns["esc10"], built.metadata["esc10_targets"]
    renumbered = np.zeros(len(official), int)
    renumbered[list(targets)] = range(len(targets))
    rows = {
        "train": np.flatnonzero(chosen & (folds != fold)),
        "test": np.flatnonzero(chosen & (folds == fold)),
    }
    splits = {}
    for name, which in rows.items():
        if not len(which):
            raise DatasetError(
                f"The data set has no clip of the {name} split (test fold {fold}, {subset}). "
                f"Received: {built.path}"
            )
        splits[name] = _single_label_split(built, "train", index, which, renumbered)
    return _with_notes(subset, official.subset(list(targets)), splits, built.notes)


def _speech_commands(built: BuiltSet, words: Sequence[str] | None = None) -> SoundDataset:
    official = LabelSet.load("speech_commands")
    indices = {name: built.index(name) for name in built.split_names}
    targets = {name: _only_targets(index) for name, index in indices.items()}
    present = [official.names[i] for i in np.unique(np.concatenate(list(targets.values())))]
    labels = choose_labels(present, words, built.path)
    chosen = [official.index_of(word) for word in labels.names]
    renumbered = np.zeros(len(official), int)
    renumbered[chosen] = range(len(chosen))
    splits = {}
    for name, index in indices.items():
        rows = np.concatenate([np.flatnonzero(targets[name] == target) for target in chosen])
        if len(rows):
            splits[name] = _single_label_split(built, name, index, rows, renumbered)
    return _with_notes("speech_commands", labels, splits, built.notes)


def _audioset(
    built: BuiltSet, subset: str = "balanced", enhanced_labels: str | None = None
) -> SoundDataset:
    wanted = {"train": subset_parts(subset), "test": ("eval",)}
    splits, notes = {}, built.notes
    labels = LabelSet.load("audioset")
    for name, parts in wanted.items():
        for part in parts:
            if part not in built.split_names:
                raise DatasetError(
                    f"The data set has no clip of {part!r}; it has "
                    f"{', '.join(built.split_names)}. Received: {built.path}"
                )
        index = Index.concatenate([built.index(part) for part in parts])
        targets = index.targets
        if name == "train" and enhanced_labels is not None:
            file = os.path.expanduser(enhanced_labels)
            targets, note = replace_labels(targets, index.columns["ytid"], file, labels)
            notes.append(note)
        records = built.records("+".join(parts), index.paths, np.arange(len(index)))
        splits[name] = Split(records, targets, index.paths)
    return _with_notes(f"audioset_{subset}", labels, splits, notes, multi_label=True)


_READERS: Mapping[str, Callable[..., SoundDataset]] = {
    "audioset": _audioset,
    "esc50": _esc50,
    "speech_commands_v2": _speech_commands,
}


def _only_targets(index: Index) -> Array:
    """Returns the single label of each clip."""
    return index.targets.rows.flat()


def _single_label_split(
    built: BuiltSet, split: str, index: Index, rows: Array, renumbered: Array
) -> Split:
    targets = renumbered[_only_targets(index)[rows]]
    return Split(
        sources=built.records(split, index.paths, rows),
        targets=[(target,) for target in targets.tolist()],
        names=[index.paths[row] for row in rows.tolist()],
    )


def _with_notes(
    name: str,
    labels: LabelSet,
    splits: Mapping[str, Split],
    notes: Sequence[str],
    multi_label: bool = False,
) -> SoundDataset:
    all_notes = list(notes)
    if "train" in splits:
        rows = PackedTargets.pack(splits["train"].targets).rows
        all_notes += unused_label_notes(labels, np.unique(rows.flat()).tolist())
    return SoundDataset(name, labels, splits, multi_label, tuple(all_notes))

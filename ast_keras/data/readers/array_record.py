"""Data sets built by `ast_keras.data.builders`: records read by index, as bytes, while training."""

from __future__ import annotations

import glob
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.dataset import SoundDataset, Split, silent_label_notes
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.readers.array_record_index import Index, index_path
from ast_keras.data.readers.audioset import relabelled
from ast_keras.errors import DatasetError, did_you_mean
from ast_keras.labels import LabelSet

Array = npt.NDArray[Any]

_LAYOUT = (
    "A built set is a folder NAME/VERSION with dataset_info.json, as `tfds build "
    "ast_keras/data/builders/NAME --data_dir FOLDER` makes it."
)
_AUDIOSET_SUBSETS = {
    "balanced": ("balanced",),
    "unbalanced": ("unbalanced",),
    "full": ("balanced", "unbalanced"),
}


def read_built(
    path: str,
    *,
    fold: int | None = None,
    subset: str | None = None,
    words: Sequence[str] | None = None,
    enhanced_labels: str | None = None,
) -> SoundDataset:
    """Reads a built ESC-50, Speech Commands or AudioSet as the folder that it was built from.

    The same settings give the same examples in the same order, so training sees the same batches.
    Nothing but labels and names is read here; sounds are read by index when they are needed.

    Args:
      path: The folder with `dataset_info.json`, or one above it that holds a single built set.
      fold: Of ESC-50, as in `read_esc50`.
      subset: Of ESC-50 or AudioSet, as in `read_esc50` and `read_audioset`.
      words: Of Speech Commands, as in `read_speech_commands`.
      enhanced_labels: Of AudioSet, as in `read_audioset`.

    Raises:
      DatasetError: If there is no built set, if it is incomplete, or if it has no such setting.

    Example:

    >>> read_built("no/such/folder")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: There is no built set here. A built set is a folder \
NAME/VERSION with dataset_info.json, as `tfds build ast_keras/data/builders/NAME --data_dir \
FOLDER` makes it. Received: path='no/such/folder'
    """
    built = BuiltSet(path)
    if built.name not in _READERS:
        raise DatasetError(
            f"A built set must be one of {', '.join(_READERS)}, built by ast_keras/data/builders. "
            f"Received: {built.path} with {built.name!r}"
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
    """Gives indices and records of one built set.

    Args:
      path: The folder with `dataset_info.json`, or one above it that holds a single built set.

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
                f"A built set is read with tensorflow-datasets ({error}): "
                f"pip install tensorflow-datasets. Received: path={path!r}"
            ) from None
        self.name: str = self._builder.name
        self.metadata: Mapping[str, Any] = dict(self._builder.info.metadata or {})
        self.split_names: list[str] = list(self._builder.info.splits)

    @property
    def notes(self) -> list[str]:
        """What the builder found amiss, such as clips that were missing."""
        return list(self.metadata.get("notes", ()))

    def index(self, split: str) -> Index:
        """Returns the index of a split as it was built."""
        index = Index.load(index_path(self.path, split))
        records = self._builder.info.splits[split].num_examples
        if records != len(index):
            raise DatasetError(
                "A built set needs as many records as its index names; it was cut short: build it "
                f"again. Received: {self.path} with {records} of {len(index)} in {split!r}"
            )
        return index

    def records(self, split: str, paths: PackedPaths, rows: Array) -> Records:
        """Returns the sounds of chosen rows of a split, or of several joined by +."""
        return Records(self._builder.as_data_source(split=split), paths, rows)


class Records(Sequence[bytes]):
    """Reads sound files of a built split by index; threads may read at the same time.

    Args:
      source: What `tfds.data_source` gives.
      paths: Of each record the clip's path, to see that records and index are of one build.
      rows: Which records, in which order.
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
                "Records and index must be of one build: build the set again. "
                f"Received: record {row} of {self._source!r} is {record['path']!r}, not "
                f"{self._paths[row]!r}"
            )
        return record["audio"]


def _find(path: str) -> str:
    """Returns the one folder with `dataset_info.json` at a path or at most two levels below."""
    for level in ("", "*", os.path.join("*", "*")):
        pattern = os.path.join(glob.escape(path), level, "dataset_info.json")
        found = sorted(map(os.path.dirname, glob.glob(pattern)))
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetError(
                "Several built sets are here: give the path of one. Received: "
                f"path={path!r} with {', '.join(os.path.relpath(f, path) for f in found)}"
            )
    raise DatasetError(f"There is no built set here. {_LAYOUT} Received: path={path!r}")


def _esc50(built: BuiltSet, fold: int = 1, subset: str = "esc50") -> SoundDataset:
    if subset not in ("esc50", "esc10"):
        raise DatasetError(f'subset must be "esc50" or "esc10". Received: subset={subset!r}')
    index, official = built.index("train"), LabelSet.load("esc50")
    folds = index.columns["fold"]
    if fold not in folds:
        known = ", ".join(map(str, np.unique(folds)))
        raise DatasetError(f"fold must be one of {known}. Received: fold={fold!r} of {built.path}")
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
                f"The built set has no clip of the {name} split (test fold {fold}, {subset}). "
                f"Received: {built.path}"
            )
        splits[name] = _single_label_split(built, "train", index, which, renumbered)
    return _with_notes(subset, official.subset(list(targets)), splits, built.notes)


def _speech_commands(built: BuiltSet, words: Sequence[str] | None = None) -> SoundDataset:
    official = LabelSet.load("speech_commands")
    indices = {name: built.index(name) for name in built.split_names}
    targets = {name: _only_targets(index) for name, index in indices.items()}
    present = [official.names[i] for i in np.unique(np.concatenate(list(targets.values())))]
    for word in words or ():
        if word not in present:
            raise DatasetError(
                f"There is no recording of {word!r}. {did_you_mean(word, present)} "
                f"Received: {built.path}"
            )
    chosen = [official.index_of(word) for word in words or present]
    renumbered = np.zeros(len(official), int)
    renumbered[chosen] = range(len(chosen))
    splits = {}
    for name, index in indices.items():
        rows = np.concatenate([np.flatnonzero(targets[name] == target) for target in chosen])
        if len(rows):
            splits[name] = _single_label_split(built, name, index, rows, renumbered)
    return _with_notes("speech_commands", official.subset(chosen), splits, built.notes)


def _audioset(
    built: BuiltSet, subset: str = "balanced", enhanced_labels: str | None = None
) -> SoundDataset:
    if subset not in _AUDIOSET_SUBSETS:
        raise DatasetError(
            f"subset must be one of {', '.join(_AUDIOSET_SUBSETS)}. Received: subset={subset!r}"
        )
    wanted = {"train": _AUDIOSET_SUBSETS[subset], "test": ("eval",)}
    splits, notes = {}, built.notes
    labels = LabelSet.load("audioset")
    for name, parts in wanted.items():
        for part in parts:
            if part not in built.split_names:
                raise DatasetError(
                    f"The built set has no clip of {part!r}; it has "
                    f"{', '.join(built.split_names)}. Received: {built.path}"
                )
        index = Index.concatenate([built.index(part) for part in parts])
        targets = index.targets
        if name == "train" and enhanced_labels is not None:
            file = os.path.expanduser(enhanced_labels)
            targets, note = relabelled(targets, index.columns["ytid"], file, labels)
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
    """Returns the one label of each clip."""
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
        all_notes += silent_label_notes(labels, np.unique(rows.flat()).tolist())
    return SoundDataset(name, labels, splits, multi_label, tuple(all_notes))

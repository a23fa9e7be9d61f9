"""What every reader returns: labels and splits, as sequences that may be lazy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

Source = str | bytes | npt.NDArray[np.float32]

# What folders and manifests may call the splits.
SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


@dataclass(frozen=True, eq=False)
class Split:
    """Holds the examples of one split: where each sound is, and what is heard in it.

    Args:
      sources: Of each example the path of a file, the bytes of an encoded file, or a mono float32
        waveform `[samples]` at the data set's `sample_rate`. Only indexed, never iterated over, so
        a sequence may read or render on access.
      targets: Of each example the indices of its labels, ascending.
      names: Of each example how to call it in messages; left out, paths stand for themselves.

    Raises:
      DatasetError: If the sequences differ in length.

    Example:

    >>> split = Split(sources=["a/dog.wav", b"RIFF"], targets=[(0,), (1,)])
    >>> len(split), split.source_name(0), split.source_name(1)
    (2, 'a/dog.wav', 'example 1')
    """

    sources: Sequence[Source] = field(repr=False)
    targets: Sequence[tuple[int, ...]] = field(repr=False)
    names: Sequence[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        lengths = [len(s) for s in (self.sources, self.targets, self.names) if s is not None]
        if len(set(lengths)) != 1:
            raise DatasetError(
                "Every example of a split needs one source, one target and, where names are "
                f"given, one name. Received: lengths {lengths}"
            )

    def __len__(self) -> int:
        return len(self.sources)

    def source_name(self, index: int) -> str:
        """Returns how to call example `index` in a message: its path where it has one.

        Example:

        >>> Split(sources=["a/dog.wav"], targets=[(0,)]).source_name(0)
        'a/dog.wav'
        """
        if self.names is not None:
            return self.names[index]
        source = self.sources[index]
        return source if isinstance(source, str) else f"example {index}"

    def _description(self) -> Iterator[bytes]:
        """Yields what tells this split from another one, wherever its files are."""
        names = self.sources if self.names is None else self.names
        if isinstance(names, PackedPaths) and isinstance(self.targets, PackedTargets):
            yield from names.rows.blocks()
            yield from self.targets.rows.blocks()
            return
        for index in range(len(self)):
            example = os.path.basename(self.source_name(index)), tuple(self.targets[index])
            yield repr(example).encode()


@dataclass(frozen=True, eq=False)
class SoundDataset:
    """Holds labels and splits; a split without examples is left out of `splits`.

    Args:
      name: Of the data set, for messages.
      labels: In the order of the model's outputs.
      splits: "train", "validation" and "test", as far as there are examples.
      multi_label: Whether an example may have none or several labels; else each has exactly one.
      notes: What a person should know: files that are missing, ignored or held out, with counts.
      sample_rate: In Hz, of the sources that are waveforms; None where there are none.

    Example:

    >>> dogs = Split(sources=["dog.wav"], targets=[(0,)])
    >>> dataset = SoundDataset("mine", LabelSet(("dog", "hen")), {"train": dogs}, False)
    >>> print(dataset)
    mine: 2 labels; 1 train
    """

    name: str
    labels: LabelSet
    splits: Mapping[str, Split]
    multi_label: bool
    notes: tuple[str, ...] = ()
    sample_rate: int | None = None

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return "; ".join((f"{self.name}: {len(self.labels)} labels", sizes, *self.notes))

    def split(self, name: str) -> Split:
        """Returns the split of this name.

        Raises:
          DatasetError: If there are no examples in it.

        Example:

        >>> dogs = Split(sources=["dog.wav"], targets=[(0,)])
        >>> len(SoundDataset("mine", LabelSet(("dog",)), {"train": dogs}, False).split("train"))
        1
        """
        if name not in self.splits:
            raise DatasetError(
                f"{self.name} has no examples for {name!r}; it has {', '.join(self.splits)}. "
                f"Received: split={name!r}"
            )
        return self.splits[name]

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.labels.names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name} {len(split)}".encode())
            for part in split._description():
                digest.update(part)
        return digest.hexdigest()


def fingerprint(dataset: SoundDataset) -> str:
    """Returns a hash of labels, examples and their order; equal for a copy in another folder.

    It is computed once for a data set, which must not change afterwards.

    Example:

    >>> split = Split(sources=["a/dog.wav"], targets=[(0,)])
    >>> moved = Split(sources=["b/dog.wav"], targets=[(0,)])
    >>> labels = LabelSet(("dog",))
    >>> first = SoundDataset("first", labels, {"test": split}, multi_label=False)
    >>> second = SoundDataset("second", labels, {"test": moved}, multi_label=False)
    >>> fingerprint(first) == fingerprint(second)
    True
    """
    return dataset._fingerprint


def from_examples(
    name: str,
    labels: LabelSet,
    examples: Mapping[str, Iterable[tuple[str, tuple[int, ...]]]],
    *,
    multi_label: bool = False,
    notes: Sequence[str] = (),
) -> SoundDataset:
    """Builds a data set from (path, targets) pairs by split; notes labels that training lacks.

    Example:

    >>> labels = LabelSet(("dog", "hen"))
    >>> from_examples("mine", labels, {"train": [("a.wav", (0,))], "test": []}).notes
    ('1 of 2 labels has no training example: hen',)
    """
    splits = {}
    for split_name, pairs in examples.items():
        rows = list(pairs)
        if rows:
            splits[split_name] = Split([row[0] for row in rows], [row[1] for row in rows])
    all_notes = [*notes]
    if "train" in splits:
        heard = {target for targets in splits["train"].targets for target in targets}
        all_notes += silent_label_notes(labels, heard)
    return SoundDataset(name, labels, splits, multi_label, tuple(all_notes))


def silent_label_notes(labels: LabelSet, heard: Iterable[int]) -> list[str]:
    """Returns a note on the labels that no training example has, or none if each has one.

    Example:

    >>> silent_label_notes(LabelSet(("dog", "hen", "cow")), heard=[1])
    ['2 of 3 labels have no training example: dog, cow']
    """
    silent = [labels.names[index] for index in sorted(set(range(len(labels))) - set(heard))]
    if not silent:
        return []
    first = ", ".join(silent[:5]) + (", ..." if len(silent) > 5 else "")
    verb = "has" if len(silent) == 1 else "have"
    return [f"{len(silent)} of {len(labels)} labels {verb} no training example: {first}"]

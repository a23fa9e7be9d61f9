"""`SoundDataset` and `Split`: the labels and splits that every reader returns."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ast_keras.data.left_out import LeftOut, left_out_notes
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError, LabelError, did_you_mean
from ast_keras.labels import Labels, LabelSet

Source = str | Segment | bytes | npt.NDArray[np.float32]

# The names of splits that folders and manifests may use.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def split_of_name(name: str) -> str | None:
    """Returns the split that a folder or a cell of a table names; None if it names none.

    Case, digits, separators, and "set" or "data" at the end are ignored.

    Args:
        name: The name to look up.

    Example:

    >>> split_of_name("Training"), split_of_name("test_set 2"), split_of_name("dog")
    ('train', 'test', None)
    """
    plain = re.sub(r"[\W\d_]+", "", name.casefold())
    return SPLIT_NAMES.get(plain.removesuffix("set").removesuffix("data"))


@dataclass(frozen=True, eq=False)
class Split:
    """Holds the examples of one split: a source and target for each.

    Args:
        sources: Source of each example: the path of a file, a `Segment` of a file, the bytes of an
            encoded file, or a mono float32 waveform `[samples]` at the `sample_rate` of the data
            set. The pipeline only indexes it, so that a sequence may read or render on access.
        targets: Label indices of each example, in ascending order.
        names: Name of each example in messages. The default is its path.

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
                "sources, targets and names (if given) of a split must have the same length. "
                f"Received: lengths {lengths}"
            )

    def __len__(self) -> int:
        return len(self.sources)

    def source_name(self, index: int) -> str:
        """Returns the name of an example in messages: its given name, its path or its number.

        Example:

        >>> Split(sources=[Segment("dog.wav", 2.0, 3.5)], targets=[(0,)]).source_name(0)
        'dog.wav[2-3.5 s]'
        """
        if self.names is not None:
            return self.names[index]
        source = self.sources[index]
        return str(source) if isinstance(source, (str, Segment)) else f"example {index}"

    def _description(self) -> Iterator[bytes]:
        """Yields bytes that identify the examples, independent of the folder of the files."""
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
    """Holds the labels and the splits of a data set.

    Args:
        name: Name of the data set in messages.
        labels: Labels in the order of the model's outputs, a `LabelSet` or a list of names.
        splits: Splits by name: "train", "validation" and "test". Empty splits are left out.
        multi_label: Whether an example may have any number of labels. Otherwise it has exactly one.
        notes: Messages for the user, with counts: files that are missing, ignored or held out.
        sample_rate: Sample rate in Hz of sources that are waveforms; None if there are none.
        left_out: Sounds that the folder holds and no split does. The notes count them.

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
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", LabelSet.of(self.labels))

    def __str__(self) -> str:
        return "; ".join((self.summary(), *self.notes))

    def summary(self) -> str:
        """Returns the name and the sizes of the data set, without the notes.

        Example:

        >>> dogs = Split(sources=["dog.wav"], targets=[(0,)])
        >>> SoundDataset("mine", LabelSet(("dog",)), {"train": dogs}, False, ("1 lost",)).summary()
        'mine: 1 labels; 1 train'
        """
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return f"{self.name}: {len(self.labels)} labels; {sizes}"

    def remarks(self) -> list[str]:
        """Returns the notes as lines to print; those on sounds that are left out are warnings.

        Example:

        >>> dogs = Split(sources=["dog.wav"], targets=[(0,)])
        >>> SoundDataset("mine", LabelSet(("dog",)), {"train": dogs}, False, ("1 lost",)).remarks()
        ['note: 1 lost']
        """
        warnings = {*left_out_notes(self.left_out)}
        return [f"{'warning' if note in warnings else 'note'}: {note}" for note in self.notes]

    def split(self, name: str) -> Split:
        """Returns the split with this name.

        Raises:
            DatasetError: If the data set has no such split.

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

    def with_labels(self, labels: LabelSet) -> SoundDataset:
        """Returns the data set with the labels of a model, which may be more than its own.

        Scores then cover all classes of the model, with those of the data at the right places.

        Args:
            labels: Labels that include all of the data's. They are matched by id or by name.

        Raises:
            LabelError: If the data has a label that `labels` lacks.

        Example:

        >>> cows = Split(sources=["cow.wav"], targets=[(0,)])
        >>> dataset = SoundDataset("mine", LabelSet(("cow",)), {"test": cows}, False)
        >>> dataset.with_labels(LabelSet(("hen", "cow"))).split("test").targets
        [(1,)]
        """
        try:
            order = labels.indices_of(self.labels, partial=True)
        except LabelError:
            unknown = [name for name in self.labels.names if name not in labels.names]
            if not unknown:
                raise
            raise LabelError(
                "The data has labels that the model does not know: rename them as the model does, "
                f"or leave their sounds out. {did_you_mean(unknown[0], labels.names)} "
                f"Received: {_listed(unknown)} in {self.name}"
            ) from None
        splits = {
            name: replace(
                split, targets=[tuple(sorted(order[t] for t in target)) for target in split.targets]
            )
            for name, split in self.splits.items()
        }
        absent = [labels.names[i] for i in sorted(set(range(len(labels))) - set(order))]
        notes = [*self.notes]
        if absent:
            notes.append(
                f"{len(absent)} of {len(labels)} classes of the model do not occur in the data: "
                f"{_listed(absent)}"
            )
        return replace(self, labels=labels, splits=splits, notes=tuple(notes))

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.labels.names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name} {len(split)}".encode())
            for part in split._description():
                digest.update(part)
        return digest.hexdigest()


def why_untrainable(dataset: SoundDataset) -> str | None:
    """Returns why a classifier cannot be trained on the labels of a data set; None if it can.

    Args:
        dataset: The data set.

    Example:

    >>> dogs = Split(sources=["dog.wav"], targets=[(0,)])
    >>> why_untrainable(SoundDataset("mine", LabelSet(("dog",)), {"train": dogs}, False))
    '1 of the labels can be trained (dog): training needs at least 2'
    """
    if "train" not in dataset.splits:
        return "there is nothing to train on: assign sounds to the train split"
    targets, seen = dataset.splits["train"].targets, set[tuple[int, ...]]()
    for index in range(len(targets)):
        seen.add(tuple(targets[index]))
        if len(seen) > 1:
            break
    labels = {dataset.labels.names[label] for each in seen for label in each}
    needed = 1 if dataset.multi_label else 2
    if len(labels) < needed:
        listed = ", ".join(labels) or "none"
        found = f"{len(labels)} of the labels can be trained ({listed})"
        return f"{found}: training needs at least {needed}"
    if len(dataset.labels) == 1 and len(seen) == 1:
        return "every training sound has the only label: add sounds without it"
    return None


def fingerprint(dataset: SoundDataset) -> str:
    """Returns a hash of labels, examples and their order, independent of the folder of the files.

    It is computed once for a data set; do not change the data set afterwards.

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
    labels: Labels,
    examples: Mapping[str, Iterable[tuple[Source, tuple[int, ...]]]],
    *,
    multi_label: bool = False,
    notes: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
) -> SoundDataset:
    """Makes a data set from pairs of source and targets.

    The labels without a training example, and the sounds left out, are listed in the notes.

    Args:
        name: Name of the data set in messages.
        labels: Labels in the order of the model's outputs, a `LabelSet` or a list of names.
        examples: For each split its pairs of source (a path or a `Segment`) and label indices.
        multi_label: Whether an example may have any number of labels.
        notes: Further messages for the user.
        left_out: Sounds that are not among the examples.

    Example:

    >>> labels = LabelSet(("dog", "hen"))
    >>> from_examples("mine", labels, {"train": [("a.wav", (0,))], "test": []}).notes
    ('1 of 2 labels has no training example: hen',)
    """
    labels = LabelSet.of(labels)
    splits = {}
    for split_name, pairs in examples.items():
        rows = list(pairs)
        if rows:
            splits[split_name] = Split([row[0] for row in rows], [row[1] for row in rows])
    all_notes = [*left_out_notes(left_out), *notes]
    if "train" in splits:
        used = {target for targets in splits["train"].targets for target in targets}
        all_notes += unused_label_notes(labels, used)
    return SoundDataset(
        name, labels, splits, multi_label, tuple(all_notes), left_out=tuple(left_out)
    )


def unused_label_notes(labels: LabelSet, used: Iterable[int]) -> list[str]:
    """Returns a note that lists the labels without a training example; no note if each has one.

    Args:
        labels: Labels of the data set.
        used: Indices of the labels of the training examples.

    Example:

    >>> unused_label_notes(LabelSet(("dog", "hen", "cow")), used=[1])
    ['2 of 3 labels have no training example: dog, cow']
    """
    unused = [labels.names[index] for index in sorted(set(range(len(labels))) - set(used))]
    if not unused:
        return []
    verb = "has" if len(unused) == 1 else "have"
    return [f"{len(unused)} of {len(labels)} labels {verb} no training example: {_listed(unused)}"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

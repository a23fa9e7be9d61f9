"""What the labels of a data set tell before training: how many there are, and which look wrong."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.dataset import SoundDataset
from ast_keras.labels import PUBLISHED, LabelSet

Array = npt.NDArray[Any]


def count_labels(dataset: SoundDataset) -> tuple[dict[str, Array], int]:
    """Returns the examples of each label, by split, and how many sounds have no label at all."""
    counts, num_without = {}, 0
    for name, split in dataset.splits.items():
        counts[name] = np.zeros(len(dataset.labels), np.int64)
        for index in range(len(split)):
            target = list(split.targets[index])
            counts[name][target] += 1
            num_without += not target
    return counts, num_without


def label_report(dataset: SoundDataset) -> dict[str, Any]:
    """Returns the counts of all labels, and which make training or scoring difficult.

    Example:

    >>> from ast_keras.data.dataset import Split
    >>> splits = {"train": Split(["a", "b"], [(0,), (0,)]), "test": Split(["c"], [(1,)])}
    >>> report = label_report(SoundDataset("mine", LabelSet(("dog", "hen")), splits, False))
    >>> report["labels"][0], report["label_defects"]["not_in_train"]
    ({'label': 'dog', 'train': 2, 'test': 0}, ['hen'])
    """
    counts, num_without = count_labels(dataset)
    nothing = np.zeros(len(dataset.labels), np.int64)
    train = counts.get("train", nothing)
    others: Array = sum((c for name, c in counts.items() if name != "train"), nothing)
    heard = train[train > 0]
    names = dataset.labels.names

    def where(holds: Array) -> list[str]:
        return [names[i] for i in np.flatnonzero(holds)]

    return {
        "labels": [
            {"label": label, **{split: int(count[i]) for split, count in counts.items()}}
            for i, label in enumerate(names)
        ],
        "label_defects": {
            "imbalance": round(float(heard.max() / heard.min()), 2) if len(heard) else None,
            "no_example": where(train + others == 0),
            "single_example": where(train + others == 1),
            "not_in_train": where((train == 0) & (others > 0)),
            "only_in_train": where((train > 1) & (others == 0) & others.any()),
            "alike_names": [] if _is_published(dataset.labels) else alike_names(names),
            "without_label": num_without,
        },
    }


def _is_published(labels: LabelSet) -> bool:
    return any(set(labels.names) <= set(LabelSet.load(name).names) for name in PUBLISHED)


def alike_names(names: Sequence[str]) -> list[list[str]]:
    """Returns pairs of names that may be meant as one: other case, spaces, plural or a typing slip.

    Example:

    >>> alike_names(["dog bark", "Dog_barks", "rooster", "roster", "class 1", "class 2"])
    [['dog bark', 'Dog_barks'], ['rooster', 'roster']]
    """
    by_form: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        plain = re.sub(r"[\W_]+", "", name.casefold())
        plain = plain.removesuffix("s") if len(plain) > 3 else plain
        # Names one letter apart become equal when the right letter of either is left out.
        slips = {plain[:i] + plain[i + 1 :] for i in range(len(plain))} if len(plain) > 5 else set()
        digits = "".join(c for c in plain if c in string.digits)  # which tell names apart
        for form in {plain, *slips}:
            by_form.setdefault(f"{form} {digits}", []).append(index)
    pairs = {
        pair for group in by_form.values() for pair in itertools.combinations(sorted(set(group)), 2)
    }
    return [[names[a], names[b]] for a, b in sorted(pairs)]

"""Checks of the labels of a data set: counts, and labels that are difficult to train or score."""

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
    """Counts the labels of a data set.

    Args:
        dataset: The data set.

    Returns:
        The number of examples of each label, `[labels]`, by split, and the number of sounds without
        any label.
    """
    counts, num_without = {}, 0
    for name, split in dataset.splits.items():
        counts[name] = np.zeros(len(dataset.labels), np.int64)
        for index in range(len(split)):
            target = list(split.targets[index])
            counts[name][target] += 1
            num_without += not target
    return counts, num_without


def label_report(dataset: SoundDataset) -> dict[str, Any]:
    """Returns the counts of all labels, and the labels that are difficult to train or score.

    Args:
        dataset: The data set.

    Returns:
        `labels`, a mapping for each label with its name and its examples in each split; and
        `label_defects` by kind.

    Example:

    >>> from ast_keras.data.dataset import Split
    >>> splits = {"train": Split(["a", "b"], [(0,), (0,)]), "test": Split(["c"], [(1,)])}
    >>> report = label_report(SoundDataset("mine", LabelSet(("dog", "hen")), splits, False))
    >>> report["labels"][0], report["label_defects"]["not_in_train"]
    ({'label': 'dog', 'train': 2, 'test': 0}, ['hen'])
    """
    counts, num_without = count_labels(dataset)
    zeros = np.zeros(len(dataset.labels), np.int64)
    train = counts.get("train", zeros)
    others: Array = sum((c for name, c in counts.items() if name != "train"), zeros)
    trained = train[train > 0]
    names = dataset.labels.names

    def select(condition: Array) -> list[str]:
        return [names[i] for i in np.flatnonzero(condition)]

    return {
        "labels": [
            {"label": label, **{split: int(count[i]) for split, count in counts.items()}}
            for i, label in enumerate(names)
        ],
        "label_defects": {
            "imbalance": round(float(trained.max() / trained.min()), 2) if len(trained) else None,
            "no_example": select(train + others == 0),
            "single_example": select(train + others == 1),
            "not_in_train": select((train == 0) & (others > 0)),
            "only_in_train": select((train > 1) & (others == 0) & others.any()),
            "similar_names": [] if _is_published(dataset.labels) else similar_names(names),
            "without_label": num_without,
        },
    }


def _is_published(labels: LabelSet) -> bool:
    return any(set(labels.names) <= set(LabelSet.load(name).names) for name in PUBLISHED)


def similar_names(names: Sequence[str]) -> list[list[str]]:
    """Returns pairs of names that differ only in case, spaces, plural or one letter.

    Args:
        names: The names to compare. Names that differ in digits are not similar.

    Example:

    >>> similar_names(["dog bark", "Dog_barks", "rooster", "roster", "class 1", "class 2"])
    [['dog bark', 'Dog_barks'], ['rooster', 'roster']]
    """
    by_form: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        plain = re.sub(r"[\W_]+", "", name.casefold())
        plain = plain.removesuffix("s") if len(plain) > 3 else plain
        # Names that differ in one letter become equal when that letter is removed from both.
        shortened = (
            {plain[:i] + plain[i + 1 :] for i in range(len(plain))} if len(plain) > 5 else set()
        )
        digits = "".join(c for c in plain if c in string.digits)
        for form in {plain, *shortened}:
            by_form.setdefault(f"{form} {digits}", []).append(index)
    pairs = {
        pair for group in by_form.values() for pair in itertools.combinations(sorted(set(group)), 2)
    }
    return [[names[a], names[b]] for a, b in sorted(pairs)]

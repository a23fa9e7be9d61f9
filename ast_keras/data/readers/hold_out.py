"""Divides examples into splits by a hash of their names, by class and in whole groups."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Hashable, Iterator, Sequence

from ast_keras.errors import DatasetError


def hold_out(
    keys: Sequence[str],
    classes: Sequence[Hashable],
    test_fraction: float,
    validation_fraction: float,
    groups: Sequence[str] | None = None,
) -> list[str]:
    """Assigns each example to "train", "validation" or "test" by a hash of its key or group.

    The same keys give the same assignment on every machine and in any order. Each class is divided
    separately, so that rare classes are tested too: every class has at least one training example,
    and a held-out example if it has two. With groups, whole groups are held out, those of the class
    with the fewest groups first; a group that would miss the fraction by more than no group does is
    left in training, unless the class would not be held out at all.

    Args:
        keys: Unique names, such as paths relative to the data set.
        classes: Class of each example.
        test_fraction: Fraction of each class to hold out for testing. 1 tests on all examples.
        validation_fraction: Fraction of each class to hold out for validation.
        groups: Group of each example, which stays in one split. None if each is on its own.

    Returns:
        The name of the split of each example.

    Raises:
        DatasetError: If a fraction is negative, or they leave nothing to train on.

    Example:

    >>> hold_out(["a", "b", "c", "d"], [0, 0, 0, 0], 0.25, 0.0)
    ['train', 'train', 'train', 'test']
    >>> hold_out(["a1", "a2", "b1", "b2"], [0, 0, 0, 0], 0.5, 0.0, groups=["a", "a", "b", "b"])
    ['train', 'train', 'test', 'test']
    """
    fractions = {"test": test_fraction, "validation": validation_fraction}
    if fractions == {"test": 1, "validation": 0}:
        return ["test"] * len(keys)
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise DatasetError(
            "The held-out fractions must not be negative and must sum to less than 1. "
            f"Received: test_fraction={test_fraction}, validation_fraction={validation_fraction}"
        )
    names = keys if groups is None else groups
    hashes = {n: hashlib.sha256(n.encode("utf-8", "surrogatepass")).digest() for n in {*names}}
    sizes: dict[Hashable, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    classes_of: dict[str, set[Hashable]] = collections.defaultdict(set)
    for name, label in zip(names, classes, strict=True):
        sizes[label][name] += 1
        classes_of[name].add(label)
    num_trained = {label: len(found) for label, found in sizes.items()}  # groups for training
    split_of: dict[str, str] = {}

    def hold(name: str, split: str) -> None:
        split_of[name] = split
        for label in classes_of[name]:
            num_trained[label] -= 1

    def free(label: Hashable) -> Iterator[str]:
        """Yields the groups of a class that may be held out, by their hashes."""
        for name in sorted(sizes[label], key=hashes.__getitem__):
            if name not in split_of and all(num_trained[other] > 1 for other in classes_of[name]):
                yield name

    for label in sorted(
        sizes, key=lambda c: (len(sizes[c]), min(map(hashes.__getitem__, sizes[c])))
    ):
        for split, fraction in fractions.items():
            wanted = max(1, round(fraction * sizes[label].total())) if fraction else 0
            held = sum(size for name, size in sizes[label].items() if split_of.get(name) == split)
            for name in free(label):
                if held >= wanted:
                    break
                size = sizes[label][name]
                if held + size - wanted <= wanted - held:
                    hold(name, split)
                    held += size
            if wanted and not held:
                for name in sorted(free(label), key=sizes[label].__getitem__)[:1]:
                    hold(name, split)
    return [split_of.get(name, "train") for name in names]

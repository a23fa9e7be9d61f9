"""Groups of examples that must stay in one split: takes of a recording, a speaker or a site."""

from __future__ import annotations

import collections
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from ast_keras.data.readers.hold_out import hold_out
from ast_keras.errors import DatasetError


@dataclass(frozen=True)
class Grouping:
    """The group of each example of a data set.

    Args:
        keys: Path and span of each example, relative to the data.
        groups: Group of each example. An example without a group is alone in its own.
        are_given: Whether the user gave the groups. Otherwise they are the recordings of segments.
        places: Where each example comes from, for errors.

    Example:

    >>> keys = ["a1", "a2", "b1"]
    >>> Grouping(keys, ["a", "a", "b"], True, keys).hold_out(["dog"] * 3, 0.5, 0.0)[0]
    ['train', 'train', 'test']
    """

    keys: Sequence[str]
    groups: Sequence[str]
    are_given: bool
    places: Sequence[str]

    def require_whole(self, parts: Sequence[Hashable]) -> None:
        """Checks that the given splits or folds do not divide a group that the user gave.

        Args:
            parts: Split or fold of each example.

        Raises:
            DatasetError: If a group is in two of them. The message names it and two places.
        """
        first: dict[str, int] = {}
        for index, (group, part) in enumerate(zip(self.groups, parts, strict=True)):
            before = first.setdefault(group, index)
            if self.are_given and parts[before] != part:
                raise DatasetError(
                    "A group must not be in two splits or folds, or the test would be on what was "
                    "trained: correct the split or the group. Received: group "
                    f"{group!r} in {self.places[before]} ({parts[before]}) and "
                    f"{self.places[index]} ({part})"
                )

    def torn_notes(self, splits: Sequence[str]) -> list[str]:
        """Returns a note on recordings with segments in two splits.

        Args:
            splits: Split of each example.
        """
        found: dict[str, set[str]] = collections.defaultdict(set)
        for group, split in zip(self.groups, splits, strict=True):
            found[group].add(split)
        torn = [group for group, names in found.items() if len(names) > 1]
        if not torn:
            return []
        listed = ", ".join(torn[:3]) + (", ..." if len(torn) > 3 else "")
        return [f"{len(torn)} recordings have segments in two splits: {listed}"]

    def hold_out(
        self, classes: Sequence[Hashable], test_fraction: float, validation_fraction: float
    ) -> tuple[list[str], list[str]]:
        """Returns the split of every example, with whole groups held out of every class, and notes.

        Args:
            classes: Class of each example.
            test_fraction: Fraction of each class to hold out for testing.
            validation_fraction: Fraction of each class to hold out for validation.

        Raises:
            DatasetError: If a fraction is negative, or they leave nothing to train on.
        """
        total = len(set(self.groups))
        has_groups = total < len(self.groups)
        groups = self.groups if has_groups else None
        splits = hold_out(self.keys, classes, test_fraction, validation_fraction, groups)
        if test_fraction == 1:
            return splits, ["all examples are for testing"]
        of = "every class" if len(set(classes)) > 1 else "the files"
        how = "in whole groups" if has_groups else "by name"
        notes = [*_held_out_notes(of, how, test_fraction, validation_fraction)]
        for name in sorted({*splits} - {"train"}) if has_groups else ():
            held = [g for g, s in zip(self.groups, splits, strict=True) if s == name]
            notes.append(
                f"{name} holds {len(set(held))} of {total} groups, "
                f"{len(held) / len(splits):.0%} of the examples"
            )
        return splits, notes


def _held_out_notes(
    of: str, how: str, test_fraction: float, validation_fraction: float
) -> Iterator[str]:
    for fraction, purpose in ((test_fraction, "testing"), (validation_fraction, "validation")):
        if fraction:
            yield f"{fraction:.0%} of {of} held out {how} for {purpose}"


def groups_by_pattern(files: Sequence[str], pattern: str) -> tuple[list[str], list[str]]:
    """Returns the group of each file that a regular expression finds, and notes.

    Args:
        files: Paths relative to the data, with `/`.
        pattern: Regular expression, searched in each path. The group is its first parenthesis, or
            all that it matches. A file in which it is not found is alone in its group.

    Raises:
        DatasetError: If the pattern is invalid or is found in no path.

    Example:

    >>> groups_by_pattern(["dog/rex-1.wav", "dog/rex-2.wav"], "([a-z]+)-")
    (['rex', 'rex'], [])
    """
    try:
        found = [re.search(pattern, file) for file in files]
    except re.error as error:
        raise DatasetError(
            f"group_pattern must be a regular expression: {error}. "
            f"Received: group_pattern={pattern!r}"
        ) from None
    num_without = sum(match is None for match in found)
    if num_without == len(files):
        raise DatasetError(
            "group_pattern must be found in the paths, which are relative to the data. "
            f"Received: group_pattern={pattern!r}, not in {files[0]!r}"
        )
    groups = [
        file if match is None else next(filter(None, match.groups()), match[0])
        for file, match in zip(files, found, strict=True)
    ]
    notes = [f"group_pattern is not found in {num_without} of {len(files)} paths"]
    return groups, notes if num_without else []

"""Groups of examples that must stay in one split: takes of a recording, a speaker or a site."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ast_keras.data.readers.audio_folder import hold_out
from ast_keras.data.readers.class_folders import held_out_notes
from ast_keras.data.readers.row import Row
from ast_keras.errors import DatasetError


@dataclass(frozen=True)
class Grouping:
    """The group of each row.

    Args:
        rows: The rows.
        keys: Path and span of each row, relative to the data.
        groups: Group of each row. A row without a group is alone in its own.
        are_given: Whether the user gave the groups. Otherwise they are the recordings of segments.
        notes: Messages about rows without a group.
    """

    rows: Sequence[Row]
    keys: Sequence[str]
    groups: Sequence[str]
    are_given: bool
    notes: tuple[str, ...] = ()

    def require_whole(self, parts: Sequence[Hashable]) -> None:
        """Checks that the given splits or folds do not divide a group that the user gave.

        Args:
            parts: Split or fold of each row.

        Raises:
            DatasetError: If a group is in two of them. The message names it and two lines.
        """
        first: dict[str, int] = {}
        for index, (group, part) in enumerate(zip(self.groups, parts, strict=True)):
            before = first.setdefault(group, index)
            if self.are_given and parts[before] != part:
                raise DatasetError(
                    "A group must not be in two splits or folds, or the test would be on what was "
                    "trained: correct the split or the group. Received: group "
                    f"{group!r} in {self.rows[before].place} ({parts[before]}) and "
                    f"{self.rows[index].place} ({part})"
                )

    def torn_notes(self, splits: Sequence[str]) -> list[str]:
        """Returns a note on recordings with segments in two splits.

        Args:
            splits: Split of each row.
        """
        found: dict[str, set[str]] = collections.defaultdict(set)
        for group, split in zip(self.groups, splits, strict=True):
            found[group].add(split)
        torn = [group for group, names in found.items() if len(names) > 1]
        if not torn:
            return []
        listed = ", ".join(torn[:3]) + (", ..." if len(torn) > 3 else "")
        return [f"{len(torn)} recordings have segments in two splits: {listed}"]


def group_rows(root: str, rows: Sequence[Row], pattern: str | None) -> Grouping:
    """Returns the groups of rows: from their column, a pattern, or the recordings of segments.

    Args:
        root: Folder to which the paths are relative.
        rows: The rows.
        pattern: Regular expression that finds the group in a relative path; None if there is none.

    Raises:
        DatasetError: If the pattern is invalid or finds no group, or there is a column as well.
    """
    files = [os.path.relpath(row.path, root or ".").replace(os.sep, "/") for row in rows]
    keys = [f + str(row.source).removeprefix(row.path) for f, row in zip(files, rows, strict=True)]
    if pattern is not None:
        if any(row.group for row in rows):
            raise DatasetError(
                "The table has a column group: omit group_pattern, or rename the column. "
                f"Received: group_pattern={pattern!r} with {rows[0].file}"
            )
        groups, notes = groups_by_pattern(files, pattern)
        return Grouping(rows, keys, groups, are_given=True, notes=tuple(notes))
    # A row without a group is grouped with the other segments of its recording, if there are any.
    groups = [row.group or file for row, file in zip(rows, files, strict=True)]
    return Grouping(rows, keys, groups, are_given=any(row.group for row in rows))


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


def held_out(
    grouping: Grouping,
    targets: Sequence[tuple[int, ...]],
    multi_label: bool,
    test_fraction: float,
    validation_fraction: float,
) -> tuple[list[str], list[str]]:
    """Returns the split of every row, with whole groups held out of every class, and notes.

    Args:
        grouping: The groups of the rows.
        targets: Label indices of the rows.
        multi_label: Whether a row may have several labels or none.
        test_fraction: Fraction to hold out for testing.
        validation_fraction: Fraction to hold out for validation.

    Raises:
        DatasetError: If a fraction is negative, or they leave nothing to train on.
    """
    has_groups = len(set(grouping.groups)) < len(grouping.groups)
    classes: Sequence[Hashable] = [0 if multi_label else target[0] for target in targets]
    if multi_label and has_groups:  # by the rarest label, so that rare ones are tested too
        counts = collections.Counter(label for target in targets for label in target)
        classes = [min(target, key=lambda t: (counts[t], t), default=-1) for target in targets]
    of = "every class" if len(set(classes)) > 1 else "the files"
    notes = [*held_out_notes(of, test_fraction, validation_fraction)]
    groups = grouping.groups if has_groups else None
    splits = hold_out(grouping.keys, classes, test_fraction, validation_fraction, groups)
    if has_groups:
        notes = [note.replace("by name", "in whole groups") for note in notes]
        for name in sorted({*splits} - {"train"}):
            held = [g for g, s in zip(grouping.groups, splits, strict=True) if s == name]
            notes.append(
                f"{name} holds {len(set(held))} of {len(set(grouping.groups))} groups, "
                f"{len(held) / len(splits):.0%} of the examples"
            )
    return splits, notes

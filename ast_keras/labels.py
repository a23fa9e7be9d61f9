"""`LabelSet`: the class labels of a model, in the order of its outputs. Standard library only."""

from __future__ import annotations

import csv
import io
import os
import pathlib
import re
import reprlib
import unicodedata
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TypeAlias

from ast_keras.errors import ArgumentError, LabelError, did_you_mean
from ast_keras.files import replacing

HEADER = ("index", "mid", "display_name")
PUBLISHED = ("audioset", "esc50", "speech_commands")
# Mean and standard deviation of AudioSet's log-mel values, published by the AST authors. They are
# here because every room may import this module, which needs the standard library only.
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
LABEL_SETS_DIR = pathlib.Path(__file__).resolve().parent / "label_sets"

# What a function takes as labels: `LabelSet.of` makes a label set of a list of names.
Labels: TypeAlias = "LabelSet | Sequence[str]"


@dataclass(frozen=True)
class LabelSet:
    """The class labels of a data set or model, in the order of the model's outputs.

    Args:
        names: Display name of each label, such as "Speech"; a tuple, list or array.
        ids: Identifier of each label in files and programs, such as "/m/09x0r". Defaults to
            `names`.

    Raises:
        LabelError: If a label is blank, no text, or occurs twice, if the labels have no order, as
            in a set, or the two sequences differ in length.

    Example:

    >>> labels = LabelSet.load("audioset")
    >>> len(labels), labels.names[0], labels.index_of("/m/09x0r")
    (527, 'Speech', 0)
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _as_tuple("names", self.names))
        object.__setattr__(self, "ids", _as_tuple("ids", self.ids) or self.names)
        if not self.names:
            raise LabelError("A label set needs at least one label. Received: names=()")
        if len(self.names) != len(self.ids):
            raise LabelError(
                "Every label needs one name and one id. "
                f"Received: {len(self.names)} names, {len(self.ids)} ids"
            )
        for kind, values in (("name", self.names), ("id", self.ids)):
            _check_labels(kind, values)
        for index, name in enumerate(self.names):
            if self._indices[name] != index:
                raise LabelError(
                    "The name of a label may not be the id of another label. "
                    f"Received: {name!r} at indices {index} and {self._indices[name]}"
                )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _indices(self) -> dict[str, int]:
        by_name = {name: index for index, name in enumerate(self.names)}
        return by_name | {label_id: index for index, label_id in enumerate(self.ids)}

    def index_of(self, name_or_id: str) -> int:
        """Returns the output index of a label.

        Args:
            name_or_id: Name or id of the label.

        Raises:
            LabelError: If no label has this name or id. The message suggests a similar name.

        Example:

        >>> LabelSet.load("esc50").index_of("rooster")
        1
        """
        index = self._indices.get(name_or_id)
        if index is None:
            hint = did_you_mean(name_or_id, self.names)
            raise LabelError(f"No label has this name or id. {hint} Received: {name_or_id!r}")
        return index

    def subset(self, indices: Sequence[int]) -> LabelSet:
        """Returns a label set of the labels at the given indices.

        Args:
            indices: Output indices of the labels, in the order of the result.

        Example:

        >>> LabelSet(("dog", "cow", "hen")).subset([2, 0]).names
        ('hen', 'dog')
        """
        return LabelSet(tuple(self.names[i] for i in indices), tuple(self.ids[i] for i in indices))

    def indices_of(self, other: Labels, *, partial: bool = False) -> tuple[int, ...]:
        """Returns the index in this set of each label of another set with the same labels.

        `scores[:, model_labels.indices_of(data_labels)]` reorders the scores of a model to the
        order of a data set. Labels are matched by id. If the two sets of ids differ but the sets
        of names are equal (for example, because one list has no ids), labels are matched by name.

        Args:
            other: The same labels in any order, a label set or a list of names.
            partial: Whether `other` may lack labels of this set.

        Raises:
            LabelError: If a label is missing in this set, or without `partial` in either set, or if
                ids and names disagree. The message names the first labels concerned.

        Example:

        >>> LabelSet(("dog", "cow", "hen")).indices_of(LabelSet(("hen", "dog", "cow")))
        (2, 0, 1)
        """
        other = LabelSet.of(other)
        by_id = _positions(self.ids, other.ids, partial)
        by_name = _positions(self.names, other.names, partial)
        if by_id is not None and by_name is not None and by_id != by_name:
            index = next(i for i, (a, b) in enumerate(zip(by_id, by_name, strict=True)) if a != b)
            raise LabelError(
                "The same ids have different names in the two sets, so labels cannot be matched. "
                f"Received: {other.ids[index]!r} is {self.names[by_id[index]]!r} in one set, "
                f"{other.names[index]!r} in the other"
            )
        indices = by_name if by_id is None else by_id
        if indices is None:
            raise LabelError(f"The two sets hold different labels: {_difference(self, other)}")
        return indices

    @classmethod
    def of(cls, labels: Labels) -> LabelSet:
        """Returns a label set of a list, tuple or array of names; a label set is returned as it is.

        Args:
            labels: The labels.

        Raises:
            LabelError: If the labels are no list of different names.

        Example:

        >>> LabelSet.of(["dog", "hen"]).names
        ('dog', 'hen')
        """
        return labels if isinstance(labels, cls) else cls(labels)  # type: ignore[arg-type]

    @classmethod
    def load(cls, name: str) -> LabelSet:
        """Loads the labels of a public data set, in the order of the released AST checkpoints.

        The order of Speech Commands is not alphabetical.

        Args:
            name: "audioset" (527 labels), "esc50" (50) or "speech_commands" (35).

        Raises:
            LabelError: If the name is unknown.

        Reference:
            The label files of https://github.com/YuanGongND/ast.

        Example:

        >>> LabelSet.load("speech_commands").names[:2]
        ('backward', 'follow')
        """
        if name not in PUBLISHED:
            raise LabelError(
                f"The published label sets are {', '.join(PUBLISHED)}; "
                f"use LabelSet.from_file for other labels. Received: name={name!r}"
            )
        return cls.from_csv(LABEL_SETS_DIR / f"{name}.csv")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> LabelSet:
        """Reads labels from a text file: a CSV file as for `from_csv`, or one name per line.

        Blank lines are skipped. A file of plain names has no header line.

        Args:
            path: Path of the file, encoded in UTF-8.

        Raises:
            LabelError: If the file cannot be read or is invalid. The message names the line.

        Example:

        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "labels.txt")
        >>> _ = open(path, "w").write("dog\\nMale speech, man speaking\\n")
        >>> LabelSet.from_file(path).names
        ('dog', 'Male speech, man speaking')
        """
        lines = _read_text(path).split("\n")
        first = next((line for line in lines if line.strip()), "")
        if _is_header(first.split(",")):
            return cls.from_csv(path)
        return _from_rows(path, [(n, s.strip(), "") for n, s in enumerate(lines, 1) if s.strip()])

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> LabelSet:
        """Reads labels from a CSV file with the header of AudioSet: `index,mid,display_name`.

        The rows may be in any order. Their indices must be 0, 1, 2, ... without a gap.

        Args:
            path: Path of the file, encoded in UTF-8.

        Raises:
            LabelError: If the file cannot be read or is invalid. The message names the line.

        Example:

        >>> LabelSet.from_csv(LABEL_SETS_DIR / "audioset.csv") == LabelSet.load("audioset")
        True
        """
        reader = csv.reader(io.StringIO(_read_text(path)))
        try:
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        except csv.Error as error:
            raise LabelError(f"Not a valid CSV: {error}. Received: {path}") from None
        if not rows or not _is_header(rows[0][1]):
            raise LabelError(
                f"The first line of a label file must read {','.join(HEADER)}. Received: {path}"
            )
        by_index: dict[int, tuple[int, str, str]] = {}
        for line, row in rows[1:]:
            if len(row) != 3 or not row[0].strip().isdecimal():
                raise LabelError(
                    "Each row needs an index, an id and a name; put a name with a comma in quotes. "
                    f"Received: {path} line {line}"
                )
            index = int(row[0])
            if index in by_index:
                raise LabelError(f"An index may occur only once. Received: {path} line {line}")
            by_index[index] = (line, row[2].strip(), row[1].strip())
        if by_index and max(by_index) != len(by_index) - 1:
            missing = next(i for i in range(len(by_index)) if i not in by_index)
            raise LabelError(
                "The indices must be 0, 1, 2, ... without a gap. "
                f"Received: {path} without index {missing}"
            )
        return _from_rows(path, [by_index[i] for i in sorted(by_index)])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the labels to a CSV file that `from_csv` reads. The file is replaced atomically.

        Args:
            path: Path of the file.

        Example:

        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "labels.csv")
        >>> LabelSet(("dog", "hen")).to_csv(path)
        >>> LabelSet.from_csv(path).names
        ('dog', 'hen')
        """
        with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows(zip(range(len(self)), self.ids, self.names, strict=True))


def _positions(ours: Sequence[str], theirs: Sequence[str], partial: bool) -> tuple[int, ...] | None:
    """Returns the index in `ours` of each item of `theirs`; None if the two sets differ.

    With `partial`, `theirs` may be a part of `ours`.
    """
    if not set(theirs) <= set(ours) or (not partial and len(theirs) < len(ours)):
        return None
    index = {label: position for position, label in enumerate(ours)}
    return tuple(index[label] for label in theirs)


def _difference(first: LabelSet, second: LabelSet) -> str:
    """Describes the labels that only one of two sets contains.

    Labels are compared by id or by name, whichever has more matches.
    """
    by_id = len(set(first.ids) & set(second.ids)) >= len(set(first.names) & set(second.names))
    parts = []
    for title, ours, theirs in (("first", first, second), ("second", second, first)):
        known = set(theirs.ids if by_id else theirs.names)
        keys = ours.ids if by_id else ours.names
        only = [name for name, key in zip(ours.names, keys, strict=True) if key not in known]
        shown = ", ".join(map(repr, only[:3])) or "none"
        more = f" and {len(only) - 3} more" if len(only) > 3 else ""
        parts.append(f"only in the {title} ({len(ours)} labels): {shown}{more}")
    return "; ".join(parts)


def spellings(names: Iterable[str]) -> list[list[str]]:
    """Returns groups of names that differ only in case, spaces, `-`, `_` or their Unicode form.

    Args:
        names: The names to compare.

    Example:

    >>> spellings(["Dog bark", "hen", "dog_bark"])
    [['Dog bark', 'dog_bark']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(" ".join(re.split(r"[\s_-]+", plain)).strip(), []).append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _as_tuple(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """Returns labels as a tuple. A text would become its letters, and a set has no order."""
    unordered = isinstance(values, Mapping | Set) and not isinstance(values, KeysView)
    try:
        if isinstance(values, str | bytes) or unordered:
            raise TypeError
        # The strings of NumPy are subclasses of `str` that print differently.
        return tuple(str(value) if isinstance(value, str) else value for value in values)
    except TypeError:  # a number, a path or an array without axes cannot be iterated over
        raise LabelError(
            "Labels are a list of names, such as ['dog', 'hen']; LabelSet.from_file reads a file. "
            f"Received: {argument}={reprlib.repr(values)}"
        ) from None


def _check_labels(kind: str, values: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise LabelError(f"The {kind} of a label is a text. Received: {value!r} at {index}")
        if not value.strip():
            raise LabelError(
                f"The {kind} of a label may not be blank. Received: {value!r} at {index}"
            )
        if value in seen:
            raise LabelError(
                f"The {kind} of a label may occur only once. "
                f"Received: {value!r} at indices {seen[value]} and {index}"
            )
        seen[value] = index


def _is_header(cells: Sequence[str]) -> bool:
    return tuple(cell.strip().strip('"').lower() for cell in cells) == HEADER


def _read_text(path: str | os.PathLike[str]) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabelError(
            f"Cannot read the label file: {error.strerror}. Received: {path}"
        ) from None
    except UnicodeDecodeError:
        raise LabelError(f"Save the label file as UTF-8. Received: {path}") from None


def _from_rows(path: str | os.PathLike[str], rows: Sequence[tuple[int, str, str]]) -> LabelSet:
    """Builds a label set from rows `(line, name, id)`. Either all ids are empty, or none is."""
    lines: dict[str, int] = {}
    for line, name, _ in rows:
        if name and name in lines:
            raise LabelError(
                f"A label may occur only once. Received: {name!r} in {path} lines {lines[name]} "
                f"and {line}"
            )
        lines[name] = line
    names = tuple(name for _, name, _ in rows)
    ids = tuple(label_id for _, _, label_id in rows)
    try:
        return LabelSet(names, ids if any(ids) else ())
    except LabelError as error:
        raise LabelError(f"{error} in {path}") from None


def labels_of_classes(labels: Labels | None, num_classes: int | None) -> LabelSet | None:
    """Returns the labels of a model as a `LabelSet`, after checking that there is one for a class.

    Args:
        labels: Labels of the classes, a `LabelSet` or a list of names; None for no names.
        num_classes: Number of classes; None for that of the labels.

    Raises:
        LabelError: If the labels are no list of different names, or not one for each class.
        ArgumentError: If `num_classes` is not a positive integer.

    Example:

    >>> labels_of_classes(["dog", "hen"], num_classes=2).ids
    ('dog', 'hen')
    """
    if num_classes is not None and (not isinstance(num_classes, Integral) or num_classes < 1):
        raise ArgumentError(
            "num_classes is a positive integer; the names of the classes are labels=[...]. "
            f"Received: num_classes={num_classes!r}"
        )
    label_set = None if labels is None else LabelSet.of(labels)
    if label_set is not None and num_classes not in (None, len(label_set)):
        raise LabelError(
            "There must be one label for each class: omit num_classes, or correct the labels. "
            f"Received: {len(label_set)} labels, num_classes={num_classes}"
        )
    return label_set

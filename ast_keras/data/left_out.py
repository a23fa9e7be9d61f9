"""Sounds that a folder holds and a reader does not take: which, of which class, and why."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ast_keras.errors import DatasetError

_NUM_NAMED = 3


@dataclass(frozen=True)
class LeftOut:
    """One sound that is not read.

    Args:
        path: Path relative to the folder of the data.
        reason: Why it is not read and, in parentheses, what to do.
        label: Class that it would belong to; empty if it belongs to none.
    """

    path: str
    reason: str
    label: str = ""


def left_out_notes(sounds: Iterable[LeftOut]) -> Iterator[str]:
    """Yields a line for each reason, with the number of sounds by class and the first paths.

    Args:
        sounds: The sounds that are not read.

    Example:

    >>> sounds = [LeftOut(f"dog/{n}.m4a", "unreadable (convert them)", "dog") for n in range(5)]
    >>> print(*left_out_notes(sounds))
    5 sounds left out, unreadable (convert them): dog 5; dog/0.m4a, dog/1.m4a, dog/2.m4a, ...
    """
    by_reason: dict[str, list[LeftOut]] = {}
    for sound in sounds:
        by_reason.setdefault(sound.reason, []).append(sound)
    for reason, members in by_reason.items():
        counts = collections.Counter(s.label or os.path.dirname(s.path) for s in members)
        where = _listed([f"{name} {n}" for name, n in sorted(counts.items()) if name], 20)
        paths = _listed([sound.path for sound in members], _NUM_NAMED)
        yield left_out_note(reason, len(members), f"{where}{'; ' if where else ''}{paths}")


def left_out_note(reason: str, count: int, which: str) -> str:
    """Returns the line for the sounds that are left out for one reason.

    Args:
        reason: The reason, as in `LeftOut`.
        count: Number of sounds.
        which: The classes and paths of some of them.

    Example:

    >>> left_out_note("unreadable (convert it)", 1, "dog/1.m4a")
    '1 sound left out, unreadable (convert it): dog/1.m4a'
    """
    return f"{count:,} sound{'s' * (count != 1)} left out, {reason}: {which}"


def require_no_lost_class(sounds: Sequence[LeftOut], read: Iterable[str], path: str) -> None:
    """Raises a `DatasetError` if a class has sounds, but none that is read.

    Args:
        sounds: The sounds that are not read.
        read: Classes of the sounds that are read.
        path: Path of the data, for the error.

    Example:

    >>> require_no_lost_class([LeftOut("hen/1.m4a", "unreadable", "hen")], ["dog"], "farm")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: No sound of the class 'hen' is read. ...
    """
    lost = sorted({sound.label for sound in sounds if sound.label} - set(read))
    if lost:
        notes = left_out_notes(sound for sound in sounds if sound.label in lost)
        raise DatasetError(
            f"No sound of the class {', '.join(map(repr, lost[:5]))} is read. "
            f"Received: path={path!r} with {'; '.join(notes)}"
        )


def _listed(texts: list[str], count: int) -> str:
    return ", ".join(texts[:count]) + (", ..." if len(texts) > count else "")

"""Groups of sounds that are likely to be parts of one recording, judged by their names."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterator
from typing import Any

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.segment import Segment

MAX_NAMES = 200_000  # of more sounds, the names are not compared
_MAX_DROPPED = 3  # words at the end of a name that may differ within a group
_MIN_COVERED = 0.3  # fraction of the sounds that are in a group of at least two
_MIN_PER_CLASS = 2  # fewer groups are the classes themselves
_MAX_EXAMPLES = 1000
_SEPARATORS = re.compile(r"[-_. ]+")

Place = tuple[str, int]  # split and index in it


def likely_groups(dataset: SoundDataset) -> dict[str, Any]:
    """Returns groups of names that start alike and are in two splits, such as `dog-01-a.wav`.

    Args:
        dataset: The data set.

    Returns:
        `count` groups, `examples` of them as lists of split and sound, and the `pattern` for
        `data.group_pattern` that keeps each in one split; None without such groups.

    Example:

    >>> from ast_keras.data.dataset import Split
    >>> from ast_keras.labels import LabelSet
    >>> names = [[f"dog-{take}-{part}.wav" for take in range(4)] for part in "ab"]
    >>> splits = {n: Split(s, [(0,)] * 4) for n, s in zip(("train", "test"), names)}
    >>> found = likely_groups(SoundDataset("mine", LabelSet(("dog",)), splits, False))
    >>> found["count"], found["examples"][0][0], re.search(found["pattern"], "dog-1-a.wav")[1]
    (4, {'split': 'train', 'sound': 'dog-0-a.wav'}, 'dog-1')
    """
    total = sum(map(len, dataset.splits.values()))
    for dropped in range(1, _MAX_DROPPED + 1) if total <= MAX_NAMES else ():
        groups = collections.defaultdict[Any, list[Place]](list)
        for place, target, stem in _stems(dataset):
            words = list(_SEPARATORS.finditer(stem))
            if len(words) >= dropped and words[-dropped].start() > 0:
                groups[target, stem[: words[-dropped].start()]].append(place)
        covered = sum(len(members) for members in groups.values() if len(members) > 1)
        num_targets = len({target for target, _ in groups})
        if covered < _MIN_COVERED * total or len(groups) < _MIN_PER_CLASS * num_targets:
            continue
        across = [g for g in groups.values() if len({split for split, _ in g}) > 1]
        if not across:  # the splits keep these groups together
            break
        named = [
            [{"split": s, "sound": dataset.splits[s].source_name(i)} for s, i in group]
            for group in across[:_MAX_EXAMPLES]
        ]
        pattern = rf"([^/]+){r'[-_. ]+[^-_. /]+' * dropped}\.\w+$"
        return {"count": len(across), "examples": named, "pattern": pattern}
    return {"count": 0, "examples": [], "pattern": None}


def _stems(dataset: SoundDataset) -> Iterator[tuple[Place, tuple[int, ...], str]]:
    for name, split in dataset.splits.items():
        has_files = isinstance(split.sources, list)  # others are read or rendered on access
        for index in range(len(split)):
            source = split.sources[index] if has_files else None
            path = source.path if isinstance(source, Segment) else split.source_name(index)
            stem = os.path.splitext(os.path.basename(path))[0]
            yield (name, index), tuple(split.targets[index]), stem

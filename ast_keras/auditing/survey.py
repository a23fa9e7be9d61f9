"""Survey of all sounds of a data set: distributions, defects and duplicates."""

from __future__ import annotations

import array
import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.auditing.inspect_sound import MAX_FRAMES, Inspection, LogMelStatistics
from ast_keras.auditing.label_checks import label_report
from ast_keras.auditing.likely_groups import likely_groups
from ast_keras.data.dataset import SoundDataset, why_untrainable
from ast_keras.data.segment import Segment
from ast_keras.recipe import Frontend

Array = npt.NDArray[Any]
Place = tuple[str, int]  # split and index in it

MAX_EXAMPLES = 1000  # named by a report for each kind of defect
MAX_COMPARED = 100_000  # sounds whose fingerprints are stored: 25 MB
# Smallest cosine of two fingerprints of near duplicates. Among 3,727 spoken words and 306 noises,
# no two recordings of different sources exceeded 0.957; Ogg and MP3 copies at half the level had a
# median of 0.99.
MIN_SIMILARITY = 0.97
THRESHOLDS_SECONDS = (1.0, 5.0)
_DEFAULT_FRONTEND = Frontend()
_BLOCK = 1024  # fingerprints compared at once


def sample(dataset: SoundDataset, max_files: int) -> dict[str, Array]:
    """Returns the indices of the sounds to inspect, the same ones every time.

    Args:
        dataset: The data set.
        max_files: Maximum number of sounds. Each split gets its proportion, at least one sound. 0
            selects all.

    Returns:
        Sorted indices for each split.

    Example:

    >>> from ast_keras.data.dataset import Split
    >>> from ast_keras.labels import LabelSet
    >>> split = Split(sources=["a.wav", "b.wav", "c.wav"], targets=[(0,)] * 3)
    >>> dataset = SoundDataset("mine", LabelSet(("dog",)), {"train": split}, False)
    >>> len(sample(dataset, 2)["train"]), len(sample(dataset, 0)["train"])
    (2, 3)
    """
    total = sum(map(len, dataset.splits.values()))
    chosen = {}
    for name, split in dataset.splits.items():
        indices = np.arange(len(split))
        if 0 < max_files < total:
            count = max(1, max_files * len(split) // total)
            indices = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
        chosen[name] = indices
    return chosen


class Survey:
    """Collects the inspections of all sounds in little memory, and reports on them.

    Args:
        dataset: The data set to which the sounds belong.
        num_sounds: Maximum number of sounds that will be added. Above `MAX_COMPARED`, near
            duplicates are not searched.
        frontend: Filterbank of the model to train; its frames decide which sounds are too long.

    Example:

    >>> from ast_keras.data.dataset import Split
    >>> from ast_keras.labels import LabelSet
    >>> split = Split(sources=["a.wav"], targets=[(0,)])
    >>> survey = Survey(SoundDataset("mine", LabelSet(("dog",)), {"train": split}, False), 1)
    >>> defects = {"silent": "digital silence"}
    >>> survey.add("train", 0, Inspection(16_000, 1, "WAV PCM_16", 2.0, defects))
    >>> report = survey.report()
    >>> report["sample_rates"], report["seconds"]["median"]
    ({'16000': 1}, 2.0)
    """

    def __init__(
        self, dataset: SoundDataset, num_sounds: int, frontend: Frontend = _DEFAULT_FRONTEND
    ) -> None:
        self.dataset = dataset
        self.longest_seconds = MAX_FRAMES * frontend.frame_step_seconds
        self.log_mels = LogMelStatistics(frontend.num_mel_bins)
        # Arrays: lists of 2 million sounds would take hundreds of megabytes.
        self.seconds = array.array("d")
        self._counts: dict[str, collections.Counter[str]] = {
            name: collections.Counter() for name in ("sample_rates", "channels", "formats")
        }
        self._defects: dict[str, list[dict[str, str]]] = {}
        self._num_defects: collections.Counter[str] = collections.Counter()
        self._splits = list(dataset.splits)
        self._places = array.array("q")  # index * number of splits + number of the split
        self._digests = array.array("Q")
        self._starts = array.array("Q")  # of their beginnings, or of the whole
        self._fingerprints: list[tuple[Place, Array]] = []
        self._compares = num_sounds <= MAX_COMPARED
        self._num_added = 0

    def add(self, split: str, index: int, sound: Inspection) -> None:
        """Adds a sound. Only the training split counts for the log-mel statistics.

        Args:
            split: Name of the sound's split.
            index: Index of the sound in the split.
            sound: Findings of `inspect_sound`.
        """
        self._num_added += 1
        for kind, detail in sound.defects.items():
            self._num_defects[kind] += 1
            examples = self._defects.setdefault(kind, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append({**self._named((split, index)), "detail": detail})
        if sound.seconds is None:
            return
        self.seconds.append(sound.seconds)
        for name, value in zip(
            self._counts, (sound.sample_rate, sound.channels, sound.format), strict=True
        ):
            self._counts[name][str(value)] += 1
        if sound.digest is not None:
            self._places.append(index * len(self._splits) + self._splits.index(split))
            self._digests.append(sound.digest)
            self._starts.append(sound.start_digest or sound.digest)
        if sound.fingerprint is not None and self._compares:
            self._fingerprints.append(((split, index), sound.fingerprint.astype(np.float16)))
        if sound.frame_means is not None and sound.frame_squares is not None and split == "train":
            self.log_mels.add(sound.frame_means, sound.frame_squares)

    def report(self) -> dict[str, Any]:
        """Returns all findings as a mapping that JSON can hold."""
        return {
            "name": self.dataset.name,
            "multi_label": self.dataset.multi_label,
            "notes": list(self.dataset.notes),
            "untrainable": why_untrainable(self.dataset),
            "splits": {name: len(split) for name, split in self.dataset.splits.items()},
            "num_inspected": self._num_added,
            "num_readable": len(self.seconds),
            "num_segments": sum(
                isinstance(split.sources[index], Segment)
                for split in self.dataset.splits.values()
                if isinstance(split.sources, list)  # others are read or rendered on access
                for index in range(len(split))
            ),
            **label_report(self.dataset),
            **{name: dict(counts.most_common()) for name, counts in self._counts.items()},
            "seconds": lengths(self.seconds, self.longest_seconds),
            "longest_seconds": self.longest_seconds,
            "defects": {
                **self._left_out(),
                **{
                    kind: {"count": count, "examples": self._defects[kind]}
                    for kind, count in self._num_defects.most_common()
                },
            },
            "duplicates": self._duplicates(),
            "likely_groups": likely_groups(self.dataset),
        }

    def _left_out(self) -> dict[str, Any]:
        sounds = self.dataset.left_out
        if not sounds:
            return {}
        examples = [
            {
                "split": "",
                "sound": sound.path,
                "label": sound.label,
                "detail": sound.reason.split(" (")[0],
            }
            for sound in sounds[:MAX_EXAMPLES]
        ]
        return {"left_out": {"count": len(sounds), "examples": examples}}

    def _duplicates(self) -> dict[str, Any]:
        groups = equal_groups(self._digests)
        same = [[self._place(i) for i in group] for group in groups]
        across = [group for group in same if len({split for split, _ in group}) > 1]
        starts = [
            [self._place(i) for i in group]
            for group in equal_groups(self._starts)
            if len({self._digests[i] for i in group}) > 1
        ]
        known = {frozenset(pair) for group in same for pair in itertools.combinations(group, 2)}
        near = [] if not self._compares else [
            pair for pair in near_duplicates(self._fingerprints) if frozenset(pair[:2]) not in known
        ]  # fmt: skip
        return {
            "across_splits": self._listed(across),
            "same_start_across_splits": self._listed(
                [group for group in starts if len({split for split, _ in group}) > 1]
            ),
            "within_split": self._listed([group for group in same if group not in across]),
            "other_labels": self._listed([g for g in same if len(set(map(self._target, g))) > 1]),
            "near_across_splits": {
                "searched": self._compares and bool(self._fingerprints),
                "count": len(near),
                "examples": [
                    {
                        "sounds": [self._named(a), self._named(b)],
                        "similarity": round(similarity, 4),
                    }
                    for a, b, similarity in near[:MAX_EXAMPLES]
                ],
            },
        }

    def _place(self, position: int) -> Place:
        index, split = divmod(self._places[position], len(self._splits))
        return self._splits[split], index

    def _listed(self, groups: Sequence[Sequence[Place]]) -> dict[str, Any]:
        named = [[self._named(place) for place in group] for group in groups[:MAX_EXAMPLES]]
        return {"count": len(groups), "examples": named}

    def _named(self, place: Place) -> dict[str, str]:
        split, index = place
        return {"split": split, "sound": self.dataset.splits[split].source_name(index)}

    def _target(self, place: Place) -> tuple[int, ...]:
        return tuple(self.dataset.splits[place[0]].targets[place[1]])


def lengths(seconds: Sequence[float], longest_seconds: float = 10.24) -> dict[str, Any]:
    """Returns the distribution of lengths; empty if there are no sounds.

    Args:
        seconds: Length of each sound in seconds.
        longest_seconds: Longest sound that a model processes.

    Example:

    >>> lengths([0.5, 1.0, 6.0])["longer_than"]
    {'1': 1, '5': 1, '10.24': 0}
    """
    if not seconds:
        return {}
    values = np.asarray(seconds)
    thresholds = sorted({*THRESHOLDS_SECONDS, longest_seconds})
    quantiles = {"min": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95}
    return {
        "hours": round(float(values.sum()) / 3600, 3),
        **{name: round(float(np.quantile(values, q)), 4) for name, q in quantiles.items()},
        "max": round(float(values.max()), 4),
        "shorter_than": {f"{t:g}": int((values < t).sum()) for t in thresholds},
        "longer_than": {f"{t:g}": int((values > t).sum()) for t in thresholds},
    }


def equal_groups(values: Sequence[int]) -> list[list[int]]:
    """Returns the positions of equal values, one list for each value that occurs more than once.

    Args:
        values: The values to compare.

    Example:

    >>> equal_groups([7, 8, 7, 9])
    [[0, 2]]
    """
    numbers = np.asarray(values)
    order = np.argsort(numbers, kind="stable")
    arranged, groups, end = numbers[order], [], -1
    for place in np.flatnonzero(arranged[1:] == arranged[:-1]).tolist():
        if place != end:
            groups.append([int(order[place])])
        groups[-1].append(int(order[place + 1]))
        end = place + 1
    return sorted(groups)


def near_duplicates(
    fingerprints: Sequence[tuple[Place, Array]],
) -> list[tuple[Place, Place, float]]:
    """Returns pairs of sounds in different splits with similar fingerprints, most similar first.

    Finds copies in another format, at another sample rate or level, but no copies that start at
    another time.

    Args:
        fingerprints: Split and index of each sound, and its fingerprint of norm 1.

    Returns:
        The two places and the cosine of the fingerprints, for each pair.
    """
    by_split: Mapping[str, list[tuple[Place, Array]]] = collections.defaultdict(list)
    for place, fingerprint in fingerprints:
        by_split[place[0]].append((place, fingerprint))
    found = []
    for first, second in itertools.combinations(by_split, 2):
        others = np.array([f for _, f in by_split[second]], np.float32)
        for start in range(0, len(by_split[first]), _BLOCK):
            block = by_split[first][start : start + _BLOCK]
            similarity = np.array([f for _, f in block], np.float32) @ others.T
            for a, b in np.argwhere(similarity > MIN_SIMILARITY):
                found.append((block[a][0], by_split[second][b][0], float(similarity[a, b])))
    return sorted(found, key=lambda pair: -pair[2])

"""A data set of synthetic sounds, rendered in memory: trains a model without a download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import overload

import numpy as np

from ast_keras.audio.encoding import write_wav
from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.readers.synthetic_sounds import RENDERERS, Waveform, render
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}


class _Clips(Sequence[Waveform]):
    """Renders a clip of a split on each access, always the same."""

    def __init__(self, split: str, size: int, seed: int, num_samples: int, sample_rate: int):
        self.split = split
        self.size = size
        self.seed = seed
        self.num_samples = num_samples
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Waveform: ...
    @overload
    def __getitem__(self, index: slice) -> list[Waveform]: ...
    def __getitem__(self, index: int | slice) -> Waveform | list[Waveform]:
        if isinstance(index, slice):
            return [self[i] for i in range(self.size)[index]]
        index = range(self.size)[index]
        rng = np.random.default_rng([self.seed, _SPLIT_KEYS[self.split], index])
        return render(_label(index), rng, self.num_samples, self.sample_rate)


def _label(index: int) -> str:
    return tuple(RENDERERS)[index % len(RENDERERS)]


def synthetic_sounds(
    *,
    num_train: int = 3000,
    num_validation: int = 500,
    num_test: int = 500,
    clip_seconds: float = 1.0,
    seed: int = 0,
    sample_rate: int = 16000,
) -> SoundDataset:
    """Returns a data set of ten classes of sounds, which are rendered on access.

    A clip depends only on `seed`, `clip_seconds`, `sample_rate`, its split and its number; a larger
    data set starts with the same clips. The classes alternate, so that every split is balanced.

    Args:
        num_train: Number of training clips.
        num_validation: Number of validation clips. 0 makes no validation split.
        num_test: Number of test clips. 0 makes no test split.
        clip_seconds: Length of every clip in seconds, at least 0.5.
        seed: Seed, not negative; another seed gives other clips of the same classes.
        sample_rate: Sample rate in Hz, at least 8000.

    Raises:
        DatasetError: If a setting is out of its range.

    Example:

    >>> test = synthetic_sounds(num_test=20).splits["test"]
    >>> test.sources[12].shape, test.targets[12], test.source_name(12)
    ((16000,), (2,), 'falling_test_12')
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    for split, size in sizes.items():
        if size < (split == "train"):
            raise DatasetError(
                "num_train must be positive; num_validation and num_test must not be negative. "
                f"Received: num_{split}={size}"
            )
    if clip_seconds < 0.5 or sample_rate < 8000 or seed < 0:
        raise DatasetError(
            "clip_seconds must be at least 0.5, sample_rate at least 8000, and seed at least 0. "
            f"Received: clip_seconds={clip_seconds}, sample_rate={sample_rate}, seed={seed}"
        )
    num_samples = round(clip_seconds * sample_rate)
    splits = {
        split: Split(
            sources=_Clips(split, size, seed, num_samples, sample_rate),
            targets=[(index % len(RENDERERS),) for index in range(size)],
            names=[f"{_label(index)}_{split}_{index}" for index in range(size)],
        )
        for split, size in sizes.items()
        if size
    }
    notes = (f"rendered in memory from seed {seed}",)
    return SoundDataset("synthetic", LabelSet(tuple(RENDERERS)), splits, False, notes, sample_rate)


def write_examples(
    folder: str | os.PathLike[str],
    num_examples: int = 10,
    *,
    clip_seconds: float = 1.0,
    seed: int = 0,
    sample_rate: int = 16000,
) -> list[str]:
    """Writes the first test clips of `synthetic_sounds` as 16-bit WAV files.

    With the same settings, no model trained on the data set was trained on these clips. The files
    are named after their classes.

    Args:
        folder: Folder to write to; created if it does not exist.
        num_examples: Number of clips. Ten give one of each class.
        clip_seconds: Length of every clip in seconds.
        seed: Seed of the data set.
        sample_rate: Sample rate in Hz.

    Returns:
        The paths of the files.

    Example:

    >>> import tempfile
    >>> [os.path.basename(path) for path in write_examples(tempfile.mkdtemp(), 2)]
    ['bell_test_0.wav', 'rising_test_1.wav']
    """
    dataset = synthetic_sounds(
        num_test=num_examples, clip_seconds=clip_seconds, seed=seed, sample_rate=sample_rate
    )
    test = dataset.split("test")
    os.makedirs(folder, exist_ok=True)
    paths = []
    for index in range(len(test)):
        path = os.path.join(folder, f"{test.source_name(index)}.wav")
        write_wav(path, np.asarray(test.sources[index]), sample_rate)
        paths.append(path)
    return paths

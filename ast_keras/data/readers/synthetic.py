"""A data set of synthetic sounds: enough to train on, without a download."""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from typing import overload

import numpy as np

from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.readers.synthetic_sounds import RENDERERS, Waveform, render
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_SPLIT_KEYS = {"train": 0, "validation": 1, "test": 2}


class _Clips(Sequence[Waveform]):
    """Renders clip `index` of a split whenever it is asked for, always the same."""

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
    """Returns ten classes of sound that are rendered whenever a clip is asked for.

    A clip depends on `seed`, its split, its number, `clip_seconds` and `sample_rate` only; more
    clips leave the first ones as they were. The classes take turns, so every split is balanced.

    Args:
      num_train: Clips to train on.
      num_validation: Clips to choose a model by; 0 for none.
      num_test: Clips to test on; 0 for none.
      clip_seconds: Length of every clip, at least 0.5.
      seed: Not negative; another seed gives other clips of the same classes.
      sample_rate: In Hz, at least 8000.

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
                "num_train must be positive, num_validation and num_test not negative. "
                f"Received: num_{split}={size}"
            )
    if clip_seconds < 0.5 or sample_rate < 8000 or seed < 0:
        raise DatasetError(
            "clip_seconds must be at least 0.5, sample_rate 8000 and seed 0. "
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
    """Writes the first test clips as 16-bit WAV files, and returns their paths.

    With the same settings these are the test clips of `synthetic_sounds`, which no model trained
    on them has heard; the files are named after their classes.

    Args:
      folder: Made if it is not there.
      num_examples: Ten give one of each class.
      clip_seconds: Length of every clip.
      seed: Of the data set.
      sample_rate: In Hz.

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
        samples = np.rint(np.asarray(test.sources[index]) * 32767).astype("<i2")
        with wave.open(path, "wb") as file:
            file.setparams((1, 2, sample_rate, len(samples), "NONE", ""))
            file.writeframes(samples.tobytes())
        paths.append(path)
    return paths

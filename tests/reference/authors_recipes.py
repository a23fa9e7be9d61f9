"""The authors' training recipes in plain NumPy, as a reference for every step of a run.

Written from the description of the paper (Gong, Chung, Glass, "AST: Audio Spectrogram Transformer",
Interspeech 2021) and of its repository (YuanGongND/ast: egs/*/run*.sh and in src run.py,
traintest.py, dataloader.py, gen_weight_file.py). It shares no code with the package and is written
for reading, not for speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Authors:
    """The settings of one recipe in the authors' scripts."""

    num_clips: int  # in one training epoch
    num_classes: int
    start: str
    batch_size: int
    num_epochs: int
    learning_rate: float
    decays_after: tuple[int, ...]  # epochs counted from 1
    decay_rate: float
    warmup: bool
    freqm: int
    timem: int
    mixup: float
    noise: bool  # noise and roll
    balanced_sampler: bool
    loss: str
    metric: str
    num_frames: int
    mean: float
    std: float
    averaged_epochs: tuple[int, ...] = ()
    patch: tuple[int, int] = (16, 16)  # frequency, time
    stride: tuple[int, int] = (10, 10)
    num_tokens: int = 0  # patches and two special tokens, as published
    position: str = "bilinear"
    scored_every_epoch: str = "test"  # name of the split
    # Adam, equal in all recipes.
    beta_1: float = 0.95
    beta_2: float = 0.999
    epsilon: float = 1e-8
    l2: float = 5e-7


def _every(first: int, step: int) -> tuple[int, ...]:
    return tuple(range(first, 1000, step))


_AUDIOSET = {
    "num_classes": 527,
    "start": "deit_base_384",
    "batch_size": 12,
    "decay_rate": 0.5,
    "warmup": True,
    "freqm": 48,
    "timem": 192,
    "mixup": 0.5,
    "noise": False,
    "loss": "binary",
    "metric": "mean_average_precision",
    "num_frames": 1024,
    "mean": -4.2677393,
    "std": 4.5689974,
    "num_tokens": 1214,
}
_BALANCED = {
    **_AUDIOSET,
    "num_clips": 20_550,
    "num_epochs": 25,
    "learning_rate": 5e-5,
    "decays_after": _every(10, 5),
    "balanced_sampler": False,
    "averaged_epochs": tuple(range(6, 26)),
}
_ESC50 = {
    "num_clips": 1600,
    "num_classes": 50,
    "start": "ast_base_audioset",
    "batch_size": 48,
    "num_epochs": 25,
    "learning_rate": 1e-5,
    "decays_after": _every(5, 1),
    "decay_rate": 0.85,
    "warmup": False,
    "freqm": 24,
    "timem": 96,
    "mixup": 0.0,
    "noise": False,
    "balanced_sampler": False,
    "loss": "categorical",
    "metric": "accuracy",
    "num_frames": 512,
    "mean": -6.6268077,
    "std": 5.358466,
    "num_tokens": 602,
}
_SPEECH_COMMANDS = {
    "num_clips": 84_843,
    "num_classes": 35,
    "start": "deit_base_384",
    "batch_size": 128,
    "num_epochs": 30,
    "learning_rate": 2.5e-4,
    "decays_after": _every(5, 1),
    "decay_rate": 0.85,
    "warmup": False,
    "freqm": 48,
    "timem": 48,
    "mixup": 0.6,
    "noise": True,
    "balanced_sampler": False,
    "loss": "binary",
    "metric": "accuracy",
    "num_frames": 128,
    "mean": -6.845978,
    "std": 5.5654526,
    "num_tokens": 146,
    "scored_every_epoch": "validation",
}


def _balanced(**changes) -> Authors:
    return Authors(**{**_BALANCED, **changes})


RECIPES = {
    "audioset_full": Authors(
        **_AUDIOSET,
        num_clips=2_042_985,
        num_epochs=5,
        learning_rate=1e-5,
        decays_after=_every(2, 1),
        balanced_sampler=True,
        averaged_epochs=(1, 2, 3, 4, 5),
    ),
    "audioset_balanced": _balanced(),
    "audioset_balanced_scratch": _balanced(start="random"),
    "audioset_balanced_position_reinit": _balanced(position="reinit"),
    "audioset_balanced_position_nearest": _balanced(position="nearest"),
    "audioset_balanced_overlap_0": _balanced(stride=(16, 16), num_tokens=514),
    "audioset_balanced_overlap_2": _balanced(stride=(14, 14), num_tokens=659),
    "audioset_balanced_overlap_4": _balanced(stride=(12, 12), num_tokens=852),
    "audioset_balanced_patch_128x2": _balanced(
        start="random", patch=(128, 2), stride=(128, 2), num_tokens=514
    ),
    "audioset_balanced_patch_16x16": _balanced(start="random", stride=(16, 16), num_tokens=514),
    "audioset_balanced_patch_32x32": _balanced(
        start="random", patch=(32, 32), stride=(32, 32), num_tokens=130
    ),
    "esc50": Authors(**_ESC50),
    "esc50_imagenet": Authors(**{**_ESC50, "start": "deit_base_384", "learning_rate": 1e-4}),
    "speech_commands": Authors(**_SPEECH_COMMANDS),
    "speech_commands_audioset": Authors(**{**_SPEECH_COMMANDS, "start": "ast_base_audioset"}),
}

# Learning rates in the authors' logs by epoch, counted from 1, after the warm-up if there is one.
PRINTED_RATES = {
    "audioset_full": {1: 1e-5, 2: 1e-5, 3: 5e-6, 4: 2.5e-6, 5: 1.25e-6},
    "audioset_balanced": {10: 5e-5, 11: 2.5e-5, 15: 2.5e-5, 16: 1.25e-5, 21: 6.25e-6, 25: 6.25e-6},
    "esc50": {1: 1e-5, 5: 1e-5, 6: 8.5e-6, 10: 4.437e-6, 25: 3.876e-7},
    "speech_commands": {1: 2.5e-4, 5: 2.5e-4, 6: 2.125e-4},
}


# --- The rate ---


@dataclass
class MultiStepLR:
    """Multiplies the current learning rate of the optimizer at the milestones."""

    group: dict
    milestones: tuple[int, ...]
    gamma: float
    last_epoch: int = field(default=0)

    def step(self):
        self.last_epoch += 1
        if self.last_epoch in self.milestones:
            self.group["lr"] *= self.gamma


def steps_per_epoch(authors):
    """Returns the number of batches per epoch, including the last incomplete one."""
    full, rest = divmod(authors.num_clips, authors.batch_size)
    return full + (rest > 0)


def learning_rates(authors):
    """Returns the learning rate of each optimizer step of the run."""
    group = {"lr": authors.learning_rate}
    scheduler = MultiStepLR(group, frozenset(authors.decays_after), authors.decay_rate)
    global_step, rates = 0, []
    for _ in range(authors.num_epochs):
        for _ in range(steps_per_epoch(authors)):
            if authors.warmup and global_step <= 1000 and global_step % 50 == 0:
                group["lr"] = (global_step / 1000) * authors.learning_rate
            rates.append(group["lr"])
            global_step += 1
        scheduler.step()
    return rates


# --- Masks, noise, roll ---


def mask_law(max_width, size, cuts=400):
    """Returns the probability of each width, and of each position to be masked.

    The width v is uniform in [0, max_width), the start is uniform in [0, size - v), and both are
    then rounded down, so the last position is never masked. The integral over v is computed by the
    midpoint rule.
    """
    widths = np.full(max_width, 1.0 / max_width)
    covered = np.zeros(size)
    for v in (np.arange(max_width * cuts) + 0.5) / cuts:
        span = size - v
        # Probability of start s: the fraction of [0, span) that lies in [s, s + 1).
        starts = np.clip(span - np.arange(size), 0, 1) / span
        sums = np.concatenate([[0.0], np.cumsum(starts)])
        last = np.arange(1, size + 1)
        covered += sums[last] - sums[np.maximum(last - int(v), 0)]
    return widths, covered / (max_width * cuts)


ROLLS = range(-10, 10)  # frames, all equally likely


# --- Mixup ---


def beta_10_10_cdf(x):
    """Returns the distribution function of Beta(10, 10), that of the 10th of 19 uniform numbers."""
    return sum(math.comb(19, j) * x**j * (1 - x) ** (19 - j) for j in range(10, 20))


def mixed_waveform(first, second, weight):
    """Mixes two clips without their means, fits the second to the first, removes the mean."""
    first, second = np.float64(first), np.float64(second)
    first, second = first - first.mean(), second - second.mean()
    if len(first) > len(second):
        second = np.concatenate([second, np.zeros(len(first) - len(second))])
    second = second[: len(first)]
    mixed = weight * first + (1 - weight) * second
    return mixed - mixed.mean()


def mixed_target(first, second, weight, num_classes):
    """Returns the mixed target of two clips; a label of both clips is added twice."""
    target = np.zeros(num_classes)
    for label in first:
        target[label] += weight
    for label in second:
        target[label] += 1.0 - weight
    return target


# --- Sampling ---


def sampling_weights(label_sets, num_classes):
    """Returns the weight of each clip for sampling with replacement."""
    count = [0] * num_classes
    for labels in label_sets:
        for label in labels:
            count[label] += 1
    return [sum(1000.0 / (count[label] + 0.01) for label in labels) for labels in label_sets]


# --- The model ---


def best_epoch(scores):
    """Returns the best epoch, counted from 1; of equal epochs the first."""
    best, best_score = 0, -math.inf
    for epoch, score in enumerate(scores, 1):
        if score > best_score:
            best, best_score = epoch, score
    return best


def best_mean_epoch(folds):
    """Returns the epoch, counted from 1, with the best mean over the folds."""
    return best_epoch([sum(scores) / len(folds) for scores in zip(*folds, strict=True)])


# Scores by epoch, as the authors report them.
CURVES = {
    "audioset_full": (0.4153, 0.4349, 0.4476, 0.4490, 0.4486),
}

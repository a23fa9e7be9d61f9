"""Explanation of a file's classification: scores, and the evidence for each class.

The attribution methods of `ast_keras.inference.attribution` are importable from here too.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.channels import Channel
from ast_keras.audio.loading import load_audio
from ast_keras.errors import InferenceError
from ast_keras.inference.attribution import (
    attention_map,
    attention_rollout,
    class_index,
    gradient_times_input,
    occlusion,
    over_frames,
    special_attention,
    valid_spectrogram,
)
from ast_keras.inference.windows import valid_part
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.reports.explanation_report import Sound, smoothed

__all__ = [
    "ClassEvidence",
    "Explanation",
    "attention_map",
    "attention_rollout",
    "class_index",
    "explain_file",
    "gradient_times_input",
    "occlusion",
    "over_frames",
    "special_attention",
    "valid_spectrogram",
]

Array = npt.NDArray[Any]

_SMOOTHING = 5  # frames and bins; gradients of single values are too noisy to look at


@dataclasses.dataclass(frozen=True, eq=False)
class ClassEvidence:
    """Evidence for one class.

    Attributes:
        name: Name of the class.
        score: Score of the class.
        evidence: Value of each point of the spectrogram, float32 `[frames, mel]`. Positive values
            support the class; methods without a sign give values from 0.
    """

    name: str
    score: float
    evidence: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Explanation of the classification of one file.

    Attributes:
        sound: The part of the file that the model processed, with its log-mel spectrogram.
        scores: Names and scores of the most likely classes, highest first.
        classes: Evidence for each explained class.
    """

    sound: Sound
    scores: tuple[tuple[str, float], ...]
    classes: tuple[ClassEvidence, ...]


def explain_file(
    model: ASTClassifier,
    path: str,
    method: str = "gradient",
    *,
    classes: Sequence[str] = (),
    top: int = 3,
    layer: int = -1,
    head: int | None = None,
    num_bands: int = 8,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    channel: Channel = "mix",
) -> Explanation:
    """Explains the classification of a sound file.

    Args:
        model: An `ASTClassifier` with a frontend.
        path: Path of the file.
        method: "gradient", "occlusion", "rollout" or "attention". The evidence of the last two is
            the same for every class.
        classes: Names, ids or indices of the classes to explain; none for the most likely ones.
        top: Number of the most likely classes.
        layer: Index of the block, for "attention"; -1 for the last.
        head: Index of the attention head, for "attention"; None for the mean over heads.
        num_bands: Number of bands along the mel axis, for "occlusion".
        start_seconds: Start of the part of the file, in seconds.
        duration_seconds: Length of the part of the file, in seconds; None for the rest of the file.
        channel: `"mix"` for the mean of all channels, or the index of one channel.

    Returns:
        The sound, its scores, and the evidence for each class.

    Raises:
        ArgumentError: If the model takes spectrograms.
        AudioError: If the file cannot be read.
        InferenceError: If the method, a class, block or head does not exist, the model is causal
            (for "rollout" and "attention"), or the sound is too long or shorter than a frame.

    Example:

    >>> import os, soundfile, tempfile
    >>> from ast_keras import from_preset
    >>> path = os.path.join(tempfile.mkdtemp(), "a.wav")
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 16_000), 16_000)
    >>> model = from_preset("ast_test", num_classes=3, num_frames=98)
    >>> explanation = explain_file(model, path, "attention", classes=["2"])
    >>> [(found.name, found.evidence.shape) for found in explanation.classes]
    [('class 2', (98, 128))]
    """
    if method not in _METHODS:
        raise InferenceError(f"method must be one of {', '.join(_METHODS)}. Received: {method!r}")
    frontend = model.require_frontend()
    waveform = load_audio(
        path,
        frontend.sample_rate,
        channel=channel,
        start_seconds=start_seconds,
        duration_seconds=duration_seconds,
    )
    waveform = valid_part(model, waveform, path, has_windows=False)
    scores = np.asarray(model.scores(model(waveform[None], training=False)))[0]
    best = np.argsort(-scores, kind="stable")[:top]
    indices = [class_index(model, name) for name in classes] or list(best)
    names = model.labels.names if model.labels else [f"class {i}" for i in range(len(scores))]
    settings = _Settings(layer, head, num_bands)
    found, evidence = list[ClassEvidence](), None
    for index in indices:
        if evidence is None or method in _PER_CLASS:
            evidence = _METHODS[method](model, waveform, index, settings)
        found.append(ClassEvidence(names[index], float(scores[index]), evidence))
    return Explanation(
        _sound(model, waveform, pathlib.Path(path).name),
        tuple((names[index], float(scores[index])) for index in best),
        tuple(found),
    )


@dataclasses.dataclass(frozen=True)
class _Settings:
    layer: int
    head: int | None
    num_bands: int


def _gradient(model: ASTClassifier, waveform: Array, index: int, settings: _Settings) -> Array:
    return smoothed(gradient_times_input(model, waveform, index), _SMOOTHING)


def _occlusion(model: ASTClassifier, waveform: Array, index: int, settings: _Settings) -> Array:
    return occlusion(model, waveform, index, num_bands=settings.num_bands)


def _rollout(model: ASTClassifier, waveform: Array, index: int, settings: _Settings) -> Array:
    _, frames = valid_spectrogram(model, waveform)
    return over_frames(model.backbone, attention_rollout(model, waveform), frames)


def _attention_of_block(
    model: ASTClassifier, waveform: Array, index: int, settings: _Settings
) -> Array:
    _, frames = valid_spectrogram(model, waveform)
    grid = attention_map(model, waveform, settings.layer, settings.head)
    return over_frames(model.backbone, grid, frames)


_METHODS = {
    "gradient": _gradient,
    "occlusion": _occlusion,
    "rollout": _rollout,
    "attention": _attention_of_block,
}
_PER_CLASS = ("gradient", "occlusion")  # the others give the same evidence for every class


def _sound(model: ASTClassifier, waveform: Array, name: str) -> Sound:
    spectrogram, frames = valid_spectrogram(model, waveform)
    frontend = model.frontend
    return Sound(
        name,
        waveform,
        frontend.sample_rate,
        spectrogram[0, :frames] * (2 * frontend.std) + frontend.mean,
        frontend.frame_step_seconds,
        (frontend.f_min_hz, frontend.f_max_hz or frontend.sample_rate / 2),
    )

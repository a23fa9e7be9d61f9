"""The worst mistakes of an evaluation: which they are, and what is needed to look at them."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.labels import LabelSet

_GUESSES = 3
_SECONDS = 10.0  # of sound that is kept

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Mistake:
    """One example that a model got wrong, with what it heard.

    Args:
      name: Of the example, a path where it has one.
      labels: The true labels with their scores, highest first.
      guesses: The labels with the highest scores, with these.
      badness: What the mistakes are ordered by: the score of the wrong label, or the loss.
      flac: The sound, up to 10 s of it, as an encoded file; empty where there is no sound.
      log_mel: What the model sees, `[frames, mel]`, natural logarithm of power.
      num_heard: Frames of the sound; those that follow are padding.
    """

    name: str
    labels: tuple[tuple[str, float], ...]
    guesses: tuple[tuple[str, float], ...]
    badness: float
    flac: bytes = dataclasses.field(repr=False)
    log_mel: Array = dataclasses.field(repr=False)
    num_valid_frames: int


def worst_mistakes(
    scores: npt.ArrayLike, targets: npt.ArrayLike, multi_label: bool, limit: int
) -> list[tuple[int, float]]:
    """Returns the examples with the worst mistakes, worst first, and how bad each is.

    Where an example has one label these are the wrong ones with the highest score of a wrong
    label; else those with the highest binary cross-entropy, whether or not a label was missed.

    Args:
      scores: Probabilities `[examples, classes]`.
      targets: `[examples, classes]` of 0 and 1.
      multi_label: Whether an example may have several labels, or none.
      limit: At most so many.

    Example:

    >>> scores = [[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]
    >>> worst_mistakes(scores, [[0, 1], [0, 1], [0, 1]], multi_label=False, limit=5)
    [(1, 0.9), (0, 0.6)]
    """
    probabilities, truth = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if multi_label:
        inside = np.clip(probabilities, 1e-7, 1 - 1e-7)
        badness = -np.where(truth, np.log(inside), np.log1p(-inside)).mean(axis=1)
        wrong = np.ones(len(badness), bool)
    else:
        badness = probabilities.max(axis=1)
        wrong = ~truth[np.arange(len(truth)), probabilities.argmax(axis=1)]
    order = np.argsort(-badness, kind="stable")
    return [(int(i), float(badness[i])) for i in order[wrong[order]][:limit]]


def describe_mistake(
    name: str,
    scores: Array,
    target: Array,
    labels: LabelSet,
    badness: float,
    waveform: Array,
    sample_rate: int,
    log_mel: Array,
    num_valid_frames: int,
) -> Mistake:
    """Returns a `Mistake` of one example's scores and target, both `[classes]`."""
    order = np.argsort(-scores, kind="stable")
    true = [index for index in order if target[index]]
    return Mistake(
        name=name,
        labels=tuple((labels.names[i], float(scores[i])) for i in true),
        guesses=tuple((labels.names[i], float(scores[i])) for i in order[:_GUESSES]),
        badness=badness,
        flac=encode_flac(waveform[: round(_SECONDS * sample_rate)], sample_rate),
        log_mel=log_mel,
        num_valid_frames=num_valid_frames,
    )


def encode_flac(waveform: Array, sample_rate: int) -> bytes:
    """Returns a mono waveform in [-1, 1] as a FLAC file of 16 bits; empty if there is no sample.

    What was decoded from 16 bits is the same again, to the bit.

    Example:

    >>> encode_flac(np.zeros(160, "float32"), 16000)[:4]
    b'fLaC'
    """
    if not len(waveform):
        return b""
    import soundfile

    # Scaled here: the library's own scale for floats is 32767, which moves samples.
    samples = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()

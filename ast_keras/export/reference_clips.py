"""The sounds on which an export is compared with its model, and what the model says to them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from ast_keras.audio import load_audio
from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.audio_folder import is_audio
from ast_keras.errors import ExportError
from ast_keras.export.serving_module import in_float32
from ast_keras.models.ast_classifier import ASTClassifier

_BATCH = 8


def comparison_clips(
    model: ASTClassifier,
    num_samples: int,
    source: str | os.PathLike[str] | None = None,
    num_clips: int = 200,
) -> tuple[np.ndarray, str]:
    """Returns sounds `[num_clips, num_samples]`, float32, and a line that says where they are from.

    Args:
      model: Its sample rate is theirs.
      num_samples: Length of each.
      source: A folder of sounds, each cut into as many clips as it holds, in turns; None for
        rendered sounds, which a model trained on others knows less of than the user's own.
      num_clips: How many.

    Raises:
      ExportError: If the folder holds too few.
      AudioError: If a file cannot be read.
    """
    rate = model.frontend.sample_rate
    if source is None:
        # Two seeds would be two sets; clips shorter than a renderer's least are cut from it.
        seconds = max(0.5, num_samples / rate)
        sounds = load_dataset(
            "synthetic", num_test=num_clips, clip_seconds=seconds, sample_rate=rate
        ).split("test")
        rendered = [np.asarray(sounds.sources[i])[:num_samples] for i in range(num_clips)]
        return np.stack(rendered).astype(np.float32), f"{num_clips} rendered sounds"
    found: list[np.ndarray] = []
    for clip in _clips_of(_files(source), rate, num_samples):
        found.append(clip)
        if len(found) == num_clips:
            return np.stack(found), f"{num_clips} clips from {source}"
    raise ExportError(
        f"The sounds to compare on must give {num_clips} clips of {num_samples / rate:.2f} s: add "
        f"some, or lower --num_clips. Received: {source}, which gives {len(found)}"
    )


def _files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
    folder = pathlib.Path(source)
    files = sorted(p for p in folder.rglob("*") if is_audio(p.name) and p.is_file())
    if not files:
        raise ExportError(f"There are no sounds in this folder. Received: {source}")
    return files


def _clips_of(files: list[pathlib.Path], rate: int, num_samples: int) -> Iterator[np.ndarray]:
    """Yields the first clip of every file, then the second of those that have one, and so on."""
    number = 0
    while files:
        longer = []
        for path in files:
            waveform = load_audio(path, rate)
            clip = waveform[number * num_samples : (number + 1) * num_samples]
            if len(waveform) > (number + 1) * num_samples:
                longer.append(path)
            yield np.pad(clip, (0, num_samples - len(clip)))
        files, number = longer, number + 1


def keras_scores(
    model: ASTClassifier, clips: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Returns what the model itself says, in float32: `[clips, classes]`.

    Args:
      model: The classifier.
      clips: `[clips, samples]`.
      lengths: Samples of each that are heard, `[clips]`; None for all.
    """
    model = in_float32(model)

    @tf.function(reduce_retracing=True)
    def scores(waveform, lengths):
        return model.scores(model(waveform, training=False, lengths=lengths))

    parts = []
    for first in range(0, len(clips), _BATCH):
        part = slice(first, first + _BATCH)
        heard = None if lengths is None else tf.constant(lengths[part])
        parts.append(scores(tf.constant(clips[part]), heard).numpy())
    return np.concatenate(parts)

"""Clips on which an exported file is compared with its model, and the model's scores for them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from ast_keras.audio import load_audio
from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.audio_folder import SoundTree
from ast_keras.errors import ExportError
from ast_keras.export.serving_module import exportable
from ast_keras.models.audio_classifier import AudioClassifier

_BATCH = 8


def comparison_clips(
    model: AudioClassifier,
    num_samples: int,
    source: str | os.PathLike[str] | None = None,
    num_clips: int = 200,
) -> tuple[np.ndarray, str]:
    """Returns clips for the comparison, and a description of their source.

    Args:
        model: Classifier with a frontend, whose sample rate the clips have.
        num_samples: Length of each clip in samples.
        source: Folder of recordings. The first clip of every file comes first, then the second of
            every file that is long enough, and so on. None for rendered sounds, which are less
            like the training data than your own recordings.
        num_clips: Number of clips.

    Returns:
        float32 `[num_clips, num_samples]` and a description such as "200 rendered sounds".

    Raises:
        ExportError: If the folder holds fewer clips.
        AudioError: If a file cannot be read.
    """
    rate = model.frontend.sample_rate
    if source is None:
        # The renderer makes at least half a second; shorter clips are cut from that.
        seconds = max(0.5, num_samples / rate)
        sounds = load_dataset(
            "synthetic", num_test=num_clips, clip_seconds=seconds, sample_rate=rate
        ).split("test")
        rendered = [np.asarray(sounds.sources[i])[:num_samples] for i in range(num_clips)]
        return np.stack(rendered).astype(np.float32), f"{num_clips} rendered sounds"
    clips: list[np.ndarray] = []
    for clip in _clips_of(_files(source), rate, num_samples):
        clips.append(clip)
        if len(clips) == num_clips:
            return np.stack(clips), f"{num_clips} clips from {source}"
    raise ExportError(
        f"The comparison needs {num_clips} clips of {num_samples / rate:.2f} s: add recordings to "
        f"the folder, or lower --num_clips. Received: {source}, which gives {len(clips)}"
    )


def _files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
    folder = pathlib.Path(source)
    files = sorted(folder / name for name in SoundTree.scan(str(folder)).sounds)
    if not files:
        raise ExportError(f"There are no audio files in this folder. Received: {source}")
    return files


def _clips_of(files: list[pathlib.Path], rate: int, num_samples: int) -> Iterator[np.ndarray]:
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
    model: AudioClassifier, clips: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Returns the model's own scores in float32, the expected values of an exported file.

    Args:
        model: Classifier with a frontend.
        clips: float32 `[clips, samples]` in [-1, 1].
        lengths: int32 `[clips]`, the valid samples of each clip; None if all are valid.

    Returns:
        float32 `[clips, classes]`.
    """
    model = exportable(model)

    @tf.function(reduce_retracing=True)
    def scores(waveform, lengths):
        return model.scores(model(waveform, training=False, lengths=lengths))

    parts = []
    for first in range(0, len(clips), _BATCH):
        batch = slice(first, first + _BATCH)
        valid = None if lengths is None else tf.constant(lengths[batch])
        parts.append(scores(tf.constant(clips[batch]), valid).numpy())
    return np.concatenate(parts)

"""Why a model says what it says: where it looks, and which sound speaks for a class.

All functions take one sound and return float32 arrays over its own time: `[frames, mel]`, or
`[mel, time]` over patches. Frames that are padding are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ast_keras.errors import InferenceError, did_you_mean
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[Any]

METHODS = ("gradient", "occlusion", "rollout", "attention")

_BATCH = 8  # occluded spectrograms heard at once


def special_attention(backbone: ASTBackbone, spectrogram: Array) -> Array:
    """Returns how the special tokens attend, `[blocks, heads, special tokens, tokens]`.

    Only these rows are kept of each block, so that a large model needs little memory.

    Args:
      backbone: An `ASTBackbone`.
      spectrogram: `[1, frames, mel]`, normalised.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> special_attention(model.backbone, np.zeros((1, 98, 128), "float32")).shape
    (2, 3, 2, 110)
    """
    special = backbone.num_special_tokens
    rows = [weights[0, :, :special] for weights in _attention(backbone, spectrogram)]
    return np.stack([tf.cast(row, tf.float32).numpy() for row in rows])


def attention_map(
    model: ASTClassifier, waveform: Array, layer: int = -1, head: int | None = None
) -> Array:
    """Returns how much the classifier's tokens attend to each patch, `[mel, time]`.

    Args:
      model: An `ASTClassifier` with a frontend.
      waveform: `[samples]`.
      layer: Which block, from 0; -1 is the last.
      head: Which of its heads, from 0; None for their mean.

    Raises:
      InferenceError: If there is no such block or head, or the model is causal.
    """
    backbone = _plain_backbone(model)
    spectrogram, frames = valid_spectrogram(model, waveform)
    for name, number, count in (
        ("layer", layer, backbone.num_layers),
        ("head", head or 0, backbone.num_heads),
    ):
        if not -count <= number < count:
            raise InferenceError(
                f"{name} must lie between 0 and {count - 1}. Received: {name}={number}"
            )
    rows = special_attention(backbone, spectrogram)[layer]  # [heads, special, tokens]
    rows = rows.mean(axis=0) if head is None else rows[head]
    return _grid(backbone, rows.mean(axis=0), frames)


def attention_rollout(model: ASTClassifier, waveform: Array) -> Array:
    """Returns how much of each patch flows to the classifier's tokens, `[mel, time]`.

    The attention of all blocks, averaged over heads and mixed half and half with the identity, for
    the residual branch, is multiplied from the last to the first.

    Args:
      model: An `ASTClassifier` with a frontend.
      waveform: `[samples]`.

    Reference:
      Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    backbone = _plain_backbone(model)
    spectrogram, frames = valid_spectrogram(model, waveform)
    flow = None
    for weights in _attention(backbone, spectrogram):
        mixed = tf.reduce_mean(tf.cast(weights[0], tf.float32), axis=0)
        mixed = (mixed + tf.eye(mixed.shape[0])) / 2
        flow = mixed if flow is None else tf.matmul(mixed, flow)
    return _grid(backbone, flow[: backbone.num_special_tokens].numpy().mean(axis=0), frames)


def gradient_times_input(
    model: ASTClassifier, waveform: Array, class_index: int, steps: int = 16
) -> Array:
    """Returns how much each part of the spectrogram speaks for a class, `[frames, mel]`.

    That is the gradient of the class's logit times what the part differs from the sound's own mean
    in its mel bin. The gradient is averaged on the way from that mean to the sound, so that the
    evidence adds up to what the sound adds to the logit; at the sound alone (`steps=1`) a class
    that is sure has next to no slope, and what is left points anywhere.

    Args:
      model: An `ASTClassifier` with a frontend.
      waveform: `[samples]`.
      class_index: Of the class.
      steps: Places on the way, each for the price of a training step; 1 for the sound itself.

    Reference:
      Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating
      Activation Differences", 2016; Sundararajan et al., "Axiomatic Attribution for Deep Networks",
      ICML 2017.
    """
    spectrogram, frames = valid_spectrogram(model, waveform)
    heard = spectrogram[0, :frames]
    difference = np.zeros_like(spectrogram)
    difference[0, :frames] = heard - heard.mean(axis=0)
    # The middles of equal parts of the way; how far each is from the sound.
    back = [0.0] if steps == 1 else 1 - (np.arange(steps) + 0.5) / steps
    total = np.zeros_like(heard)
    for share in back:
        inputs = tf.constant(spectrogram - np.float32(share) * difference)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logit = _logits(model, inputs)[0, class_index]
        total += tape.gradient(logit, inputs).numpy()[0, :frames]
    return total / steps * difference[0, :frames]


def occlusion(
    model: ASTClassifier,
    waveform: Array,
    class_index: int,
    width_seconds: float = 0.16,
    hop_seconds: float = 0.04,
    num_bands: int = 1,
) -> Array:
    """Returns how much a class's logit falls where the sound is covered, `[frames, mel]`.

    Each time span, in each of `num_bands` equal parts of the mel axis, is replaced by the sound's
    own mean in each mel bin; a frame gets the mean fall over the spans that cover it.

    Args:
      model: An `ASTClassifier` with a frontend.
      waveform: `[samples]`.
      class_index: Of the class.
      width_seconds: Length of a span.
      hop_seconds: From one span to the next, at most its length.
      num_bands: Parts of the mel axis.

    Raises:
      InferenceError: If spans or bands leave gaps.

    Reference:
      Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """
    spectrogram, frames = valid_spectrogram(model, waveform)
    step, mel = model.frontend.frame_step_seconds, spectrogram.shape[2]
    width, hop = max(1, round(width_seconds / step)), max(1, round(hop_seconds / step))
    if hop > width or not 1 <= num_bands <= mel:
        raise InferenceError(
            f"The hop must be at most the width, and bands from 1 to {mel}. Received: hop_seconds="
            f"{hop_seconds}, width_seconds={width_seconds}, num_bands={num_bands}"
        )
    edges = np.linspace(0, mel, num_bands + 1).round().astype(int)
    # From before the start, so that the first frames are covered as often as others.
    regions = [
        (slice(max(0, first), first + width), slice(low, high))
        for first in range(hop - width, frames, hop)
        for low, high in itertools.pairwise(edges)
    ]
    compute = tf.function(
        lambda x: _logits(model, x)[:, class_index],
        input_signature=[tf.TensorSpec((None, *spectrogram.shape[1:]), tf.float32)],
    )
    whole = float(compute(spectrogram)[0])
    mean = spectrogram[0, :frames].mean(axis=0)
    falls, counts = np.zeros((2, frames, mel), np.float32)
    for first in range(0, len(regions), _BATCH):
        part = regions[first : first + _BATCH]
        covered = np.repeat(spectrogram, len(part), axis=0)
        for row, (time, band) in zip(covered, part, strict=True):
            row[:frames][time, band] = mean[band]
        for logit, (time, band) in zip(compute(covered).numpy(), part, strict=True):
            falls[time, band] += whole - logit
            counts[time, band] += 1
    return falls / np.maximum(counts, 1)


def class_index(model: ASTClassifier, name: str) -> int:
    """Returns the number of a class by its name, its id, or its number as text.

    Raises:
      InferenceError: If there is none, with the nearest name.
    """
    labels = model.labels
    for names in (labels.names, labels.ids) if labels else ():
        if name in names:
            return names.index(name)
    if name.isdecimal() and int(name) < model.num_classes:
        return int(name)
    near = (
        did_you_mean(name, labels.names) if labels else f"Classes are 0 to {model.num_classes - 1}."
    )
    raise InferenceError(f"There is no class of this name. {near} Received: {name!r}")


def over_frames(backbone: ASTBackbone, grid: Array, num_frames: int) -> Array:
    """Spreads values of patches `[mel, time]` over what they cover, `[frames, mel]`.

    A frame and bin gets the mean of the patches that cover it, zero where none does.

    Args:
      backbone: Whose patches these are.
      grid: One value for each patch.
      num_frames: Length of the result.
    """
    sums, counts = np.zeros((2, num_frames, backbone.num_mel_bins), np.float32)
    (tall, long), (up, on) = backbone.patch_size, backbone.strides
    for row, column in np.ndindex(grid.shape):
        place = slice(column * on, column * on + long), slice(row * up, row * up + tall)
        sums[place] += grid[row, column]
        counts[place] += 1
    return sums / np.maximum(counts, 1)


def valid_spectrogram(model: ASTClassifier, waveform: Array) -> tuple[Array, int]:
    """Returns what the model sees, `[1, frames, mel]`, and how many frames are sound.

    Raises:
      InferenceError: If the model takes spectrograms, or there is less than a frame of sound.
    """
    if model.frontend is None:
        raise InferenceError("This model takes spectrograms, not sound: it has no frontend")
    spectrogram = model.spectrogram(np.asarray(waveform, np.float32)[None]).numpy()
    frames = min(model.frontend.count_frames(len(waveform)), spectrogram.shape[1])
    if frames < 1:
        raise InferenceError(
            "A sound of less than a frame gives nothing to explain. "
            f"Received: {len(waveform)} samples"
        )
    return spectrogram, frames


def _plain_backbone(model: ASTClassifier) -> ASTBackbone:
    if isinstance(model.backbone, CausalASTBackbone):
        raise InferenceError(
            "A causal model has special tokens in every block, and no one map of attention: take "
            "gradients or occlusion"
        )
    return model.backbone


def _logits(model: ASTClassifier, spectrogram: tf.Tensor) -> tf.Tensor:
    asked = model.backbone.num_pooled_tokens
    tokens = model.backbone(spectrogram, training=False, num_tokens=asked)
    return model.classify(model.pool(tokens))


def _attention(backbone: ASTBackbone, spectrogram: Array) -> Iterator[tf.Tensor]:
    """Yields each block's attention `[1, heads, tokens, tokens]`, one in memory at a time."""
    patches = backbone.get_layer("patches")(tf.constant(spectrogram))
    tokens, attention_mask = backbone.embed_tokens(patches)
    for block in backbone.blocks:
        yield block.attention_weights(tokens, attention_mask)
        tokens = block(tokens, attention_mask=attention_mask)


def _grid(backbone: ASTBackbone, row: Array, frames: int) -> Array:
    """Returns the patches of a row over all tokens, those that hear sound, `[mel, time]`."""
    grid = row[backbone.num_special_tokens :].reshape(backbone.grid[0], -1)
    last = -(-max(1, frames) // backbone.strides[1])  # beyond it they begin in the padding
    return grid[:, :last]

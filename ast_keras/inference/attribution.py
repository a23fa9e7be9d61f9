"""Attribution methods: attention maps, gradients and occlusion.

The functions take one sound and return float32 arrays over its valid frames, without padding:
`[frames, mel]`, or `[mel, time]` with one value per patch.

| function | value |
|---|---|
| `attention_map` | attention of one block to each patch |
| `attention_rollout` | attention of all blocks to each patch |
| `gradient_times_input` | contribution of each spectrogram value to the logit of a class |
| `occlusion` | decrease of the logit of a class when a region of the spectrogram is masked |
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

_BATCH = 8  # masked spectrograms per call of the model


def special_attention(backbone: ASTBackbone, spectrogram: Array) -> Array:
    """Returns the attention weights of the special tokens in every block.

    Only these rows of each attention matrix are kept, so that a large model needs little memory.

    Args:
        backbone: An `ASTBackbone`.
        spectrogram: Normalised spectrogram, `[1, frames, mel]`.

    Returns:
        float32 `[blocks, heads, special tokens, tokens]`.

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
    """Returns the attention of the special tokens to each patch in one block.

    Args:
        model: An `ASTClassifier` with a frontend.
        waveform: `[samples]`, float32 in [-1, 1], at the sample rate of the model.
        layer: Index of the block; -1 for the last.
        head: Index of the attention head; None for the mean over heads.

    Returns:
        float32 `[mel, time]`, one value per patch.

    Raises:
        InferenceError: If there is no such block or head, or the model is causal.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype("float32")
    >>> attention_map(model, waveform).shape, attention_rollout(model, waveform).shape
    ((12, 9), (12, 9))
    """
    backbone = _require_plain_backbone(model)
    spectrogram, frames = valid_spectrogram(model, waveform)
    for name, number, count in (
        ("layer", layer, backbone.num_layers),
        ("head", head or 0, backbone.num_heads),
    ):
        if not -count <= number < count:
            raise InferenceError(
                f"{name} must be between 0 and {count - 1}. Received: {name}={number}"
            )
    rows = special_attention(backbone, spectrogram)[layer]  # [heads, special, tokens]
    rows = rows.mean(axis=0) if head is None else rows[head]
    return _valid_patches(backbone, rows.mean(axis=0), frames)


def attention_rollout(model: ASTClassifier, waveform: Array) -> Array:
    """Returns the attention of the special tokens to each patch, through all blocks.

    The attention matrix of each block is averaged over heads and mixed with the identity, half
    each, which accounts for the residual connection. The matrices of all blocks are multiplied.

    Args:
        model: An `ASTClassifier` with a frontend.
        waveform: `[samples]`, float32 in [-1, 1], at the sample rate of the model.

    Returns:
        float32 `[mel, time]`, one value per patch. See `attention_map` for an example.

    Raises:
        InferenceError: If the model is causal.

    Reference:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    backbone = _require_plain_backbone(model)
    spectrogram, frames = valid_spectrogram(model, waveform)
    rollout = None
    for weights in _attention(backbone, spectrogram):
        mixed = tf.reduce_mean(tf.cast(weights[0], tf.float32), axis=0)
        mixed = (mixed + tf.eye(mixed.shape[0])) / 2
        rollout = mixed if rollout is None else tf.matmul(mixed, rollout)
    row = rollout[: backbone.num_special_tokens].numpy().mean(axis=0)
    return _valid_patches(backbone, row, frames)


def gradient_times_input(
    model: ASTClassifier, waveform: Array, class_index: int, steps: int = 16
) -> Array:
    """Returns the contribution of each spectrogram value to the logit of a class.

    The contribution is the gradient of the logit times the difference of the value from the mean of
    its mel bin. The gradient is averaged over points on the line from the mean spectrogram to the
    sound (integrated gradients), so that the contributions add up to the difference of the two
    logits. With the gradient at the sound alone (`steps=1`), a class with a confident score has
    almost no slope, and the rest is noise.

    Args:
        model: An `ASTClassifier` with a frontend.
        waveform: `[samples]`, float32 in [-1, 1], at the sample rate of the model.
        class_index: Index of the class.
        steps: Number of points on the line. Each costs a forward and a backward pass. 1 for the
            gradient at the sound itself.

    Returns:
        float32 `[frames, mel]`.

    Reference:
        Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating
        Activation Differences", 2016. Sundararajan et al., "Axiomatic Attribution for Deep
        Networks", ICML 2017.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype("float32")
    >>> gradient_times_input(model, waveform, class_index=0, steps=2).shape
    (98, 128)
    """
    spectrogram, frames = valid_spectrogram(model, waveform)
    valid = spectrogram[0, :frames]
    difference = np.zeros_like(spectrogram)
    difference[0, :frames] = valid - valid.mean(axis=0)
    # Distance of each point from the sound: the centres of `steps` equal parts of the line.
    distances = [0.0] if steps == 1 else 1 - (np.arange(steps) + 0.5) / steps

    @tf.function(input_signature=[tf.TensorSpec(spectrogram.shape, tf.float32)])
    def gradient(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logit = model.logits_from_spectrogram(inputs, training=False)[0, class_index]
        return tape.gradient(logit, inputs)

    total = np.zeros_like(valid)
    for distance in distances:
        total += gradient(spectrogram - np.float32(distance) * difference).numpy()[0, :frames]
    return total / steps * difference[0, :frames]


def occlusion(
    model: ASTClassifier,
    waveform: Array,
    class_index: int,
    width_seconds: float = 0.16,
    hop_seconds: float = 0.04,
    num_bands: int = 1,
) -> Array:
    """Returns the decrease of a class's logit when regions of the spectrogram are masked.

    A region is a time span in one of `num_bands` equal bands of the mel axis. It is replaced by the
    mean of each mel bin. The value of a frame is the mean decrease over the spans that include it.

    Args:
        model: An `ASTClassifier` with a frontend.
        waveform: `[samples]`, float32 in [-1, 1], at the sample rate of the model.
        class_index: Index of the class.
        width_seconds: Length of a span in seconds.
        hop_seconds: Seconds from the start of one span to that of the next, at most
            `width_seconds`.
        num_bands: Number of bands along the mel axis.

    Returns:
        float32 `[frames, mel]`.

    Raises:
        InferenceError: If the hop exceeds the width, or the number of bands is out of range.

    Reference:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype("float32")
    >>> occlusion(model, waveform, 0, width_seconds=0.5, hop_seconds=0.5).shape
    (98, 128)
    """
    spectrogram, frames = valid_spectrogram(model, waveform)
    step, mel = model.frontend.frame_step_seconds, spectrogram.shape[2]
    width, hop = max(1, round(width_seconds / step)), max(1, round(hop_seconds / step))
    if hop > width or not 1 <= num_bands <= mel:
        raise InferenceError(
            f"hop_seconds must be at most width_seconds, and num_bands between 1 and {mel}. "
            f"Received: hop_seconds={hop_seconds}, width_seconds={width_seconds}, "
            f"num_bands={num_bands}"
        )
    edges = np.linspace(0, mel, num_bands + 1).round().astype(int)
    # The first spans start before the sound, so that its first frames are in as many as others.
    regions = [
        (slice(max(0, first), first + width), slice(low, high))
        for first in range(hop - width, frames, hop)
        for low, high in itertools.pairwise(edges)
    ]
    compute = tf.function(
        lambda x: model.logits_from_spectrogram(x, training=False)[:, class_index],
        input_signature=[tf.TensorSpec((None, *spectrogram.shape[1:]), tf.float32)],
    )
    unmasked = float(compute(spectrogram)[0])
    mean = spectrogram[0, :frames].mean(axis=0)
    decreases, counts = np.zeros((2, frames, mel), np.float32)
    for first in range(0, len(regions), _BATCH):
        batch = regions[first : first + _BATCH]
        masked = np.repeat(spectrogram, len(batch), axis=0)
        for row, (time, band) in zip(masked, batch, strict=True):
            row[:frames][time, band] = mean[band]
        for logit, (time, band) in zip(compute(masked).numpy(), batch, strict=True):
            decreases[time, band] += unmasked - logit
            counts[time, band] += 1
    return decreases / np.maximum(counts, 1)


def class_index(model: ASTClassifier, name: str) -> int:
    """Returns the index of a class.

    Args:
        model: An `ASTClassifier`.
        name: Name of the class, its id, or its index as text.

    Raises:
        InferenceError: If there is no such class; the message suggests the nearest name.

    Example:

    >>> from ast_keras import LabelSet, from_preset
    >>> model = from_preset("ast_test", labels=LabelSet(("cat", "dog")), num_frames=98)
    >>> class_index(model, "dog"), class_index(model, "0")
    (1, 0)
    """
    labels = model.labels
    for names in (labels.names, labels.ids) if labels else ():
        if name in names:
            return names.index(name)
    if name.isdecimal() and int(name) < model.num_classes:
        return int(name)
    hint = (
        did_you_mean(name, labels.names) if labels else f"Classes are 0 to {model.num_classes - 1}."
    )
    raise InferenceError(f"There is no class of this name. {hint} Received: {name!r}")


def over_frames(backbone: ASTBackbone, grid: Array, num_frames: int) -> Array:
    """Spreads values of patches over the spectrogram.

    Each spectrogram value gets the mean of the patches that cover it, and 0 if none does.

    Args:
        backbone: The `ASTBackbone` that the patches belong to.
        grid: One value per patch, `[mel, time]`.
        num_frames: Number of frames of the result.

    Returns:
        float32 `[num_frames, mel]`.

    Example:

    >>> from ast_keras import from_preset
    >>> backbone = from_preset("ast_test", num_classes=2, num_frames=98).backbone
    >>> over_frames(backbone, np.ones((12, 9)), 98).shape
    (98, 128)
    """
    sums, counts = np.zeros((2, num_frames, backbone.num_mel_bins), np.float32)
    (height, width), (mel_stride, time_stride) = backbone.patch_size, backbone.strides
    for row, column in np.ndindex(grid.shape):
        frame, bin = column * time_stride, row * mel_stride
        covered = slice(frame, frame + width), slice(bin, bin + height)
        sums[covered] += grid[row, column]
        counts[covered] += 1
    return sums / np.maximum(counts, 1)


def valid_spectrogram(model: ASTClassifier, waveform: Array) -> tuple[Array, int]:
    """Returns the input of the backbone for one sound, and its number of valid frames.

    Args:
        model: An `ASTClassifier` with a frontend.
        waveform: `[samples]`, float32 in [-1, 1], at the sample rate of the model.

    Returns:
        Normalised spectrogram `[1, frames, mel]`, float32, and the number of frames before padding.

    Raises:
        ArgumentError: If the model takes spectrograms.
        InferenceError: If the sound is shorter than a frame.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> spectrogram, num_valid_frames = valid_spectrogram(model, np.zeros(8000, "float32"))
    >>> spectrogram.shape, num_valid_frames
    ((1, 98, 128), 48)
    """
    frontend = model.require_frontend()
    spectrogram = model.spectrogram(np.asarray(waveform, np.float32)[None]).numpy()
    frames = min(frontend.count_frames(len(waveform)), spectrogram.shape[1])
    if frames < 1:
        raise InferenceError(
            f"A sound shorter than one frame cannot be explained. Received: {len(waveform)} samples"
        )
    return spectrogram, frames


def _require_plain_backbone(model: ASTClassifier) -> ASTBackbone:
    """Returns the backbone; raises InferenceError if no single attention matrix spans the sound."""
    if isinstance(model.backbone, CausalASTBackbone):
        raise InferenceError(
            "A causal model has special tokens in every block, and no single attention map: use "
            "gradient_times_input or occlusion"
        )
    return model.backbone


def _attention(backbone: ASTBackbone, spectrogram: Array) -> Iterator[tf.Tensor]:
    """Yields each block's attention `[1, heads, tokens, tokens]`, one in memory at a time."""
    patches = backbone.get_layer("patches")(tf.constant(spectrogram))
    tokens, attention_mask = backbone.embed_tokens(patches)
    for block in backbone.blocks:
        yield block.attention_weights(tokens, attention_mask)
        tokens = block(tokens, attention_mask=attention_mask)


def _valid_patches(backbone: ASTBackbone, row: Array, frames: int) -> Array:
    """Returns the values of patches that start in a valid frame, `[mel, time]`, of a token row."""
    grid = row[backbone.num_special_tokens :].reshape(backbone.grid[0], -1)
    num_columns = -(-max(1, frames) // backbone.strides[1])
    return grid[:, :num_columns]

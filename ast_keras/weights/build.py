"""A network made into a classifier, fitted to the spectrogram and classes asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ast_keras.errors import LabelError, WeightsError
from ast_keras.labels import LabelSet
from ast_keras.layers.initializers import without_random_start
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.weights import resize
from ast_keras.weights.assign import assign_canonical, canonical_tensors
from ast_keras.weights.naming import CanonicalWeights
from ast_keras.weights.pretrained import PretrainedNetwork

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class ResizedWeights:
    """A source's tensors for one spectrogram size, and what was changed, by canonical name."""

    tensors: dict[str, Array]
    changes: dict[str, str]


def adapt(
    source: PretrainedNetwork,
    grid: resize.Grid,
    patch_size: resize.Grid,
    rgb_reduction: str = "sum",
    position_resize: str = "bilinear",
) -> ResizedWeights:
    """Fits a source's patch kernel and positions to a spectrogram's grid `(mel, time)`."""
    tensors, changes = dict(source.tensors), {}
    kernel = tensors["patch_embed.proj.weight"]
    adapted = resize.to_one_channel(kernel, rgb_reduction)
    steps = [] if adapted is kernel else [f"{kernel.shape[1]} channels to their {rgb_reduction}"]
    resized = resize.resize_kernel(adapted, patch_size)
    if resized is not adapted:
        steps.append(f"{_by(source.patch_size)} resized to {_by(patch_size)}")
    if steps:
        changes["patch_embed.proj.weight"] = ", ".join(steps)
    tensors["patch_embed.proj.weight"] = resized
    if grid != source.grid or position_resize not in ("bilinear", "nearest"):
        special = source.num_special_tokens
        tensors["pos_embed"] = resize.resize_positions(
            tensors["pos_embed"], special, source.grid, grid, position_resize
        )
        how = [
            f"{axis} {old} {'cut' if new < old else position_resize} to {new}"
            for axis, old, new in zip(("mel", "time"), source.grid, grid, strict=True)
            if old != new
        ]
        changes["pos_embed"] = "new, random" if position_resize == "reinit" else ", ".join(how)
    return ResizedWeights(tensors, changes)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


_ABSENT: Any = object()


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
    """Puts Python's search for garbage off: a model's many objects set it off, for nothing.

    It looks at every object there is, which after TensorFlow's import takes 0.2 s.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_garbage_left()
def build_classifier(
    source: PretrainedNetwork,
    num_classes: int | None = None,
    labels: LabelSet | None = None,
    *,
    strides: resize.Grid | None = None,
    num_frames: int | None = None,
    num_mel_bins: int | None = None,
    patch_size: resize.Grid | None = None,
    rgb_reduction: str = "sum",
    position_resize: str = "bilinear",
    frontend: Any = _ABSENT,
    augment: Any = None,
    score_activation: str | None = None,
    name: str = "ast",
    **backbone_arguments: Any,
) -> ASTClassifier:
    """Makes a classifier with a source's weights, fitted to the spectrogram that is asked for.

    Args:
      source: From `read_pretrained`.
      num_classes: Number of classes of a fresh head; None keeps the source's.
      labels: The classes. If they are the source's own, in any order, or name as many that had no
        names, its head is kept.
      strides: Step between patches `(mel, time)`; None for the source's, (10, 10) of an image's.
      num_frames: Frames; None for the source's, 1024 of an image's.
      num_mel_bins: Bins; None for the source's, 128 of an image's.
      patch_size: Patch extent `(mel, time)`; None for the source's.
      rgb_reduction: "sum" or "mean" of an image network's colour kernels.
      position_resize: "bilinear", "nearest" or "reinit"; how positions get to a larger grid.
      frontend: A `LogMelFilterbank`, or None for spectrogram input; left out, the source's.
      augment: As of `ASTClassifier`.
      score_activation: As of `ASTClassifier`; None for that of a kept head, else "softmax".
      name: Of the model.
      **backbone_arguments: Those of `ASTBackbone` that change no weight, as `dtype` and `padding`.

    Raises:
      WeightsError: If the source has no head and no classes are given.
    """
    head = choose_head(source, num_classes, labels)
    with without_random_start():
        backbone = ASTBackbone(
            embed_dim=source.embed_dim,
            num_layers=source.num_layers,
            num_heads=source.num_heads,
            mlp_dim=source.mlp_dim,
            num_mel_bins=_first(num_mel_bins, source.num_mel_bins, 128),
            num_frames=_first(num_frames, source.num_frames, 1024),
            patch_size=tuple(_first(patch_size, source.patch_size)),
            strides=tuple(_first(strides, source.strides, (10, 10))),
            use_distillation_token=source.use_distillation_token,
            layer_norm_epsilon=source.layer_norm_epsilon,
            name="backbone",
            **backbone_arguments,
        )
    if frontend is _ABSENT:
        frontend = _frontend(source, backbone)
    model = ASTClassifier(
        backbone,
        head.num_classes,
        frontend=frontend,
        augment=augment,
        labels=head.labels,
        score_activation=score_activation or head.score_activation,
        head_layer_norm_epsilon=source.head_layer_norm_epsilon,
        name=name,
    )
    adapted = adapt(source, backbone.grid, backbone.patch_size, rgb_reduction, position_resize)
    tensors = {n: t for n, t in adapted.tensors.items() if not n.startswith("mlp_head.")}
    assign_canonical(model, tensors | head.tensors)
    return model


def to_causal(model: ASTClassifier, block_columns: int, past_blocks: int) -> ASTClassifier:
    """Makes a classifier for streams with a model's weights, to be fine-tuned.

    Its filterbank leaves the mean over the clip in, which a stream does not have.

    Args:
      model: An `ASTClassifier`.
      block_columns: Patches along time in a block: 10 are a second, of the usual patches.
      past_blocks: How many earlier blocks are attended to.

    Raises:
      ValueError: If a number is out of its range.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=1024)
    >>> to_causal(model, block_columns=10, past_blocks=4).backbone.num_frames
    506
    """
    source = as_pretrained(model)
    with without_random_start():
        backbone = CausalASTBackbone.from_backbone(model.backbone, block_columns, past_blocks)
    frontend = model.frontend
    if frontend is not None:
        changes = {"num_frames": backbone.num_frames, "remove_waveform_mean": False}
        frontend = LogMelFilterbank.from_config({**frontend.get_config(), **changes})
    causal = ASTClassifier(
        backbone,
        model.num_classes,
        frontend=frontend,
        augment=model.augment,
        labels=model.labels,
        score_activation=model.score_activation,
        head_layer_norm_epsilon=model.head_layer_norm_epsilon,
        name=model.name,
    )
    adapted = adapt(source, backbone.grid, backbone.patch_size)
    assign_canonical(causal, adapted.tensors)
    return causal


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a classifier to come: the source's tensors, or none for a fresh one."""

    num_classes: int
    labels: LabelSet | None
    tensors: dict[str, Array]
    moved: bool = False  # the source's, its outputs in another order
    score_activation: str = "softmax"


def choose_head(
    source: PretrainedNetwork, num_classes: int | None, labels: LabelSet | None
) -> Head:
    """Decides between the source's head, perhaps in another order, and a fresh one."""
    own = {name: t for name, t in source.tensors.items() if name.startswith("mlp_head.")}
    activation = source.score_activation or "softmax"
    if labels is None:
        if num_classes is not None:
            return Head(num_classes, None, {})
        if source.num_classes is None:
            raise WeightsError(
                f"{source.weights.variant} has no head for sounds: give num_classes or labels"
            )
        return Head(source.num_classes, source.labels, own, score_activation=activation)
    if num_classes not in (None, len(labels)):
        raise WeightsError(
            "There must be one label for each class: leave num_classes out. "
            f"Received: {len(labels)} labels, num_classes={num_classes}"
        )
    if source.labels is None and source.num_classes == len(labels):
        # As many classes without names: the names are given here.
        return Head(len(labels), labels, own, score_activation=activation)
    try:
        order = source.labels.indices_of(labels) if source.labels else None
    except LabelError:
        order = None
    if order is None:
        return Head(len(labels), labels, {})
    for name in ("mlp_head.1.weight", "mlp_head.1.bias"):
        own[name] = own[name][list(order)]
    moved = order != tuple(range(len(order)))
    return Head(len(labels), labels, own, moved, activation)


def _frontend(source: PretrainedNetwork, backbone: ASTBackbone) -> LogMelFilterbank:
    normalisation = {} if source.mean is None else {"mean": source.mean, "std": source.std}
    return LogMelFilterbank(
        sample_rate=source.sample_rate,
        num_mel_bins=backbone.num_mel_bins,
        num_frames=backbone.num_frames,
        name="fbank",
        **normalisation,
    )


def as_pretrained(model: ASTClassifier) -> PretrainedNetwork:
    """Returns one of our own models as a source, to fit it to another spectrogram size."""
    backbone, frontend = model.backbone, model.frontend
    tensors = canonical_tensors(model)
    sound = {} if frontend is None else {
        "mean": frontend.mean, "std": frontend.std, "sample_rate": frontend.sample_rate
    }  # fmt: skip
    return PretrainedNetwork(
        weights=CanonicalWeights(
            "ours", "an ast-keras model", tensors, {n: (n,) for n in tensors}, {}
        ),
        num_heads=backbone.num_heads,
        grid=backbone.grid,
        num_mel_bins=backbone.num_mel_bins,
        num_frames=backbone.num_frames,
        strides=backbone.strides,
        layer_norm_epsilon=backbone.layer_norm_epsilon,
        head_layer_norm_epsilon=model.head_layer_norm_epsilon,
        labels=model.labels,
        score_activation=model.score_activation,
        **sound,
    )

"""Builds a classifier from a pretrained network, for the requested spectrogram and classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.errors import WeightsError
from ast_keras.layers.initializers import skip_random_initialization
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.models.trainable_parts import trainable_parts, with_trainable_parts
from ast_keras.weights import resize
from ast_keras.weights.assign import assign_canonical, canonical_tensors
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import Head, choose_head
from ast_keras.weights.naming import CanonicalWeights
from ast_keras.weights.pretrained import PretrainedNetwork

Array = np.ndarray[Any, np.dtype[Any]]

# Value of `frontend` that asks for a filterbank with the network's own settings.
NETWORK_FRONTEND: Any = object()

# Backbone arguments that the tensors or the geometry decide.
ARCHITECTURE_ARGUMENTS = frozenset(
    {
        *("embed_dim", "num_layers", "num_heads", "mlp_dim", "use_distillation_token"),
        *("num_mel_bins", "num_frames", "patch_size", "strides", "layer_norm_epsilon"),
        *("name", "trainable", "trainable_parts"),
    }
)


@dataclasses.dataclass(frozen=True)
class ResizedWeights:
    """Tensors fitted to one spectrogram size.

    Args:
        tensors: The tensors by canonical name.
        changes: A description of each change by canonical name.
    """

    tensors: dict[str, Array]
    changes: dict[str, str]


def adapt(
    network: PretrainedNetwork,
    grid: resize.Grid,
    patch_size: resize.Grid,
    rgb_reduction: str = "sum",
    position_resize: str = "bilinear",
) -> ResizedWeights:
    """Fits the patch kernel and the position embeddings to another spectrogram.

    Args:
        network: The pretrained network.
        grid: Number of patches `(mel, time)` of the new spectrogram.
        patch_size: New patch size `(mel, time)`.
        rgb_reduction: "sum" or "mean": how colour channels are reduced to one.
        position_resize: "bilinear", "nearest" or "reinit" (see `resize_positions`).

    Returns:
        All tensors, and what was changed.
    """
    tensors, changes = dict(network.tensors), {}
    kernel = tensors["patch_embed.proj.weight"]
    adapted = resize.to_one_channel(kernel, rgb_reduction)
    steps = []
    if adapted is not kernel:
        steps.append(f"{kernel.shape[1]} channels reduced to their {rgb_reduction}")
    resized = resize.resize_kernel(adapted, patch_size)
    if resized is not adapted:
        steps.append(f"{_by(network.patch_size)} resized to {_by(patch_size)}")
    if steps:
        changes["patch_embed.proj.weight"] = ", ".join(steps)
    tensors["patch_embed.proj.weight"] = resized
    if grid != network.grid or position_resize not in ("bilinear", "nearest"):
        tensors["pos_embed"] = resize.resize_positions(
            tensors["pos_embed"], network.num_special_tokens, network.grid, grid, position_resize
        )
        axes = [
            f"{axis} {old} {'cut' if new < old else position_resize} to {new}"
            for axis, old, new in zip(("mel", "time"), network.grid, grid, strict=True)
            if old != new
        ]
        changes["pos_embed"] = "new, random" if position_resize == "reinit" else ", ".join(axes)
    return ResizedWeights(tensors, changes)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def build_classifier(
    network: PretrainedNetwork,
    head: Head | None = None,
    geometry: Geometry | None = None,
    *,
    frontend: LogMelFilterbank | None = NETWORK_FRONTEND,
    augment: Any = None,
    name: str = "ast",
    **backbone_arguments: Any,
) -> ASTClassifier:
    """Builds a classifier with pretrained weights.

    The backbone has the network's own class and arguments, so that a causal network stays causal.

    Args:
        network: The pretrained network, from `read_pretrained` or `as_pretrained`.
        head: The head, from `choose_head`; None keeps the network's.
        geometry: The requested spectrogram; None keeps the network's.
        frontend: A `LogMelFilterbank`, or None for a model that takes spectrograms. By default, a
            filterbank with the network's range and normalisation.
        augment: A `SpectrogramAugment`, or None.
        name: Name of the model.
        **backbone_arguments: Arguments of the backbone that change no weight, such as `dtype` and
            `padding`. They override those of the network.

    Returns:
        The classifier.

    Raises:
        WeightsError: If the network has no head and none is given, or if the backbone cannot take
            one of the arguments.
        ArgumentError: If the geometry or an argument breaks a rule of the backbone.

    Example:

    >>> from ast_keras import from_preset
    >>> network = as_pretrained(from_preset("ast_test", num_classes=2, num_frames=64))
    >>> build_classifier(network, geometry=Geometry(num_frames=128)).backbone.num_frames
    128
    """
    head = head or choose_head(network)
    geometry = geometry or Geometry()
    arguments = {**network.backbone_arguments, **backbone_arguments}
    with skip_random_initialization():
        backbone = (network.backbone_class or ASTBackbone)(
            embed_dim=network.embed_dim,
            num_layers=network.num_layers,
            num_heads=network.num_heads,
            mlp_dim=network.mlp_dim,
            num_mel_bins=_first(geometry.num_mel_bins, network.num_mel_bins, 128),
            num_frames=_first(geometry.num_frames, network.num_frames, 1024),
            patch_size=tuple(_first(geometry.patch_size, network.patch_size)),
            strides=tuple(_first(geometry.strides, network.strides, (10, 10))),
            use_distillation_token=network.use_distillation_token,
            layer_norm_epsilon=network.layer_norm_epsilon,
            name="backbone",
            **arguments,
        )
    _require_taken(backbone, backbone_arguments)
    if frontend is NETWORK_FRONTEND:
        frontend = make_frontend(network, backbone.num_frames, backbone.num_mel_bins)
    return _assemble(network, backbone, head, geometry, frontend, augment, name)


def _assemble(
    network: PretrainedNetwork,
    backbone: ASTBackbone,
    head: Head,
    geometry: Geometry,
    frontend: LogMelFilterbank | None,
    augment: Any,
    name: str,
) -> ASTClassifier:
    """Returns a classifier on a new backbone, with the weights of a network."""
    model = ASTClassifier(
        backbone,
        head.num_classes,
        frontend=frontend,
        augment=augment,
        labels=head.labels,
        head_layer_norm_epsilon=network.head_layer_norm_epsilon,
        thresholds=head.thresholds,
        name=name,
    )
    model.suggest_score_activation(head.score_activation or "softmax")
    methods = (geometry.rgb_reduction, geometry.position_resize)
    adapted = adapt(network, backbone.grid, backbone.patch_size, *methods)
    tensors = {n: t for n, t in adapted.tensors.items() if not n.startswith("mlp_head.")}
    assign_canonical(model, tensors | head.tensors)
    # What was frozen stays frozen, but a fresh head has to train.
    kept = ("backbone", "head") if head.tensors else ("backbone",)
    parts = network.trainable_parts.items()
    return with_trainable_parts(model, {path: v for path, v in parts if path.startswith(kept)})


def _first(*values: Any) -> Any:
    """Returns the first value that is not None; zero counts as a value."""
    return next(value for value in values if value is not None)


def _require_taken(backbone: ASTBackbone, arguments: Mapping[str, Any]) -> None:
    """Refuses an argument that the backbone replaces by its own, such as a causal one's padding."""
    for name, value in arguments.items():
        actual = getattr(backbone, name, value)
        if name != "dtype" and actual != value:
            raise WeightsError(
                f"A {type(backbone).__name__} always has {name}={actual!r}: leave {name} out. "
                f"Received: {name}={value!r}"
            )


def make_frontend(
    network: PretrainedNetwork, num_frames: int, num_mel_bins: int
) -> LogMelFilterbank:
    """Returns a filterbank with a network's range and normalisation, of the given size."""
    known = dataclasses.asdict(network.filterbank_range or FilterbankRange())
    normalisation = {} if network.mean is None else {"mean": network.mean, "std": network.std}
    return LogMelFilterbank(
        num_mel_bins=num_mel_bins,
        num_frames=num_frames,
        name="fbank",
        **known,
        **normalisation,
    )


def as_pretrained(model: ASTClassifier) -> PretrainedNetwork:
    """Returns a classifier as a pretrained network, from which another one can be built.

    The class and the arguments of its backbone are part of the network.
    """
    backbone, frontend = model.backbone, model.frontend
    tensors = canonical_tensors(model)
    config = backbone.get_config()
    arguments = {name: config[name] for name in config if name not in ARCHITECTURE_ARGUMENTS}
    arguments["dtype"] = backbone.policy
    audio = {}
    if frontend is not None:
        audio = {
            "mean": frontend.mean,
            "std": frontend.std,
            "filterbank_range": FilterbankRange.of(frontend),
        }
    return PretrainedNetwork(
        weights=CanonicalWeights(
            "ours", "an ast-keras model", tensors, {name: (name,) for name in tensors}, {}
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
        thresholds=model.thresholds,
        backbone_class=type(backbone),
        backbone_arguments=arguments,
        trainable_parts=trainable_parts(model, trainable=True),
        **audio,
    )


def to_causal(model: ASTClassifier, block_columns: int, past_blocks: int) -> ASTClassifier:
    """Builds a classifier for streams from the weights of another one, to be fine-tuned.

    Its filterbank does not subtract the mean of the waveform, which is unknown in a stream.

    Args:
        model: An `ASTClassifier`.
        block_columns: Number of patches along time in a block; 10 are one second with the usual
            strides.
        past_blocks: Number of earlier blocks that a block attends to.

    Returns:
        A classifier whose backbone is a `CausalASTBackbone`.

    Raises:
        ArgumentError: If a number is out of its range.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=1024)
    >>> to_causal(model, block_columns=10, past_blocks=4).backbone.num_frames
    506
    """
    network = dataclasses.replace(as_pretrained(model), thresholds=None)  # its scores are others
    with skip_random_initialization():
        backbone = CausalASTBackbone.from_backbone(model.backbone, block_columns, past_blocks)
    frontend = model.frontend
    if frontend is not None:
        changes = {"num_frames": backbone.num_frames, "remove_waveform_mean": False}
        frontend = LogMelFilterbank.from_config({**frontend.get_config(), **changes})
    parts = {"frontend": frontend, "augment": model.augment, "name": model.name}
    return _assemble(network, backbone, choose_head(network), Geometry(), **parts)

"""Models by name or from files: new models, released weights, saved models, other formats."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pathlib
from typing import Any, TypeVar

from ast_keras.errors import WeightsError, did_you_mean
from ast_keras.labels import Labels, LabelSet, labels_of_classes
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets import hub
from ast_keras.presets.released import PUBLISHED, ReleasedWeights
from ast_keras.presets.saved_paths import is_saved_model, saved_model_path, similar_path
from ast_keras.presets.saving import load_saved_filterbank, load_saved_model, save_to_preset
from ast_keras.weights.build import (
    ARCHITECTURE_ARGUMENTS,
    NETWORK_FRONTEND,
    as_pretrained,
    build_classifier,
    make_frontend,
)
from ast_keras.weights.config_files import NetworkSettings
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import Head, choose_head
from ast_keras.weights.pretrained import PretrainedNetwork, read_pretrained

__all__ = [
    "SIZES",
    "FileHints",
    "Preset",
    "WeightsError",
    "backbone_from_preset",
    "filterbank_from_preset",
    "from_preset",
    "read_preset",
    "save_to_preset",
]

# The sizes of DeiT, and two small ones for tests and for training on a laptop.
SIZES: dict[str, dict[str, int]] = {
    "ast_test": {"embed_dim": 48, "num_layers": 2, "num_heads": 3, "mlp_dim": 96},
    "ast_nano": {"embed_dim": 96, "num_layers": 4, "num_heads": 3, "mlp_dim": 384},
    "ast_tiny": {"embed_dim": 192, "num_layers": 12, "num_heads": 3, "mlp_dim": 768},
    "ast_small": {"embed_dim": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536},
    "ast_base": {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
}

_CLASSIFIER_ARGUMENTS = ("frontend", "augment", "score_activation", "head_layer_norm_epsilon")
# Arguments of the backbone that no weight depends on, so that they can be set on loading.
_BACKBONE_OPTIONS = frozenset(inspect.signature(ASTBackbone).parameters) - ARCHITECTURE_ARGUMENTS

_Fields = TypeVar("_Fields")


@dataclasses.dataclass(frozen=True)
class FileHints:
    """Facts about weights files that their content may not show.

    Args:
        format: "authors", "timm", "transformers" or "model_garden"; None to detect it.
        num_heads: Number of attention heads; None if the files state it or heads are 64 wide.
    """

    format: str | None = None
    num_heads: int | None = None


@dataclasses.dataclass(frozen=True)
class Preset:
    """Pretrained weights, and the other parts of a saved model.

    Args:
        network: The weights and the architecture.
        name: Name of the model to build.
        frontend: A `LogMelFilterbank`; None for a model that takes spectrograms. By default, a
            filterbank with the network's settings.
        augment: A `SpectrogramAugment`, or None.
    """

    network: PretrainedNetwork
    name: str = "ast"
    frontend: LogMelFilterbank | None = NETWORK_FRONTEND
    augment: Any = None


def from_preset(
    preset: str | os.PathLike[str],
    num_classes: int | None = None,
    labels: Labels | None = None,
    **overrides: Any,
) -> ASTClassifier:
    """Loads or creates a classifier.

    | `preset` | result |
    |---|---|
    | a name in `SIZES`, such as "ast_base" | a model with random weights |
    | a name in `PUBLISHED`, such as "ast_base_audioset" | released weights, downloaded once |
    | a folder written by `save_to_preset`, a `.keras` file of `model.save` \
| the saved model, bit for bit |
    | the work directory of a run | its model; while it trains, the best so far |
    | a weights file (safetensors, PyTorch, TensorFlow) of an AST, DeiT or ViT, or its folder \
| its weights, resized to the requested spectrogram |

    If `num_frames`, `strides`, `num_mel_bins` or `patch_size` differ from those of the weights,
    position embeddings are cut or interpolated, and patch kernels summed or resized, as in the
    authors' code. A saved model keeps the class of its backbone: a causal model stays causal.

    Args:
        preset: A name, a folder or a file; see the table above.
        num_classes: Number of classes of a fresh head. None keeps the existing head.
        labels: The classes, a `LabelSet` or a list of names; they imply `num_classes`. If they are
            the classes of the existing head, that head is kept, with its outputs in the order of
            the labels. Otherwise the head is fresh.
        **overrides: For a new model, arguments of `ASTBackbone`. For pretrained weights, `dtype`
            and any other argument of `ASTBackbone` that changes no weight (such as `padding`,
            `dropout` and `merge_tokens`), and `num_frames`, `num_mel_bins`, `patch_size`,
            `strides`, `rgb_reduction` and `position_resize` (see `Geometry`). For weights files,
            also `format` and `num_heads`. For all, `frontend` (a `LogMelFilterbank`, or None for
            a model that takes spectrograms), `augment` and `score_activation`.

    Returns:
        The classifier.

    Raises:
        WeightsError: If there is no such preset, if an argument does not apply to it, if released
            weights cannot be downloaded, or if a file does not hold such a network.
        LabelError: If `num_classes` is not the number of labels.

    Example:

    >>> model = from_preset("ast_test", num_classes=10, num_frames=128)
    >>> model.count_params() > 50_000
    True
    """
    name = saved_model_path(os.fspath(preset))
    labels = labels_of_classes(labels, num_classes)
    if name in SIZES:
        return _new_classifier(name, num_classes, labels, overrides)
    if is_saved_model(pathlib.Path(name)) and not overrides and num_classes is labels is None:
        return load_saved_model(pathlib.Path(name))
    hints = _take_fields(FileHints, overrides)
    _require_applicable(overrides)
    geometry = _take_fields(Geometry, overrides)
    loaded = read_preset(name, hints, geometry)
    head = choose_head(loaded.network, num_classes, labels)
    parts = {"frontend": loaded.frontend, "augment": loaded.augment, "name": loaded.name}
    activation = overrides.pop("score_activation", None)
    model = build_classifier(loaded.network, head, geometry, **(parts | overrides))
    model.score_activation = activation
    return model


def backbone_from_preset(
    preset: str | os.PathLike[str], kind: type[ASTBackbone] = ASTBackbone, **overrides: Any
) -> ASTBackbone:
    """Loads or creates a backbone, without filterbank and head.

    Args:
        preset: A name, a folder or a file, as for `from_preset`.
        kind: Class that the backbone must have, such as `CausalASTBackbone`.
        **overrides: Arguments of the backbone, and `format` and `num_heads` of weights files, as
            for `from_preset`.

    Returns:
        The backbone, of the class that the preset has.

    Raises:
        WeightsError: As `from_preset`, or if the preset holds another kind of backbone.

    Example:

    >>> backbone_from_preset("ast_test", num_frames=128).grid
    (12, 12)
    """
    backbone = _any_backbone(saved_model_path(os.fspath(preset)), overrides)
    if not isinstance(backbone, kind):
        raise WeightsError(
            f"This preset holds another kind of backbone: use {type(backbone).__name__}"
            ".from_preset, or ast_keras.to_causal for a causal model. "
            f"Received: {kind.__name__}.from_preset({os.fspath(preset)!r})"
        )
    return backbone


def _any_backbone(name: str, overrides: dict[str, Any]) -> ASTBackbone:
    if name in SIZES:
        return _new_backbone(name, overrides)
    if is_saved_model(pathlib.Path(name)) and not overrides:
        return load_saved_model(pathlib.Path(name)).backbone
    hints = _take_fields(FileHints, overrides)
    _require_applicable(overrides, without=_CLASSIFIER_ARGUMENTS)
    geometry = _take_fields(Geometry, overrides)
    network = read_preset(name, hints, geometry).network
    fresh_head = Head(num_classes=1, labels=None, tensors={})
    return build_classifier(network, fresh_head, geometry, frontend=None, **overrides).backbone


def filterbank_from_preset(preset: str | os.PathLike[str], **overrides: Any) -> LogMelFilterbank:
    """Loads or creates the filterbank that belongs to a preset. No weights are downloaded.

    Args:
        preset: A name, a folder or a file, as for `from_preset`.
        **overrides: Arguments of `LogMelFilterbank` that replace those of the preset.

    Returns:
        The filterbank.

    Raises:
        WeightsError: If there is no such preset, or if it has no filterbank because it takes
            spectrograms or images.

    Example:

    >>> filterbank_from_preset("ast_base_speech_commands").num_frames
    128
    """
    name = saved_model_path(os.fspath(preset))
    released = _find_released(name)
    if name in SIZES:
        frontend = LogMelFilterbank(num_frames=1024, num_mel_bins=128, name="fbank")
    elif is_saved_model(pathlib.Path(name)):
        frontend = load_saved_filterbank(pathlib.Path(name))
    elif released is not None:
        if released.kind != "ast":
            raise WeightsError(
                "The weights of an image network have no filterbank: create a LogMelFilterbank. "
                f"Received: preset={name!r}"
            )
        frontend = LogMelFilterbank(
            num_frames=released.num_frames, mean=released.mean, std=released.std, name="fbank"
        )
    else:
        network = read_preset(name).network
        frontend = make_frontend(network, network.num_frames or 1024, network.num_mel_bins or 128)
    return LogMelFilterbank.from_config({**frontend.get_config(), **overrides})


def _take_fields(kind: type[_Fields], overrides: dict[str, Any]) -> _Fields:
    """Moves the fields of a dataclass from the overrides to a new object."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: overrides.pop(name) for name in names if name in overrides})


def _require_applicable(overrides: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    names = {field.name for field in dataclasses.fields(Geometry)} | _BACKBONE_OPTIONS
    names = (names | {"frontend", "augment", "score_activation"}) - set(without)
    for name in overrides:
        if name not in names:
            raise WeightsError(
                f"{name} cannot be set for a model with weights, which keeps its architecture. "
                f"{did_you_mean(name, sorted(names))} Received: {name}"
            )


def _new_classifier(
    name: str, num_classes: int | None, labels: LabelSet | None, overrides: dict[str, Any]
) -> ASTClassifier:
    if num_classes is labels is None:
        raise WeightsError(f"A new model needs num_classes or labels. Received: preset={name!r}")
    parts = {key: overrides.pop(key) for key in _CLASSIFIER_ARGUMENTS if key in overrides}
    backbone = _new_backbone(name, overrides)
    if "frontend" not in parts:
        parts["frontend"] = LogMelFilterbank(
            num_frames=backbone.num_frames, num_mel_bins=backbone.num_mel_bins, name="fbank"
        )
    return ASTClassifier(backbone, num_classes or len(labels), labels=labels, name=name, **parts)


def _new_backbone(name: str, overrides: dict[str, Any]) -> ASTBackbone:
    try:
        return ASTBackbone(**{**SIZES[name], **overrides}, name="backbone")
    except TypeError as error:
        raise WeightsError(f"ASTBackbone has no such argument: {error}") from None


def read_preset(
    name: str, hints: FileHints | None = None, fallback_geometry: Geometry | None = None
) -> Preset:
    """Reads pretrained weights without building a model.

    The name of a size, such as "ast_base", stands for a new model without weights and is refused.

    Args:
        name: The name of released weights, the folder of a saved model or of its run, a `.keras`
            file, or a file or folder of weights in another format.
        hints: Format and number of heads, for files that do not show them.
        fallback_geometry: The requested spectrogram. A saved filterbank is fitted to it. A weights
            file that does not state its geometry is tried with it.

    Returns:
        The weights, and the parts of a saved model.

    Raises:
        WeightsError: As `from_preset`.
    """
    hints, fallback_geometry = hints or FileHints(), fallback_geometry or Geometry()
    name = saved_model_path(name)
    path = pathlib.Path(name)
    if is_saved_model(path):
        return _read_saved(path, hints, fallback_geometry)
    released = _find_released(name)
    if released is not None and not path.exists():
        return Preset(_read_released(released, hints), name=released.size)
    if not path.exists() and not path.with_name(f"{path.name}.index").is_file():
        similar = similar_path(path)
        if path.suffix or path.name != name:
            raise WeightsError(f"There is no such file or folder. {similar}Received: {name}")
        raise WeightsError(
            "A preset is a name, the folder of a saved model, or a file of weights. "
            f"{similar or did_you_mean(name, [*SIZES, *PUBLISHED]) + ' '}"
            f"Received: preset={name!r}"
        )
    return Preset(
        read_pretrained(path, hints.format, hints.num_heads, fallback_geometry=fallback_geometry)
    )


def _find_released(name: str) -> ReleasedWeights | None:
    return next((row for row in PUBLISHED.values() if name in (row.name, row.hub_id)), None)


def _read_saved(folder: pathlib.Path, hints: FileHints, fallback_geometry: Geometry) -> Preset:
    saved = load_saved_model(folder)
    stored = FileHints(num_heads=saved.backbone.num_heads)
    for name in ("format", "num_heads"):
        if getattr(hints, name) not in (None, getattr(stored, name)):
            raise WeightsError(
                f"A saved model states its own {name}: leave {name} out. "
                f"Received: {name}={getattr(hints, name)!r}"
            )
    frontend = saved.frontend
    if frontend is not None:
        size = {key: getattr(fallback_geometry, key) for key in ("num_frames", "num_mel_bins")}
        size = {key: value for key, value in size.items() if value is not None}
        frontend = LogMelFilterbank.from_config({**frontend.get_config(), **size})
    return Preset(as_pretrained(saved), saved.name, frontend, saved.augment)


def _read_released(released: ReleasedWeights, hints: FileHints) -> PretrainedNetwork:
    size = SIZES[released.size]
    file = hub.fetch(released)
    num_heads = hints.num_heads or size["num_heads"]
    network = read_pretrained(file, hints.format, num_heads, known=_known_settings(released))
    found = {name: getattr(network, name) for name in size}
    if found != size:
        raise WeightsError(
            f"The weights of {released.name} must be those of {released.size}, {_listed(size)}. "
            f"Received: {_listed(found)} in {file}"
        )
    return network


def _listed(size: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in size.items())


def _known_settings(released: ReleasedWeights) -> NetworkSettings:
    if released.kind != "ast":
        return NetworkSettings()
    return NetworkSettings(
        strides=released.strides,
        num_frames=released.num_frames,
        mean=released.mean,
        std=released.std,
        labels=LabelSet.load(released.labels) if released.labels else None,
        score_activation=released.score_activation,
    )

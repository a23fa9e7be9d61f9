"""Classifiers by name: new sizes, published weights, saved models, files of others."""

from __future__ import annotations

import inspect
import os
import pathlib
from typing import Any

from ast_keras.errors import WeightsError, did_you_mean
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.token_options import TokenOptions
from ast_keras.presets import hub
from ast_keras.presets.released import PUBLISHED, ReleasedWeights
from ast_keras.presets.saving import is_saved_model, load_saved_model, save_to_preset
from ast_keras.weights.build import as_pretrained, build_classifier
from ast_keras.weights.pretrained import PretrainedNetwork, read_pretrained

__all__ = ["SIZES", "WeightsError", "from_preset", "read_preset", "save_to_preset"]

# The sizes of DeiT, and two small ones: for tests, and for training on a laptop.
SIZES: dict[str, dict[str, int]] = {
    "ast_test": {"embed_dim": 48, "num_layers": 2, "num_heads": 3, "mlp_dim": 96},
    "ast_nano": {"embed_dim": 96, "num_layers": 4, "num_heads": 3, "mlp_dim": 384},
    "ast_tiny": {"embed_dim": 192, "num_layers": 12, "num_heads": 3, "mlp_dim": 768},
    "ast_small": {"embed_dim": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536},
    "ast_base": {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
}

_CLASSIFIER_ARGUMENTS = ("frontend", "augment", "score_activation", "head_layer_norm_epsilon")
_READING_ARGUMENTS = ("format", "num_heads")
# What may be set on loading, since no weight depends on it.
_DIALS = (
    *("dropout", "attention_dropout", "drop_path", "gradient_checkpointing"),
    *TokenOptions.names(),
)
_FITTING_ARGUMENTS = frozenset(
    name
    for name, parameter in inspect.signature(build_classifier).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "name"
) | {"dtype", *_DIALS}


def from_preset(
    preset: str | os.PathLike[str],
    num_classes: int | None = None,
    labels: LabelSet | None = None,
    **overrides: Any,
) -> ASTClassifier:
    """Makes a classifier from a name or from files, fitted to the spectrogram that is asked for.

    | `preset` | gives |
    |---|---|
    | a name of `SIZES`, as "ast_base" | random weights |
    | a name of `PUBLISHED`, as "ast_base_audioset" | published weights, fetched once |
    | a folder that `save_to_preset` wrote | that model, equal to the bit |
    | a safetensors, PyTorch or TensorFlow file of an AST, DeiT or ViT, or its folder | those |

    With other `num_frames`, `strides`, `num_mel_bins` or `patch_size` than the weights were made
    for, positions are cut or interpolated and patch kernels summed or resized, as the authors do.

    Args:
      preset: See above.
      num_classes: Number of classes of a fresh head. None keeps the head there is.
      labels: The classes; implies `num_classes`. The head is kept, its outputs in the order of the
        labels, if they are the classes it has; else it is fresh.
      **overrides: For a size, arguments of `ASTBackbone`. For weights, `num_frames`, `strides`,
        `num_mel_bins`, `patch_size`, `rgb_reduction`, `position_resize` (see `build_classifier`),
        and what changes no weight: `dropout`, `attention_dropout`, `drop_path`, `padding`,
        `patchout`, `patchout_mel`, `patchout_time`, `merge_tokens`,
        `gradient_checkpointing` and `dtype`; for files, `format` and `num_heads` too.
        For all, `frontend` (a `LogMelFilterbank`, or None for spectrogram input), `augment` and
        `score_activation`.

    Raises:
      WeightsError: If there is no such preset, or an argument does not apply.
      WeightsError: If published weights are not here and cannot be fetched.
      WeightsError: If a file does not hold the weights of such a network.

    Example:

    >>> model = from_preset("ast_test", num_classes=10, num_frames=128)
    >>> model.count_params() > 50_000
    True
    """
    name = os.fspath(preset)
    num_classes = _count_classes(num_classes, labels)
    if name in SIZES:
        return _from_size(name, num_classes, labels, overrides)
    if is_saved_model(pathlib.Path(name)) and not overrides and num_classes is None:
        return load_saved_model(pathlib.Path(name))
    reading = {key: overrides.pop(key) for key in _READING_ARGUMENTS if key in overrides}
    _require_fitting(overrides)
    source, parts = read_preset(name, reading, overrides)
    return build_classifier(
        source, None if labels else num_classes, labels, **{**parts, **overrides}
    )


def _count_classes(num_classes: int | None, labels: LabelSet | None) -> int | None:
    if labels is None:
        return num_classes
    if num_classes not in (None, len(labels)):
        raise WeightsError(
            "There must be one label for each class: leave num_classes out. "
            f"Received: {len(labels)} labels, num_classes={num_classes}"
        )
    return len(labels)


def _from_size(
    name: str, num_classes: int | None, labels: LabelSet | None, overrides: dict[str, Any]
) -> ASTClassifier:
    if num_classes is None:
        raise WeightsError(f"A new model needs num_classes or labels. Received: preset={name!r}")
    parts = {key: overrides.pop(key) for key in _CLASSIFIER_ARGUMENTS if key in overrides}
    try:
        backbone = ASTBackbone(**{**SIZES[name], **overrides}, name="backbone")
    except TypeError as error:
        raise WeightsError(f"This is no argument of the model: {error}") from None
    if "frontend" not in parts:
        parts["frontend"] = LogMelFilterbank(
            num_frames=backbone.num_frames, num_mel_bins=backbone.num_mel_bins, name="fbank"
        )
    return ASTClassifier(backbone, num_classes, labels=labels, name=name, **parts)


def read_preset(
    name: str, reading: dict[str, Any], wanted: dict[str, Any]
) -> tuple[PretrainedNetwork, dict[str, Any]]:
    """Reads weights without making a model of them; sizes have none to read.

    Args:
      name: A published name, a saved model's folder, or a file or folder of foreign weights.
      reading: `format` and `num_heads` of foreign weights, where they do not show it.
      wanted: Arguments of `build_classifier` to come, of which the spectrogram's size is tried as
        that of the weights, where nothing else says it.

    Returns:
      The weights, and arguments of `build_classifier` for what comes along with them.

    Raises:
      WeightsError, WeightsError, WeightsError: As `from_preset`.
    """
    path = pathlib.Path(name)
    if is_saved_model(path):
        saved = load_saved_model(path)
        for key, own in (("format", None), ("num_heads", saved.backbone.num_heads)):
            if reading.get(key) not in (None, own):
                raise WeightsError(
                    f"A saved model says this itself. Received: {key}={reading[key]!r}"
                )
        return as_pretrained(saved), _saved_parts(saved, wanted)
    published = next((p for p in PUBLISHED.values() if name in (p.name, p.hub_id)), None)
    if published is not None and not path.exists():
        return _read_published(published, reading), {"name": published.size}
    if not path.exists() and not path.with_name(f"{path.name}.index").is_file():
        if path.suffix or path.name != name:
            raise WeightsError(f"There is no such file or folder. Received: {name}")
        raise WeightsError(
            "A preset is a name, the folder of a saved model, or a file of weights. "
            f"{did_you_mean(name, [*SIZES, *PUBLISHED])} Received: preset={name!r}"
        )
    return read_pretrained(path, **reading, likely=wanted), {}


def _read_published(published: ReleasedWeights, reading: dict[str, Any]) -> PretrainedNetwork:
    size = SIZES[published.size]
    file = hub.fetch(published)
    reading = {**reading, "num_heads": reading.get("num_heads") or size["num_heads"]}
    source = read_pretrained(file, **reading, known=_known(published))
    found = {name: getattr(source, name) for name in size}
    if found != size:
        raise WeightsError(
            f"The weights of {published.name} must be those of {published.size}, {_listed(size)}. "
            f"Received: {_listed(found)} in {file}"
        )
    hub.remember(published, file)
    return source


def _listed(size: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in size.items())


def _known(published: ReleasedWeights) -> dict[str, Any]:
    """What the table says of a released AST."""
    if published.kind != "ast":
        return {}
    return {
        "strides": published.strides,
        "num_frames": published.num_frames,
        "mean": published.mean,
        "std": published.std,
        "labels": published.labels and LabelSet.load(published.labels),
        "score_activation": published.score_activation,
    }


def _saved_parts(saved: ASTClassifier, wanted: dict[str, Any]) -> dict[str, Any]:
    backbone, frontend = saved.backbone, saved.frontend
    if frontend is not None:
        size = {key: wanted[key] for key in ("num_frames", "num_mel_bins") if key in wanted}
        frontend = LogMelFilterbank.from_config({**frontend.get_config(), **size})
    return {
        "frontend": frontend,
        "augment": saved.augment,
        "name": saved.name,
        "dtype": backbone.policy.name,
        **{name: getattr(backbone, name) for name in _DIALS},
    }


def _require_fitting(overrides: dict[str, Any]) -> None:
    for name in overrides:
        if name not in _FITTING_ARGUMENTS:
            raise WeightsError(
                "This is no argument for a model with weights, which keep their architecture. "
                f"{did_you_mean(name, sorted(_FITTING_ARGUMENTS))} Received: {name}"
            )

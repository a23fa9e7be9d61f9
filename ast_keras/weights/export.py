"""Export of a classifier to the weights files of the authors' code and of transformers."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.files import replacing_folder, write_json
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.naming import AUTHORS, TRANSFORMERS, Naming, from_canonical
from ast_keras.weights.readers.safetensors import write_safetensors

TARGETS = ("authors", "transformers")
# Filterbank settings that the other implementations cannot change.
_FILTERBANK = {
    "window": "hann",
    "frame_length_seconds": 0.025,
    "frame_step_seconds": 0.010,
    "f_min_hz": 20.0,
    "f_max_hz": None,
    "preemphasis": 0.97,
}
_AUTHORS_SIZES = ((192, 12), (384, 12), (768, 12))  # tiny, small, base
_TIMM_CLASSES = 1000  # outputs of the two unused heads of the authors' network


def export_weights(model: ASTClassifier, folder: str | os.PathLike[str], to: str) -> list[str]:
    """Writes a classifier in the format of another implementation.

    The folder appears complete or not at all. For "authors", it holds model.safetensors, which
    `ASTModel` of YuanGongND/ast loads with `load_state_dict` once it is wrapped in
    `torch.nn.DataParallel`, and labels.csv. For "transformers", it holds model.safetensors,
    config.json and preprocessor_config.json, which `ASTForAudioClassification` and
    `ASTFeatureExtractor` read with `from_pretrained`, in versions 4 and 5.

    Args:
        model: The classifier. Its weights are written bit for bit.
        folder: A new folder, or an empty one.
        to: "authors" or "transformers".

    Returns:
        A line for each difference between the model and what the other implementation computes.

    Raises:
        WeightsError: If the folder is not empty, or if the other implementation has no such
            network.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=10, num_frames=128)
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "exported")
    >>> _ = export_weights(model, folder, to="authors")
    >>> sorted(path.name for path in folder.iterdir())
    ['model.safetensors']
    """
    if to not in TARGETS:
        raise WeightsError(f"to must be one of {', '.join(TARGETS)}. Received: to={to!r}")
    target = pathlib.Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise WeightsError(f"Weights are exported to a new folder. Received: {target}")
    _require_same_network(model, to)
    with replacing_folder(target) as part:
        if to == "authors":
            return _write_authors(model, part)
        return _write_transformers(model, part)


def _require_same_network(model: ASTClassifier, to: str) -> None:
    backbone = model.backbone
    if not backbone.use_distillation_token:
        raise WeightsError(
            f"The network of {to} has a distillation token. Received: use_distillation_token=False"
        )
    if len(set(backbone.patch_size)) > 1 and to == "transformers":
        raise WeightsError(
            "The network of transformers has square patches. "
            f"Received: patch_size={backbone.patch_size}"
        )


def _write_authors(model: ASTClassifier, folder: pathlib.Path) -> list[str]:
    embed = model.backbone.embed_dim
    tensors = _named(model, AUTHORS)
    for head in ("v.head", "v.head_dist"):  # load_state_dict needs them
        tensors[f"{head}.weight"] = np.zeros((_TIMM_CLASSES, embed), "float32")
        tensors[f"{head}.bias"] = np.zeros(_TIMM_CLASSES, "float32")
    tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    if model.labels is not None:
        model.labels.to_csv(folder / "labels.csv")
    return [*_differences(model, 1e-6, 1e-5), *_left_to_their_code(model)]


def _left_to_their_code(model: ASTClassifier) -> list[str]:
    """Returns the settings of the model that the authors keep in their scripts."""
    backbone, frontend = model.backbone, model.frontend
    lines = [f"the file does not record that scores come from a {model.score_activation}"]
    if frontend is not None:
        lines.append(
            f"the file does not record the log-mel mean {frontend.mean:g}, the standard deviation "
            f"{frontend.std:g} and the sample rate {frontend.sample_rate} Hz"
        )
    if (backbone.embed_dim, backbone.num_layers) not in _AUTHORS_SIZES:
        lines.append(
            f"{backbone.num_layers} blocks of {backbone.embed_dim} are not a size of their "
            "ASTModel, which must be changed"
        )
    if backbone.patch_size != (16, 16):
        lines.append("their ASTModel has patches of 16 x 16 and must be changed")
    return lines


def _write_transformers(model: ASTClassifier, folder: pathlib.Path) -> list[str]:
    tensors = _named(model, TRANSFORMERS)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(folder / "config.json", _config(model))
    epsilon = model.backbone.layer_norm_epsilon
    differences = _differences(model, epsilon, epsilon)
    if model.frontend is not None:
        write_json(folder / "preprocessor_config.json", _extractor(model))
    return differences


def _named(model: ASTClassifier, naming: Naming) -> dict[str, np.ndarray]:
    named = from_canonical(canonical_tensors(model), naming)
    return {name: np.ascontiguousarray(tensor) for name, tensor in named.items()}


def _config(model: ASTClassifier) -> dict[str, Any]:
    backbone = model.backbone
    config = {
        "architectures": ["ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "intermediate_size": backbone.mlp_dim,
        "hidden_act": "gelu",
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.attention_dropout,
        "initializer_range": 0.02,
        "layer_norm_eps": backbone.layer_norm_epsilon,
        "patch_size": backbone.patch_size[0],
        "qkv_bias": True,
        "frequency_stride": backbone.strides[0],
        "time_stride": backbone.strides[1],
        "max_length": backbone.num_frames,
        "num_mel_bins": backbone.num_mel_bins,
        "problem_type": "single_label_classification"
        if model.score_activation == "softmax"
        else "multi_label_classification",
    }
    names = [f"LABEL_{index}" for index in range(model.num_classes)]
    if model.labels is not None:
        names = list(model.labels.names)
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    return config


def _extractor(model: ASTClassifier) -> dict[str, Any]:
    frontend = model.frontend
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": frontend.sample_rate,
        "num_mel_bins": frontend.num_mel_bins,
        "max_length": frontend.num_frames,
        "do_normalize": True,
        "mean": frontend.mean,
        "std": frontend.std,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _differences(model: ASTClassifier, epsilon: float, head_epsilon: float) -> list[str]:
    """Returns the settings of the model that the other implementation cannot take."""
    lines = []
    for what, ours, theirs in (
        ("blocks'", model.backbone.layer_norm_epsilon, epsilon),
        ("head's", model.head_layer_norm_epsilon, head_epsilon),
    ):
        if ours != theirs:
            lines.append(f"the {what} LayerNorm adds {theirs:g} there, {ours:g} here")
    for name, theirs in _FILTERBANK.items():
        ours = theirs if model.frontend is None else getattr(model.frontend, name)
        if ours != theirs:
            lines.append(f"the filterbank has {name}={theirs!r} there, {ours!r} here")
    return lines

"""What the tensors of a network cannot say: the small files that lie beside them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet

_MODEL_TYPES = ("audio-spectrogram-transformer", "deit", "vit")
_GELU = ("gelu", "gelu_python")
_ACTIVATIONS = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}


def read_configuration(path: pathlib.Path) -> dict[str, Any]:
    """Reads what lies beside weights: the configuration of transformers, and a list of labels.

    Args:
      path: The file of weights, or its folder. Only in a folder of their own are labels theirs.

    Returns:
      Arguments of `Source` that the files say.

    Raises:
      WeightsError: If a file is damaged, or the network is not one that AST computes.
      LabelError: If `labels.csv` is damaged.

    Example:

    >>> read_configuration(pathlib.Path("no/such/folder"))
    {}
    """
    labels = path / "labels.csv"
    named = {"labels": LabelSet.from_csv(labels)} if labels.is_file() else {}
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "config.json")
    if config.get("model_type") not in _MODEL_TYPES:
        return named
    if config.get("hidden_act", "gelu") not in _GELU:
        raise WeightsError(
            "AST computes with the exact GELU. "
            f"Received: hidden_act={config['hidden_act']!r} in {folder / 'config.json'}"
        )
    try:
        return _from_config(config, _read_json(folder / "preprocessor_config.json")) | named
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {folder}") from None


def _from_config(config: dict[str, Any], extractor: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "num_attention_heads" in config:
        settings["num_heads"] = _positive(config, "num_attention_heads")
    if "layer_norm_eps" in config:
        settings["layer_norm_epsilon"] = float(config["layer_norm_eps"])
        if not 0 <= settings["layer_norm_epsilon"] < 1:  # nor NaN
            raise ValueError(f"layer_norm_eps must be in [0, 1), not {config['layer_norm_eps']!r}")
        settings["head_layer_norm_epsilon"] = settings["layer_norm_epsilon"]
    if config["model_type"] != _MODEL_TYPES[0]:
        return settings
    settings["strides"] = (
        _positive(config, "frequency_stride", 10),
        _positive(config, "time_stride", 10),
    )
    settings["num_frames"] = _positive(config, "max_length", 1024)
    settings["num_mel_bins"] = _positive(config, "num_mel_bins", 128)
    if config.get("problem_type") in _ACTIVATIONS:
        settings["score_activation"] = _ACTIVATIONS[config["problem_type"]]
    names = config.get("id2label") or {}
    if names and not all(str(name).startswith("LABEL_") for name in names.values()):
        settings["labels"] = LabelSet(tuple(names[str(index)] for index in range(len(names))))
    if extractor.get("do_normalize", True) and "mean" in extractor:
        settings["mean"], settings["std"] = float(extractor["mean"]), float(extractor["std"])
    elif extractor:
        settings["mean"], settings["std"] = 0.0, 0.5
    if "sampling_rate" in extractor:
        settings["sample_rate"] = _positive(extractor, "sampling_rate")
    return settings


def _positive(config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive whole number, not {value!r}")
    return value


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {path}") from None
    return value if isinstance(value, dict) else {}

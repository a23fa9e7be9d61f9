"""Configuration files next to weights: `config.json`, `preprocessor_config.json`, `labels.csv`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet
from ast_keras.weights.resize import Grid

_MODEL_TYPES = ("audio-spectrogram-transformer", "deit", "vit")
_GELU = ("gelu", "gelu_python")
_ACTIVATIONS = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """Settings of a network that its tensors do not show; None where unknown.

    Args:
        num_heads: Number of attention heads per block.
        num_frames: Length of the spectrogram, in frames.
        num_mel_bins: Height of the spectrogram, in mel bins.
        strides: Step between patches `(mel, time)`.
        layer_norm_epsilon: Epsilon of the LayerNorms of the blocks and of the last one.
        head_layer_norm_epsilon: Epsilon of the LayerNorm of the head.
        mean: Mean of the log-mel values that the network was trained on.
        std: Standard deviation of the same values.
        sample_rate: Sample rate of the audio, in Hz.
        labels: The classes.
        score_activation: "sigmoid" or "softmax".
    """

    num_heads: int | None = None
    num_frames: int | None = None
    num_mel_bins: int | None = None
    strides: Grid | None = None
    layer_norm_epsilon: float | None = None
    head_layer_norm_epsilon: float | None = None
    mean: float | None = None
    std: float | None = None
    sample_rate: int | None = None
    labels: LabelSet | None = None
    score_activation: str | None = None

    def known(self) -> dict[str, Any]:
        """Returns the settings that are not None, by name.

        Example:

        >>> NetworkSettings(num_heads=3).known()
        {'num_heads': 3}
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def overridden_by(self, other: NetworkSettings) -> NetworkSettings:
        """Returns these settings with those of `other` that are not None."""
        return dataclasses.replace(self, **other.known())


def read_configuration(path: pathlib.Path) -> NetworkSettings:
    """Reads the transformers configuration and the label list next to weights.

    Args:
        path: The weights file or its folder. `labels.csv` is read only from a folder, because a
            folder of several weights files may hold labels of another one.

    Returns:
        The settings that the files state.

    Raises:
        WeightsError: If a file is damaged, or if the network is not one that AST computes.
        LabelError: If `labels.csv` is damaged.

    Example:

    >>> read_configuration(pathlib.Path("no/such/folder")).known()
    {}
    """
    labels = path / "labels.csv"
    named = NetworkSettings(labels=LabelSet.from_csv(labels) if labels.is_file() else None)
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
        settings = _from_config(config, _read_json(folder / "preprocessor_config.json"))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {folder}") from None
    return settings.overridden_by(named)


def _from_config(config: dict[str, Any], extractor: dict[str, Any]) -> NetworkSettings:
    settings: dict[str, Any] = {}
    if "num_attention_heads" in config:
        settings["num_heads"] = _positive(config, "num_attention_heads")
    if "layer_norm_eps" in config:
        settings["layer_norm_epsilon"] = float(config["layer_norm_eps"])
        if not 0 <= settings["layer_norm_epsilon"] < 1:  # also refuses NaN
            raise ValueError(f"layer_norm_eps must be in [0, 1), not {config['layer_norm_eps']!r}")
        settings["head_layer_norm_epsilon"] = settings["layer_norm_epsilon"]
    if config["model_type"] != _MODEL_TYPES[0]:
        return NetworkSettings(**settings)
    settings["strides"] = (
        _positive(config, "frequency_stride", 10),
        _positive(config, "time_stride", 10),
    )
    settings["num_frames"] = _positive(config, "max_length", 1024)
    settings["num_mel_bins"] = _positive(config, "num_mel_bins", 128)
    if config.get("problem_type") in _ACTIVATIONS:
        settings["score_activation"] = _ACTIVATIONS[config["problem_type"]]
    names = config.get("id2label") or {}
    # transformers writes LABEL_0, LABEL_1, ... for a model without label names.
    if names and not all(str(name).startswith("LABEL_") for name in names.values()):
        settings["labels"] = LabelSet(tuple(names[str(index)] for index in range(len(names))))
    if extractor.get("do_normalize", True) and "mean" in extractor:
        settings["mean"], settings["std"] = float(extractor["mean"]), float(extractor["std"])
    elif extractor:  # (x - mean) / (2 std) leaves x unchanged
        settings["mean"], settings["std"] = 0.0, 0.5
    if "sampling_rate" in extractor:
        settings["sample_rate"] = _positive(extractor, "sampling_rate")
    return NetworkSettings(**settings)


def _positive(config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    return value


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {path}") from None
    return value if isinstance(value, dict) else {}

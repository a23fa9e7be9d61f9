"""One model whose weights are the mean of several models' weights."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ast_keras.errors import EvaluationError

# What acts only while training, and what is compared as "precision".
_FREE = ("name", "trainable", "dtype", "dropout", "attention_dropout", "drop_path")


def average_models(names: Sequence[str | os.PathLike[str]]) -> Any:
    """Returns an `ASTClassifier` whose every weight is the mean of the models' weights.

    Sums are taken in float64 and rounded once. One model at a time is in memory, besides the sum.
    What acts only while training (dropout, augmentation) is the last model's.

    Args:
      names: What `from_preset` loads, two or more.

    Raises:
      EvaluationError: If the models differ, with the first difference, or are fewer than two.
      WeightsError: If one cannot be loaded.

    Reference: Gong, Chung, Glass (2021), section 3.1; Izmailov et al., "Averaging Weights Leads to
      Wider Optima and Better Generalization", UAI 2018.

    Example:

    >>> import pathlib, tempfile
    >>> from ast_keras.presets.loading import from_preset, save_to_preset
    >>> folders = [pathlib.Path(tempfile.mkdtemp(), name) for name in "ab"]
    >>> for bias, folder in zip((1.0, 2.0), folders):
    ...     model = from_preset("ast_test", num_classes=1, num_frames=32)
    ...     _ = model.head.bias.assign([bias])
    ...     save_to_preset(model, folder)
    >>> float(average_models(folders).head.bias[0])
    1.5
    """
    from ast_keras.presets.loading import from_preset

    if len(names) < 2:
        raise EvaluationError(f"An average needs two models or more. Received: {len(names)}")
    sums: list[Any] = []
    first: Mapping[str, Any] = {}
    model = None
    for name in names:
        model = None
        gc.collect()  # the model before this one lies in cycles
        model = from_preset(name)
        if not sums:
            first = _description(model)
            sums = [np.zeros(weight.shape) for weight in model.weights]
        _require_same(_description(model), first, name, names[0])
        for total, weight in zip(sums, model.weights, strict=True):
            total += np.asarray(weight, np.float64)
    for total, weight in zip(sums, model.weights, strict=True):
        weight.assign((total / len(names)).astype(weight.numpy().dtype))
    return model


def _description(model: Any) -> dict[str, Any]:
    """Returns everything that the models must agree on."""
    parts = {"backbone": model.backbone, "frontend": model.frontend}
    found = {
        f"{part}.{name}": value
        for part, layer in parts.items()
        for name, value in (layer.get_config() if layer is not None else {}).items()
        if name not in _FREE
    }
    found["precision"] = model.backbone.policy.name
    kinds = ("num_classes", "labels", "score_activation", "head_layer_norm_epsilon")
    return found | {kind: getattr(model, kind) for kind in kinds}


def _require_same(
    found: Mapping[str, Any], wanted: Mapping[str, Any], name: Any, first: Any
) -> None:
    for key in dict.fromkeys([*wanted, *found]):
        ours, theirs = found.get(key), wanted.get(key)
        if ours != theirs:
            values = "" if key == "labels" else f": {theirs!r} and {ours!r}"
            raise EvaluationError(
                "Only models of the same architecture, labels and frontend can be averaged; these "
                f"differ in {key}{values}. Received: {first} and {name}"
            )

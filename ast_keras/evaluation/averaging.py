"""Averaging of weights: one model from several models of the same architecture."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ast_keras.errors import EvaluationError

# Arguments that affect training only, and `dtype`, which is compared as "precision".
_NOT_COMPARED = (
    "name", "trainable", "trainable_parts", "dtype", "dropout", "attention_dropout", "drop_path",
)  # fmt: skip


def average_models(names: Sequence[str | os.PathLike[str]]) -> Any:
    """Returns an `ASTClassifier` whose every weight is the mean of the models' weights.

    Sums are computed in float64 and rounded once. The models are loaded one after the other.
    Arguments that affect training only (dropout, augmentation) are those of the last model.

    Args:
        names: Two or more models, each a name or path that `from_preset` accepts.

    Returns:
        A model of the common architecture.

    Raises:
        EvaluationError: If there are fewer than two models, or they differ in architecture,
            labels or frontend. The message names the first difference.
        WeightsError: If a model cannot be loaded.

    Reference:
        Gong, Chung and Glass (2021), section 3.1; Izmailov et al., "Averaging Weights Leads to
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
        raise EvaluationError(f"An average needs at least two models. Received: {len(names)}")
    sums: list[Any] = []
    first: Mapping[str, Any] = {}
    model = None
    for name in names:
        # A Keras model is part of reference cycles: only a garbage collection frees its memory, and
        # Python may not run one before the next model is loaded.
        model = None
        gc.collect()
        model = from_preset(name)
        if not sums:
            first = _description(model)
            sums = [np.zeros(weight.shape) for weight in model.weights]
        _require_same(_description(model), first, name, names[0])
        for total, weight in zip(sums, model.weights, strict=True):
            total += np.asarray(weight, np.float64)
    for total, weight in zip(sums, model.weights, strict=True):
        weight.assign((total / len(names)).astype(weight.numpy().dtype))
    model.thresholds = None  # those of the last model do not belong to these weights
    return model


def _description(model: Any) -> dict[str, Any]:
    """Returns the properties that all models must have in common."""
    parts = {"backbone": model.backbone, "frontend": model.frontend}
    found = {
        f"{part}.{name}": value
        for part, layer in parts.items()
        for name, value in (layer.get_config() if layer is not None else {}).items()
        if name not in _NOT_COMPARED
    }
    found["precision"] = model.backbone.policy.name
    names = ("num_classes", "labels", "score_activation", "head_layer_norm_epsilon")
    return found | {name: getattr(model, name) for name in names}


def _require_same(
    found: Mapping[str, Any], expected: Mapping[str, Any], name: Any, first: Any
) -> None:
    for key in dict.fromkeys([*expected, *found]):
        if found.get(key) != expected.get(key):
            values = "" if key == "labels" else f": {expected.get(key)!r} and {found.get(key)!r}"
            raise EvaluationError(
                "Models can be averaged only if their architecture, labels and frontend are the "
                f"same; these differ in {key}{values}. Received: {first} and {name}"
            )

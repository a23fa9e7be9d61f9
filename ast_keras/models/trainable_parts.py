"""Which parts of a model train: read before saving, set again after loading.

Keras stores `trainable` of a model, but not of the layers inside one that is not a plain functional
or sequential model. Saved without them, a frozen backbone would train again after loading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import keras

from ast_keras.errors import ArgumentError, did_you_mean

_Model = TypeVar("_Model", bound=keras.Layer)


def trainable_parts(model: keras.Layer, trainable: bool | None = None) -> dict[str, bool]:
    """Returns the layers and weights of a model that train although the model around does not.

    Or the other way round: each entry differs from the layer that contains it. Layers without
    weights are left out, and weights that LoRA freezes, because it is merged when it is saved.

    Args:
        model: A built model or layer.
        trainable: The value that its own parts are compared with; None for `model.trainable`.

    Returns:
        `trainable` by path, outer layers first; empty if all parts are as the model.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> model.backbone.trainable = False
    >>> model.backbone.blocks[1].trainable = True
    >>> trainable_parts(model)
    {'backbone': False, 'backbone/block_1': True}
    """
    return dict(_differences(model, model.trainable if trainable is None else trainable, ""))


def trainable_config(model: keras.Layer) -> dict[str, Any]:
    """Returns the entries of a model's config that say what trains.

    Args:
        model: A built model or layer.

    Example:

    >>> from ast_keras import from_preset
    >>> trainable_config(from_preset("ast_test", num_classes=2, num_frames=98))
    {'trainable': True}
    """
    parts = trainable_parts(model)
    return {"trainable": model.trainable} | ({"trainable_parts": parts} if parts else {})


def with_trainable_parts(model: _Model, parts: Mapping[str, bool]) -> _Model:
    """Sets `trainable` of a model's layers and weights to what `trainable_parts` returned.

    Args:
        model: A built model or layer. First, all its parts are set to its own `trainable`.
        parts: `trainable` by path, outer layers first.

    Returns:
        The model.

    Raises:
        ArgumentError: If the model has no such part.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> len(with_trainable_parts(model, {"backbone": False}).trainable_weights)  # the head's
    4
    """
    trainable = model.trainable
    model.trainable = not trainable  # Keras ignores an assignment of the value that is set already
    model.trainable = trainable
    for path, trainable in parts.items():
        part: Any = model
        for name in path.split("/"):
            known = dict(_parts(part)) if isinstance(part, keras.Layer) else {}
            if name not in known:
                hint = did_you_mean(name, known) if known else ""
                raise ArgumentError(f"The model has no such part. {hint} Received: {path!r}")
            part = known[name]
        part.trainable = trainable
    return model


def _differences(
    layer: keras.Layer, trainable: bool, prefix: str, weights: bool = True
) -> Iterator[tuple[str, bool]]:
    weights = weights and not getattr(layer, "lora_rank", None)
    for name, part in _parts(layer, weights):
        if part.trainable != trainable:
            yield prefix + name, part.trainable
        if isinstance(part, keras.Layer):
            yield from _differences(part, part.trainable, f"{prefix}{name}/", weights)


def _parts(layer: keras.Layer, weights: bool = True) -> Iterator[tuple[str, Any]]:
    """Yields the weights of a layer and the layers in it that have weights, by name."""
    # The name of an attribute is the same in every process, that of a layer may be numbered.
    attributes = {id(v): name for name, v in vars(layer).items() if isinstance(v, keras.Layer)}
    for part in layer._flatten_layers(include_self=False, recursive=False):
        if part.weights:
            yield attributes.get(id(part), part.name), part
    # Not `layer.weights`: statistics of a normalisation never train and are not listed here.
    for weight in layer._trainable_variables if weights else ():
        yield weight.name, weight

"""`Head`: the classification head of a new model, kept from pretrained weights or fresh."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ast_keras.errors import LabelError, WeightsError
from ast_keras.labels import Labels, LabelSet, labels_of_classes
from ast_keras.weights.pretrained import PretrainedNetwork

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class Head:
    """The classification head of a model to be built.

    Args:
        num_classes: Number of outputs.
        labels: The classes, or None.
        tensors: Pretrained tensors by canonical name; empty for a fresh head.
        reordered: Whether the outputs of the pretrained head were put in another order.
        score_activation: "softmax" or "sigmoid", how logits become scores; None for a fresh head.
        thresholds: Score of each class of a kept head from which it is reported, or None.
    """

    num_classes: int
    labels: LabelSet | None
    tensors: dict[str, Array]
    reordered: bool = False
    score_activation: str | None = None
    thresholds: tuple[float, ...] | None = None


def choose_head(
    network: PretrainedNetwork,
    num_classes: int | None = None,
    labels: Labels | None = None,
) -> Head:
    """Keeps the head of a pretrained network if it fits the requested classes; else a fresh one.

    The head is kept if no classes are given, if the labels are the network's own in any order, or
    if they give names to a network that has as many classes and no names.

    Args:
        network: The pretrained network.
        num_classes: Number of classes of a fresh head; None to keep the network's head.
        labels: The requested classes, a `LabelSet` or a list of names.

    Returns:
        The head.

    Raises:
        WeightsError: If the network has no head and no classes are given.
        LabelError: If `num_classes` is not the number of labels.
    """
    labels = labels_of_classes(labels, num_classes)
    own = {name: t for name, t in network.tensors.items() if name.startswith("mlp_head.")}
    activation = network.score_activation
    if labels is None:
        if num_classes is not None:
            return Head(num_classes, None, {})
        if network.num_classes is None:
            raise WeightsError(
                f"{network.weights.variant} has no audio head: give num_classes or labels. "
                "Received: num_classes=None"
            )
        return Head(network.num_classes, network.labels, own, False, activation, network.thresholds)
    if network.labels is None and network.num_classes == len(labels):
        return Head(len(labels), labels, own, False, activation, network.thresholds)
    try:
        order = network.labels.indices_of(labels) if network.labels else None
    except LabelError:
        order = None
    if order is None:
        return Head(len(labels), labels, {})
    for name in ("mlp_head.1.weight", "mlp_head.1.bias"):
        own[name] = own[name][list(order)]
    reordered = order != tuple(range(len(order)))
    thresholds = network.thresholds and tuple(network.thresholds[index] for index in order)
    return Head(len(labels), labels, own, reordered, activation, thresholds)

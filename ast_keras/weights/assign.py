"""Canonical tensors to the weights of our model, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How one of our weights is laid out against the canonical tensors it is made of."""

    names: tuple[str, ...]
    to_ours: Callable[[Sequence[Array]], Any]
    to_theirs: Callable[[Array], Sequence[Array]]


def _same(name: str) -> _Layout:
    return _Layout((name,), lambda t: t[0], lambda w: [w])


def _dense(name: str) -> _Layout:  # [out, in] -> [in, out]
    # TensorFlow transposes in tiles, twice as fast as NumPy.
    return _Layout((name,), lambda t: keras.ops.transpose(t[0]), lambda w: [w.T])


def _patch_kernel(name: str) -> _Layout:  # [out, in, mel, time] -> [mel, time, in, out]
    return _Layout(
        (name,), lambda t: t[0].transpose(2, 3, 1, 0), lambda w: [w.transpose(3, 2, 0, 1)]
    )


def _tokens(*names: str) -> _Layout:  # each [1, 1, embed] -> [tokens, embed]
    return _Layout(names, lambda t: np.concatenate(t)[:, 0], lambda w: [x[None, None] for x in w])


def _positions(name: str) -> _Layout:  # [1, tokens, embed] -> [tokens, embed]
    return _Layout((name,), lambda t: t[0][0], lambda w: [w[None]])


def layouts(backbone: ASTBackbone) -> dict[str, _Layout]:
    """Returns, by our weight's path, its canonical names and the change of layout."""
    special = ("cls_token", "dist_token")[: backbone.num_special_tokens]
    table = {
        "patches/projection/kernel": _patch_kernel("patch_embed.proj.weight"),
        "patches/projection/bias": _same("patch_embed.proj.bias"),
        "special_tokens/tokens": _tokens(*special),
        "positions/embedding": _positions("pos_embed"),
    }
    norms = {"norm": "norm", "head_norm": "mlp_head.0"}
    denses = {"head": "mlp_head.1"}
    for index in range(backbone.num_layers):
        ours, theirs = f"block_{index}", f"blocks.{index}"
        norms[f"{ours}/attention_norm"] = f"{theirs}.norm1"
        norms[f"{ours}/mlp_norm"] = f"{theirs}.norm2"
        denses[f"{ours}/attention/qkv"] = f"{theirs}.attn.qkv"
        denses[f"{ours}/attention/projection"] = f"{theirs}.attn.proj"
        denses[f"{ours}/mlp_hidden"] = f"{theirs}.mlp.fc1"
        denses[f"{ours}/mlp_output"] = f"{theirs}.mlp.fc2"
    for ours, theirs in norms.items():
        table[f"{ours}/gamma"] = _same(f"{theirs}.weight")
        table[f"{ours}/beta"] = _same(f"{theirs}.bias")
    for ours, theirs in denses.items():
        table[f"{ours}/kernel"] = _dense(f"{theirs}.weight")
        table[f"{ours}/bias"] = _same(f"{theirs}.bias")
    return table


def weights_by_path(model: ASTClassifier) -> dict[str, Any]:
    """Returns the classifier's weights by their path, without the names of the models around."""
    weights = {}
    for layer in (*model.backbone.layers, model.head_norm, model.head):
        for weight in layer.weights:
            path = weight.path
            weights[path[path.index(layer.name) :] if layer.name in path else path] = weight
    return weights


def canonical_tensors(model: ASTClassifier) -> dict[str, Array]:
    """Returns the model's weights as canonical tensors, in PyTorch's layouts."""
    weights = weights_by_path(model)
    return {
        name: np.ascontiguousarray(tensor)
        for path, layout in layouts(model.backbone).items()
        for name, tensor in zip(
            layout.names, layout.to_theirs(np.asarray(weights[path])), strict=True
        )
    }


def assign_canonical(model: ASTClassifier, tensors: Mapping[str, Array]) -> None:
    """Assigns canonical tensors to the model's weights, all of them or none.

    Where no tensor is an AST's head, the head stays as it is.

    Raises:
      WeightsError: If a tensor is missing, left over, or of another shape than the model's.
    """
    table = layouts(model.backbone)
    if not any(name.startswith("mlp_head.") for name in tensors):
        table = {path: layout for path, layout in table.items() if not path.startswith("head")}
    needed = {name for layout in table.values() for name in layout.names}
    for problem, names in (
        ("lacks a tensor that the model needs", needed - set(tensors)),
        ("holds a tensor that the model has no place for", set(tensors) - needed),
    ):
        if names:
            raise WeightsError(
                f"The source {problem}: are num_layers and the special tokens right? "
                f"{len(names)} such, first: {min(names)}"
            )
    weights = weights_by_path(model)
    for path, layout in table.items():
        ours = np.broadcast_to(np.float32(0), weights[path].shape)
        for name, like in zip(layout.names, layout.to_theirs(ours), strict=True):
            if tensors[name].shape != like.shape:
                raise WeightsError(
                    f"A tensor's shape is not the model's. Received: {name} {tensors[name].shape}, "
                    f"the model has {like.shape}"
                )
    for path, layout in table.items():
        weights[path].assign(layout.to_ours([tensors[name] for name in layout.names]))

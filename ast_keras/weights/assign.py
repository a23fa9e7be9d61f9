"""Assignment of canonical tensors to the weights of a model, and back.

Canonical tensors have the names of timm and the layouts of PyTorch (see `naming`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.layers.lora_dense import lora_layers, merged_kernels
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The canonical tensors that one weight of the model is made of.

    Args:
        names: Names of the canonical tensors.
        to_ours: Returns the weight for these tensors.
        to_theirs: Returns these tensors for the weight.
    """

    names: tuple[str, ...]
    to_ours: Callable[[Sequence[Array]], Any]
    to_theirs: Callable[[Array], Sequence[Array]]


def _same(name: str) -> _Layout:
    return _Layout((name,), lambda t: t[0], lambda w: [w])


def _dense(name: str) -> _Layout:  # [out, in] -> [in, out]
    # TensorFlow transposes in tiles, which is twice as fast as NumPy.
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
    """Returns the layout of every weight of a classifier, by the path of the weight.

    Args:
        backbone: The backbone; its head is included in the result.
    """
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
    """Returns the weights of a classifier by path, without the names of the enclosing models."""
    weights = {}
    for layer in (*model.backbone.layers, model.head_norm, model.head):
        for weight in layer.weights:
            path = weight.path
            weights[path[path.index(layer.name) :] if layer.name in path else path] = weight
    return weights


def canonical_tensors(model: ASTClassifier) -> dict[str, Array]:
    """Returns the weights of a classifier as canonical tensors, by name; LoRA is merged."""
    weights, kernels = weights_by_path(model), merged_kernels(model)
    tensors = {}
    for path, layout in layouts(model.backbone).items():
        weight = np.asarray(kernels.get(id(weights[path]), weights[path]))
        for name, tensor in zip(layout.names, layout.to_theirs(weight), strict=True):
            tensors[name] = np.ascontiguousarray(tensor)
    return tensors


def assign_canonical(model: ASTClassifier, tensors: Mapping[str, Array]) -> None:
    """Assigns canonical tensors to the weights of a classifier, all of them or none.

    The factors of a model with LoRA are reset, so that it computes what the tensors compute.

    Args:
        model: The classifier. Its head is unchanged if no tensor belongs to a head.
        tensors: The tensors by canonical name.

    Raises:
        WeightsError: If a tensor is missing, left over, or does not have the shape of its weight.
    """
    table = layouts(model.backbone)
    if not any(name.startswith("mlp_head.") for name in tensors):
        table = {path: layout for path, layout in table.items() if not path.startswith("head")}
    needed = {name for layout in table.values() for name in layout.names}
    for problem, names in (
        ("lack a tensor that the model needs", needed - set(tensors)),
        ("include a tensor that the model does not have", set(tensors) - needed),
    ):
        if names:
            raise WeightsError(
                f"The weights {problem}: check num_layers and the special tokens. "
                f"Received: {len(names)} such tensors, first: {min(names)}"
            )
    weights = weights_by_path(model)
    for path, layout in table.items():
        ours = np.broadcast_to(np.float32(0), weights[path].shape)
        for name, like in zip(layout.names, layout.to_theirs(ours), strict=True):
            if tensors[name].shape != like.shape:
                raise WeightsError(
                    "A tensor must have the shape of the model's weight. "
                    f"Received: {name} {tensors[name].shape}, the model has {like.shape}"
                )
    for path, layout in table.items():
        weights[path].assign(layout.to_ours([tensors[name] for name in layout.names]))
    for layer in lora_layers(model):
        if layer.lora_enabled:
            layer.reset_lora()

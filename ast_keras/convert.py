"""Published weights to ours: names and layouts of the authors' state dictionary."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from ast_keras.model import ASTClassifier

Array = np.ndarray
Layout = Callable[[list[Array]], Array]

# timm's own heads, which AST does not use.
UNUSED = ("v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias")


class ConvertError(ValueError):
    """Raised when a file's tensors are not the model's."""


def _same(tensors: list[Array]) -> Array:
    return tensors[0]


def _dense(tensors: list[Array]) -> Array:
    return tensors[0].T  # [out, in] -> [in, out]


def _patch_kernel(tensors: list[Array]) -> Array:
    return tensors[0].transpose(2, 3, 1, 0)  # [out, in, mel, time] -> [mel, time, in, out]


def _tokens(tensors: list[Array]) -> Array:
    return np.concatenate([np.squeeze(t, 0) for t in tensors])  # each [1, 1, embed]


def _positions(tensors: list[Array]) -> Array:
    return np.squeeze(tensors[0], 0)  # [1, tokens, embed] -> [tokens, embed]


def authors_names(model: ASTClassifier) -> dict[str, tuple[tuple[str, ...], Layout]]:
    """Returns, for every weight path of the model, the authors' tensor names and the layout change.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=10, num_frames=128)
    >>> authors_names(model)["head/kernel"][0]
    ('mlp_head.1.weight',)
    """
    backbone = model.backbone
    tokens = ("v.cls_token", "v.dist_token")[: backbone.num_special_tokens]
    table: dict[str, tuple[tuple[str, ...], Layout]] = {
        "patches/projection/kernel": (("v.patch_embed.proj.weight",), _patch_kernel),
        "patches/projection/bias": (("v.patch_embed.proj.bias",), _same),
        "special_tokens/tokens": (tokens, _tokens),
        "positions/embedding": (("v.pos_embed",), _positions),
        **_pair("norm", "v.norm", norm=True),
        **_pair("head_norm", "mlp_head.0", norm=True),
        **_pair("head", "mlp_head.1"),
    }
    for index in range(backbone.num_layers):
        ours, theirs = f"block_{index}", f"v.blocks.{index}"
        table |= _pair(f"{ours}/attention_norm", f"{theirs}.norm1", norm=True)
        table |= _pair(f"{ours}/attention/qkv", f"{theirs}.attn.qkv")
        table |= _pair(f"{ours}/attention/projection", f"{theirs}.attn.proj")
        table |= _pair(f"{ours}/mlp_norm", f"{theirs}.norm2", norm=True)
        table |= _pair(f"{ours}/mlp_hidden", f"{theirs}.mlp.fc1")
        table |= _pair(f"{ours}/mlp_output", f"{theirs}.mlp.fc2")
    return table


def _pair(ours: str, theirs: str, norm: bool = False) -> dict[str, tuple[tuple[str, ...], Layout]]:
    if norm:
        return {
            f"{ours}/gamma": ((f"{theirs}.weight",), _same),
            f"{ours}/beta": ((f"{theirs}.bias",), _same),
        }
    return {
        f"{ours}/kernel": ((f"{theirs}.weight",), _dense),
        f"{ours}/bias": ((f"{theirs}.bias",), _same),
    }


def load_authors_weights(model: ASTClassifier, path: str | os.PathLike[str]) -> None:
    """Loads a safetensors file with the authors' tensor names into a classifier of that shape.

    Every tensor must be used, except the two heads of timm that AST leaves unused; nothing is
    assigned unless all fit.

    Args:
      model: A classifier with the file's sizes.
      path: A `.safetensors` file; the prefix `module.` of DataParallel is accepted.

    Raises:
      ConvertError: If a tensor is missing, left over, or of another shape.

    Reference:
      YuanGongND/ast, src/models/ast_models.py.

    Example (of a file that is too large to come along):

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_base", num_classes=527)  # doctest: +SKIP
    >>> load_authors_weights(model, "audioset_10_10_0.4593.safetensors")  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not pathlib.Path(path).is_file():
        raise ConvertError(f"There is no weights file here. Received: {path}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ConvertError(f"Not a readable safetensors file: {error}. Received: {path}") from None
    assign(model, {name.removeprefix("module."): value for name, value in tensors.items()})


def assign(model: ASTClassifier, tensors: Mapping[str, Array]) -> None:
    """Assigns tensors under the authors' names to the model's weights, all or none.

    Raises:
      ConvertError: As `load_authors_weights`.
    """
    values = {}
    used = set(UNUSED)
    for path, (names, layout) in authors_names(model).items():
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ConvertError(f"The file lacks a tensor of the model. Missing: {missing[0]}")
        used.update(names)
        try:
            values[path] = layout([tensors[name] for name in names])
        except ValueError:  # NumPy's: not that many axes
            shapes = ", ".join(f"{name} {np.shape(tensors[name])}" for name in names)
            raise ConvertError(
                f"A tensor's shape is not the authors'. Received: {shapes}"
            ) from None
    extra = sorted(set(tensors) - used)
    if extra:
        raise ConvertError(
            f"The file holds {len(extra)} tensors that the model has no place for: is num_layers "
            f"right? First: {extra[0]}"
        )
    weights = weights_by_path(model)
    for path, value in values.items():
        if tuple(weights[path].shape) != value.shape:
            raise ConvertError(
                f"A tensor's shape is not the model's. Received: {path} {value.shape}, "
                f"the model has {tuple(weights[path].shape)}"
            )
    for path, value in values.items():
        weights[path].assign(value)


def weights_by_path(model: ASTClassifier) -> dict[str, object]:
    """Returns the classifier's weights by their path, without the names of the models around."""
    weights = {}
    for layer in model.backbone.layers:
        for weight in layer.weights:
            weights[_below(weight.path, layer.name)] = weight
    for layer in (model.head_norm, model.head):
        for weight in layer.weights:
            weights[_below(weight.path, layer.name)] = weight
    return weights


def _below(path: str, layer: str) -> str:
    return path[path.index(layer) :] if layer in path else path

"""Vision transformers of the TensorFlow Model Garden, translated to canonical tensors."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ast_keras.errors import WeightsError

_QUERY = "_attention_layer/_query_dense/kernel"
_BLOCK = re.compile(r"((?:.*/)?[^/]+)/_encoder_layers/(\d+)/(.*)")


def is_model_garden(names: Iterable[str]) -> bool:
    """Returns whether tensor names are those of a Model Garden vision transformer.

    Example:

    >>> is_model_garden(["layer_with_weights-0/kernel", "blocks.0.norm1.weight"])
    False
    """
    return any(match is not None and match[3] == _QUERY for match in map(_BLOCK.fullmatch, names))


def num_heads(tensors: Mapping[str, Any]) -> int:
    """Returns the number of attention heads, an axis of the query kernels.

    Args:
        tensors: Tensors of the checkpoint, from `read_checkpoint`.

    Raises:
        WeightsError: If the tensors are not those of a Model Garden vision transformer.

    Example:

    >>> name = "backbone/layer_with_weights-2/_encoder_layers/0/_attention_layer/_query_dense"
    >>> num_heads({name + "/kernel": np.zeros((192, 3, 64))})
    3
    """
    return _query_shape(tensors, f"{_encoder(tensors)}/_encoder_layers/0/{_QUERY}")[1]


def to_timm(tensors: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Translates a Model Garden vision transformer to timm's names and layouts.

    The backbone may be saved as `backbone`, inside a classification model, or as the checkpoint
    itself. Layer scales are multiplied into the projections before them. A backbone without class
    token (`pooler="gap"` or `"none"`) gives no `cls_token`, and a `pos_embed` with one row per
    patch. The GELU of this network is the tanh approximation, that of timm and AST is exact: with
    the same weights, the features differ by 7e-4 after two blocks, for features of about 1.

    Args:
        tensors: Tensors of the checkpoint, from `read_checkpoint`.

    Returns:
        The tensors under timm's names, and the reason for each tensor that is not used, by name.

    Raises:
        WeightsError: If the tensors are not those of one Model Garden vision transformer, or if one
            of them is missing, has the wrong shape, or is unknown.

    Reference:
        `official/vision/modeling/backbones/vit.py` of the TensorFlow Model Garden (Apache-2.0).

    Example:

    >>> to_timm({})
    Traceback (most recent call last):
    ast_keras.errors.WeightsError: ...
    """
    source = _Tensors(tensors)
    encoder = _encoder(tensors)
    root = encoder.rpartition("/")[0] + "/" if "/" in encoder else ""
    width = _query_shape(tensors, f"{encoder}/_encoder_layers/0/{_QUERY}")[0]
    canonical = _stem(source, root, encoder, width)
    for number in range(_num_blocks(tensors)):
        block = _block(source, f"{encoder}/_encoder_layers/{number}", width)
        canonical |= {f"blocks.{number}.{name}": value for name, value in block.items()}
    canonical["norm.weight"] = source.take(f"{encoder}/_norm/gamma", width)
    canonical["norm.bias"] = source.take(f"{encoder}/_norm/beta", width)
    unused = _unused(source.left, root)
    return {name: np.ascontiguousarray(value) for name, value in canonical.items()}, unused


class _Tensors:
    """The tensors of a checkpoint, each of which is taken once.

    Attributes:
        left: The tensors that were not taken yet, by name.
    """

    def __init__(self, tensors: Mapping[str, Any]):
        self.left = {name: np.asarray(value) for name, value in tensors.items()}

    def take(self, name: str, *shape: int | None) -> NDArray[Any]:
        """Removes a tensor, checks its shape and returns it; None stands for any size."""
        if name not in self.left:
            raise WeightsError(
                f"A Model Garden vision transformer needs every tensor. Missing: {name}"
            )
        value = self.left.pop(name)
        right = len(value.shape) == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, value.shape, strict=True)
        )
        if not right or not np.issubdtype(value.dtype, np.floating):
            wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
            raise WeightsError(
                f"{name} must hold floating-point numbers of shape {wanted}. "
                f"Received: shape={value.shape}, dtype={value.dtype}"
            )
        return value

    def children(self, root: str, variable: str, ndim: int) -> list[str]:
        """Returns the names of variables of a name and rank in the layers directly under `root`."""
        pattern = re.compile(re.escape(root) + "[^/]+/" + re.escape(variable))
        return [
            name
            for name, value in sorted(self.left.items())
            if value.ndim == ndim and pattern.fullmatch(name)
        ]


def _encoder(tensors: Iterable[str]) -> str:
    """Returns the path of the only encoder, such as `backbone/layer_with_weights-2`."""
    encoders = sorted(
        {match[1] for match in map(_BLOCK.fullmatch, tensors) if match and match[3] == _QUERY}
    )
    if len(encoders) != 1:
        found = ", ".join(encoders[:3]) or "none"
        raise WeightsError(
            "The tensors must be those of one Model Garden vision transformer. "
            f"Received: encoders={found}"
        )
    return encoders[0]


def _num_blocks(tensors: Iterable[str]) -> int:
    """Returns the number of encoder blocks, after checking that they are numbered without gaps."""
    numbers = {match[2] for match in map(_BLOCK.fullmatch, tensors) if match}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise WeightsError(
            "Encoder blocks must be numbered from zero without gaps. "
            f"Received: {', '.join(sorted(numbers)[:8])}"
        )
    return len(numbers)


def _query_shape(tensors: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    """Returns the width, the number of heads, and the width of a head."""
    shape = np.shape(tensors.get(name, ()))
    if len(shape) != 3 or min(shape) < 1 or shape[0] != shape[1] * shape[2]:
        raise WeightsError(
            f"{name} must have shape (width, heads, width / heads). Received: shape={shape}"
        )
    return shape[0], shape[1], shape[2]


def _stem(source: _Tensors, root: str, encoder: str, width: int) -> dict[str, NDArray[Any]]:
    """Translates the layers before the blocks: patches, class token, positions."""
    kernels = source.children(root, "kernel", 4)
    if len(kernels) != 1:
        raise WeightsError(
            "A Model Garden vision transformer must have one patch convolution. "
            f"Received: kernels={', '.join(kernels[:3]) or 'none'}"
        )
    kernel = source.take(kernels[0], None, None, None, width)  # [kh, kw, C, E]
    bias = source.take(kernels[0].removesuffix("kernel") + "bias", width)
    stem = {"patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1), "patch_embed.proj.bias": bias}
    for name in source.children(root, "cls", 3)[:1]:
        stem["cls_token"] = source.take(name, 1, 1, width)
    stem["pos_embed"] = source.take(f"{encoder}/_pos_embed/pos_embedding", 1, None, width)
    return stem


def _block(source: _Tensors, path: str, width: int) -> dict[str, NDArray[Any]]:
    """Translates one encoder block."""
    _, heads, depth = _query_shape(source.left, f"{path}/{_QUERY}")
    attention = f"{path}/_attention_layer"
    kernels, biases = [], []
    for part in ("query", "key", "value"):
        kernel = source.take(f"{attention}/_{part}_dense/kernel", width, heads, depth)
        kernels.append(kernel.reshape(width, width).T)
        biases.append(source.take(f"{attention}/_{part}_dense/bias", heads, depth).reshape(width))
    proj = source.take(f"{attention}/_output_dense/kernel", heads, depth, width)
    fc1 = source.take(f"{path}/_intermediate_dense/kernel", width, None)  # [E, M]
    fc2 = source.take(f"{path}/_output_dense/kernel", fc1.shape[1], width)
    block = {
        "norm1.weight": source.take(f"{path}/_attention_layer_norm/gamma", width),
        "norm1.bias": source.take(f"{path}/_attention_layer_norm/beta", width),
        "attn.qkv.weight": np.concatenate(kernels),
        "attn.qkv.bias": np.concatenate(biases),
        "attn.proj.weight": proj.reshape(width, width).T,
        "attn.proj.bias": source.take(f"{attention}/_output_dense/bias", width),
        "norm2.weight": source.take(f"{path}/_output_layer_norm/gamma", width),
        "norm2.bias": source.take(f"{path}/_output_layer_norm/beta", width),
        "mlp.fc1.weight": fc1.T,
        "mlp.fc1.bias": source.take(f"{path}/_intermediate_dense/bias", fc1.shape[1]),
        "mlp.fc2.weight": fc2.T,
        "mlp.fc2.bias": source.take(f"{path}/_output_dense/bias", width),
    }
    for scale, layer in (("attn", "attn.proj"), ("mlp", "mlp.fc2")):
        name = f"{path}/_layer_scale_{scale}/layerscale_gamma"
        if name in source.left:
            gamma = source.take(name, 1, 1, width).reshape(width)
            block[f"{layer}.weight"] = gamma[:, None] * block[f"{layer}.weight"]
            block[f"{layer}.bias"] = gamma * block[f"{layer}.bias"]
    return block


def _unused(left: Mapping[str, NDArray[Any]], root: str) -> dict[str, str]:
    """Returns why each remaining tensor is not used; raises WeightsError for an unknown one."""
    unused, unknown = {}, []
    dense = re.compile(re.escape(root) + "[^/]+/(kernel|bias)")
    for name, value in left.items():
        if not name.startswith(root):
            unused[name] = "outside the backbone, such as the head of a classifier"
        elif (match := dense.fullmatch(name)) and value.ndim == (2 if match[1] == "kernel" else 1):
            unused[name] = "the layer after the features (pre_logits)"
        else:
            unknown.append(name)
    if unknown:
        raise WeightsError(
            "Every tensor of the backbone must be known. "
            f"Received: {len(unknown)} unknown, among them {', '.join(sorted(unknown)[:3])}"
        )
    return unused

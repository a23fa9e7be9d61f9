"""A published network as read from its files: tensors, architecture, labels. No Keras here."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet
from ast_keras.weights import model_garden
from ast_keras.weights.config_files import read_configuration
from ast_keras.weights.naming import FORMATS, CanonicalWeights, to_canonical
from ast_keras.weights.readers import read_tensors
from ast_keras.weights.resize import Grid

Array = np.ndarray[Any, np.dtype[Any]]

# What released ASTs are made for; tried in turn where a file does not say: (stride, frames).
_RELEASED = tuple((stride, frames) for stride in (10, 12, 14, 16) for frames in (1024, 512, 128))
_GEOMETRY = ("strides", "num_frames", "num_mel_bins")


@dataclasses.dataclass(frozen=True)
class PretrainedNetwork:
    """A network read from published files.

    Args:
      weights: Its tensors under canonical names, and what became of its own.
      num_heads: Attention heads per block.
      grid: Patches `(mel, time)` that the position embedding is for; rows and columns of an image.
      num_mel_bins: Height of the spectrogram, in bins; None for an image network.
      num_frames: Length of the spectrogram, in frames; None for an image network.
      strides: Step between patches `(mel, time)`; None for an image network.
      layer_norm_epsilon: Of the blocks and the last norm.
      head_layer_norm_epsilon: Of the head's norm.
      mean: Of the log-mels the network was trained on, with `std`; None where it is not known.
      std: See `mean`.
      sample_rate: Of the sound, in Hz.
      labels: Its classes, where they are known.
      score_activation: "sigmoid", "softmax", or None where it is not known.
    """

    weights: CanonicalWeights
    num_heads: int
    grid: Grid
    num_mel_bins: int | None = None
    num_frames: int | None = None
    strides: Grid | None = None
    layer_norm_epsilon: float = 1e-6
    head_layer_norm_epsilon: float = 1e-5
    mean: float | None = None
    std: float | None = None
    sample_rate: int = 16000
    labels: LabelSet | None = None
    score_activation: str | None = None

    @property
    def tensors(self) -> Mapping[str, Array]:
        """The tensors by canonical name."""
        return self.weights.tensors

    @property
    def is_image(self) -> bool:
        """Whether the network looks at images, so that it has to be transferred."""
        return self.weights.tensors["patch_embed.proj.weight"].shape[1] != 1

    @property
    def embed_dim(self) -> int:
        """Size of every token."""
        return self.tensors["patch_embed.proj.weight"].shape[0]

    @property
    def num_layers(self) -> int:
        """Number of transformer blocks."""
        return sum(name.endswith(".norm1.weight") for name in self.tensors)

    @property
    def mlp_dim(self) -> int:
        """Hidden width of each block's perceptron."""
        return self.tensors["blocks.0.mlp.fc1.weight"].shape[0]

    @property
    def patch_size(self) -> Grid:
        """Patch extent `(mel, time)`."""
        rows, columns = self.tensors["patch_embed.proj.weight"].shape[2:]
        return rows, columns

    @property
    def use_distillation_token(self) -> bool:
        """Whether a distillation token follows the class token."""
        return "dist_token" in self.tensors

    @property
    def num_special_tokens(self) -> int:
        """Number of tokens before the patches."""
        return 1 + self.use_distillation_token

    @property
    def num_classes(self) -> int | None:
        """Outputs of AST's head; None for a network without one."""
        kernel = self.tensors.get("mlp_head.1.weight")
        return None if kernel is None else kernel.shape[0]

    @property
    def description(self) -> str:
        """Size and classes in a few words, to print."""
        grid = " x ".join(map(str, self.grid))
        classes = f"{self.num_classes} classes" if self.num_classes else "no head for sounds"
        return (
            f"{self.num_layers} blocks of {self.embed_dim}, {self.num_heads} heads, "
            f"{grid} patches of {' x '.join(map(str, self.patch_size))}, {classes}"
        )


def read_pretrained(
    path: str | os.PathLike[str],
    format: str | None = None,
    num_heads: int | None = None,
    known: Mapping[str, Any] | None = None,
    likely: Mapping[str, Any] | None = None,
) -> PretrainedNetwork:
    """Reads a published network from a file or folder.

    A `config.json` and `preprocessor_config.json` of transformers beside the weights, and a
    `labels.csv` in their folder, say what the
    tensors cannot: heads, strides, frames, LayerNorm epsilon, normalisation, labels. Without them
    the heads are taken to be 64 wide, and the strides and frames to be those of a released AST with
    as many patches.

    Args:
      path: safetensors, a PyTorch file, or a TensorFlow checkpoint; or the folder around one.
      format: "authors", "timm", "transformers" or "model_garden"; None to recognise it.
      num_heads: Attention heads, where neither the files nor the rule above say.
      known: Fields of `PretrainedNetwork` that the caller knows; they overrule the files.
      likely: `strides`, `num_frames` and `num_mel_bins` to try where nothing else says them.

    Raises:
      WeightsError: If the files cannot be read, or do not hold one whole network of a known kind.
    """
    if format not in (None, *FORMATS):
        raise WeightsError(f"format must be one of {', '.join(FORMATS)}. Received: {format!r}")
    tensors = read_tensors(path)
    settings = read_configuration(pathlib.Path(path))
    weights, heads = _translate(tensors, format)
    _check_shapes(weights.tensors)
    settings |= {name: value for name, value in (known or {}).items() if value is not None}
    settings["num_heads"] = num_heads or settings.get("num_heads") or heads
    if settings["num_heads"] is None:
        settings["num_heads"] = _usual_heads(weights)
    if weights.tensors["patch_embed.proj.weight"].shape[0] % settings["num_heads"]:
        raise WeightsError(
            "num_heads must divide the embedding size. Received: "
            f"num_heads={settings['num_heads']}, {weights.variant} of {_embed_dim(weights)}"
        )
    if weights.format == "transformers":  # where the configuration does not say
        settings.setdefault("layer_norm_epsilon", 1e-12)
        settings.setdefault("head_layer_norm_epsilon", settings["layer_norm_epsilon"])
    settings |= _geometry(weights, settings, likely or {})
    return _with_labels(PretrainedNetwork(weights=weights, **settings))


def _translate(
    tensors: Mapping[str, Array], format: str | None
) -> tuple[CanonicalWeights, int | None]:
    """Returns the canonical tensors and, where they show it, the number of heads."""
    garden = model_garden.is_model_garden(tensors)
    if garden and format in (None, "model_garden"):
        found, unused = model_garden.to_timm(tensors)
        if "cls_token" not in found:
            raise WeightsError(
                "AST reads its answer from a class token, and this network was trained without "
                "one (pooler gap or none in the Model Garden)"
            )
        origins = {name: ("the checkpoint",) for name in found}
        variant = "Model Garden ViT"
        canonical = CanonicalWeights("model_garden", variant, found, origins, unused)
        return canonical, model_garden.num_heads(tensors)
    if not garden and format == "model_garden":
        raise WeightsError("These are not the variables of the Model Garden's ViT")
    return to_canonical(tensors, format), None


def _embed_dim(weights: CanonicalWeights) -> int:
    return weights.tensors["patch_embed.proj.weight"].shape[0]


def _usual_heads(weights: CanonicalWeights) -> int:
    embed = _embed_dim(weights)
    if embed % 64:
        raise WeightsError(
            "The tensors do not show the number of attention heads, and this size is not a "
            "multiple of the usual 64: give num_heads, or convert the weights first with "
            "python -m ast_keras.convert --num_heads N. "
            f"Received: {weights.variant} of {embed}"
        )
    return embed // 64


def _check_shapes(tensors: Mapping[str, Array]) -> None:
    """Refuses tensors that do not fit each other, before anything is computed with them."""
    kernel = tensors["patch_embed.proj.weight"]
    hidden = tensors["blocks.0.mlp.fc1.weight"]
    if kernel.ndim != 4 or kernel.shape[1] not in (1, 3) or hidden.ndim != 2 or 0 in kernel.shape:
        raise WeightsError(
            "The patch kernel must be [embed, 1 or 3 channels, rows, columns]. "
            f"Received: {kernel.shape}"
        )
    embed, mlp = kernel.shape[0], hidden.shape[0]
    block = {
        "norm1": (embed,),
        "norm2": (embed,),
        "attn.qkv": (3 * embed, embed),
        "attn.proj": (embed, embed),
        "mlp.fc1": (mlp, embed),
        "mlp.fc2": (embed, mlp),
    }
    for name, value in tensors.items():
        stem, _, part = name.rpartition(".")
        stem = stem.split(".", 2)[2] if stem.startswith("blocks.") else stem
        expected = {**block, "norm": (embed,), "mlp_head.0": (embed,)}.get(stem)
        if stem == "mlp_head.1":
            expected = (tensors["mlp_head.1.bias"].size, embed)
        if name in ("cls_token", "dist_token"):
            expected = (1, 1, embed)
        elif name == "pos_embed":
            expected = (1, value.shape[1] if value.ndim == 3 else -1, embed)
        elif stem == "patch_embed.proj":
            expected = kernel.shape
        if expected is not None and part == "bias":
            expected = expected[:1]
        if value.shape != expected:
            raise WeightsError(
                "A tensor's shape does not fit the others. "
                f"Received: {name} {value.shape}, expected {expected}"
            )
        if not np.issubdtype(value.dtype, np.floating):
            raise WeightsError(f"Weights must be floating point. Received: {name} of {value.dtype}")


# --- What the tensors cannot say ---


def _geometry(
    weights: CanonicalWeights, settings: dict[str, Any], likely: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the grid of the positions, and for a spectrogram the size and strides behind it."""
    kernel = weights.tensors["patch_embed.proj.weight"]
    special = 1 + ("dist_token" in weights.tensors)
    num_patches = weights.tensors["pos_embed"].shape[1] - special
    if kernel.shape[1] == 3:
        for name in ("strides", "num_frames", "num_mel_bins", "mean", "std", "labels"):
            settings.pop(name, None)
        return {"grid": _square(num_patches)}
    for candidate in _candidates(settings, likely):
        sizes = (candidate["num_mel_bins"], candidate["num_frames"])
        grid = tuple(
            (size - patch) // stride + 1
            for size, patch, stride in zip(
                sizes, kernel.shape[2:], candidate["strides"], strict=True
            )
        )
        if min(grid) > 0 and math.prod(grid) == num_patches:
            return {**candidate, "grid": grid}
    said = ", ".join(f"{n}={settings[n]}" for n in _GEOMETRY if settings.get(n))
    raise WeightsError(
        "The number of patches is not that of a released AST: give the strides, num_frames and "
        f"num_mel_bins that the network was made for. Received: {num_patches} patches"
        + (f", {said}" if said else "")
    )


def _square(num_patches: int) -> Grid:
    side = math.isqrt(max(num_patches, 0))
    if side < 1 or side * side != num_patches:
        raise WeightsError(
            "An image network's patches must form a square, beside the class token and perhaps a "
            f"distillation token. Received: {num_patches} patches"
        )
    return side, side


def _candidates(settings: dict[str, Any], likely: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sizes to try: what is said alone if it is whole, else released ones, else the likely one."""
    released = [
        {"strides": (stride, stride), "num_frames": frames, "num_mel_bins": 128}
        for stride, frames in _RELEASED
    ]
    asked = {**released[0], **{n: likely[n] for n in _GEOMETRY if likely.get(n)}}
    said = {name: settings[name] for name in _GEOMETRY if settings.get(name)}
    return [{**candidate, **said} for candidate in (*released, asked)]


def _with_labels(source: PretrainedNetwork) -> PretrainedNetwork:
    """Adds the published labels where the number of classes, or their names, show them."""
    for name, classes, patches in (("audioset", 527, None), ("speech_commands", 35, 144)):
        if source.num_classes != classes or patches not in (None, math.prod(source.grid)):
            continue
        published = LabelSet.load(name)
        if source.labels is None or source.labels.names == published.names:
            activation = source.score_activation or "sigmoid"
            return dataclasses.replace(source, labels=published, score_activation=activation)
    if source.labels is not None and len(source.labels) != source.num_classes:
        raise WeightsError(
            "There must be one label for each class. "
            f"Received: {len(source.labels)} labels, {source.num_classes} classes"
        )
    return source

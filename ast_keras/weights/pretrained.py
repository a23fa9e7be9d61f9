"""`PretrainedNetwork`: tensors, architecture and labels read from files, without Keras."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet, labels_of_classes
from ast_keras.weights import model_garden
from ast_keras.weights.config_files import NetworkSettings, read_configuration
from ast_keras.weights.geometry import Geometry, InferredGeometry, infer_geometry, square_grid
from ast_keras.weights.naming import FORMATS, CanonicalWeights, to_canonical
from ast_keras.weights.readers import read_tensors
from ast_keras.weights.resize import Grid

Array = np.ndarray[Any, np.dtype[Any]]

_PATCH_KERNEL = "patch_embed.proj.weight"


@dataclasses.dataclass(frozen=True)
class PretrainedNetwork:
    """A network that a model can be built from.

    Args:
        weights: Its tensors under canonical names.
        num_heads: Number of attention heads per block.
        grid: Number of patches `(mel, time)` of the position embeddings; rows and columns for an
            image network.
        num_mel_bins: Height of the spectrogram, in mel bins; None for an image network.
        num_frames: Length of the spectrogram, in frames; None for an image network.
        strides: Step between patches `(mel, time)`; None for an image network.
        layer_norm_epsilon: Epsilon of the LayerNorms of the blocks and of the last one.
        head_layer_norm_epsilon: Epsilon of the LayerNorm of the head.
        mean: Mean of the log-mel values that the network was trained on; None if unknown.
        std: Standard deviation of the same values; None if unknown.
        filterbank_range: Frequencies and frames of the spectrogram; None if unknown, as for an
            image network.
        labels: The classes; None if unknown.
        score_activation: "sigmoid", "softmax", or None if unknown.
        thresholds: Score of each class from which it is reported; None if there are none.
        backbone_class: Class of the backbone that computes this network; None for `ASTBackbone`.
        backbone_arguments: Arguments of the backbone besides architecture and geometry, such as
            `padding`, `dtype`, and `block_columns` of a causal backbone.
        trainable_parts: What trains in the classifier, see `ast_keras.models.trainable_parts`.
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
    filterbank_range: FilterbankRange | None = None
    labels: LabelSet | None = None
    score_activation: str | None = None
    thresholds: tuple[float, ...] | None = None
    backbone_class: type[Any] | None = None
    backbone_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    trainable_parts: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, Array]:
        """The tensors by canonical name."""
        return self.weights.tensors

    @property
    def embed_dim(self) -> int:
        """Size of every token."""
        return self.tensors[_PATCH_KERNEL].shape[0]

    @property
    def num_layers(self) -> int:
        """Number of transformer blocks."""
        return sum(name.endswith(".norm1.weight") for name in self.tensors)

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP of each block."""
        return self.tensors["blocks.0.mlp.fc1.weight"].shape[0]

    @property
    def patch_size(self) -> Grid:
        """Patch size `(mel, time)`."""
        rows, columns = self.tensors[_PATCH_KERNEL].shape[2:]
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
        """Number of outputs of AST's head; None for a network without one."""
        kernel = self.tensors.get("mlp_head.1.weight")
        return None if kernel is None else kernel.shape[0]

    @property
    def description(self) -> str:
        """Size and number of classes in one line, for printing."""
        grid = " x ".join(map(str, self.grid))
        classes = f"{self.num_classes} classes" if self.num_classes else "no audio head"
        return (
            f"{self.num_layers} blocks of {self.embed_dim}, {self.num_heads} heads, "
            f"{grid} patches of {' x '.join(map(str, self.patch_size))}, {classes}"
        )


def read_pretrained(
    path: str | os.PathLike[str],
    format: str | None = None,
    num_heads: int | None = None,
    known: NetworkSettings | None = None,
    fallback_geometry: Geometry | None = None,
) -> PretrainedNetwork:
    """Reads a pretrained network from a file or folder.

    The tensors do not show the number of heads, the strides, the spectrogram size, the LayerNorm
    epsilon, the normalisation and the labels. These come from `known`, then from `config.json`,
    `preprocessor_config.json` and `labels.csv` next to the weights. Without them, heads are assumed
    to be 64 wide, and the spectrogram to be that of a released AST with the same number of patches.

    Args:
        path: A safetensors file, a PyTorch file or a TensorFlow checkpoint, or the folder that
            holds one.
        format: "authors", "timm", "transformers" or "model_garden"; None to detect it.
        num_heads: Number of attention heads; None to take it from the files or the rule above.
        known: Settings that override those of the files.
        fallback_geometry: Geometry that is tried if nothing states it and no released model fits.

    Returns:
        The network.

    Raises:
        WeightsError: If the files cannot be read, or do not hold one complete network of a known
            format.
        LabelError: If the number of labels is not the number of classes.
    """
    if format not in (None, *FORMATS):
        raise WeightsError(f"format must be one of {', '.join(FORMATS)}. Received: {format!r}")
    tensors = read_tensors(path)
    settings = read_configuration(pathlib.Path(path)).overridden_by(known or NetworkSettings())
    weights, heads_of_tensors = _to_canonical(tensors, format)
    _check_shapes(weights.tensors)
    heads = _choose_heads(weights, num_heads or settings.num_heads or heads_of_tensors)
    values = settings.known() | {"num_heads": heads}
    if weights.format == "transformers":  # the library's own defaults
        values.setdefault("layer_norm_epsilon", 1e-12)
        values.setdefault("head_layer_norm_epsilon", values["layer_norm_epsilon"])
    values["filterbank_range"] = FilterbankRange(values.pop("sample_rate", 16000))
    if weights.tensors[_PATCH_KERNEL].shape[1] == 3:  # settings of audio do not apply to images
        values["filterbank_range"] = None
        for name in ("mean", "std", "labels"):
            values.pop(name, None)
    values |= dataclasses.asdict(_geometry(weights, settings, fallback_geometry))
    return _with_labels(PretrainedNetwork(weights=weights, **values))


def _to_canonical(
    tensors: Mapping[str, Array], format: str | None
) -> tuple[CanonicalWeights, int | None]:
    """Returns the canonical tensors and, if the tensors show it, the number of heads."""
    garden = model_garden.is_model_garden(tensors)
    if garden and format in (None, "model_garden"):
        found, unused = model_garden.to_timm(tensors)
        if "cls_token" not in found:
            raise WeightsError(
                "AST needs a class token, and this network was trained without one (its pooler is "
                "gap or none). Received: a Model Garden ViT without cls"
            )
        origins = {name: ("the checkpoint",) for name in found}
        variant = "Model Garden ViT"
        canonical = CanonicalWeights("model_garden", variant, found, origins, unused)
        return canonical, model_garden.num_heads(tensors)
    if not garden and format == "model_garden":
        raise WeightsError(
            "These tensors are not the variables of the Model Garden's ViT. "
            "Received: format='model_garden'"
        )
    return to_canonical(tensors, format), None


def _choose_heads(weights: CanonicalWeights, num_heads: int | None) -> int:
    """Checks the number of heads; without one, assumes heads of 64."""
    embed = weights.tensors[_PATCH_KERNEL].shape[0]
    if num_heads is None and embed % 64:
        raise WeightsError(
            "The tensors do not show the number of attention heads, and the embedding size is not "
            "a multiple of the usual 64: give num_heads, or convert the weights first with "
            "python -m ast_keras.convert --num_heads N. "
            f"Received: {weights.variant} of {embed}"
        )
    heads = num_heads or embed // 64
    if embed % heads:
        raise WeightsError(
            "num_heads must divide the embedding size. Received: "
            f"num_heads={heads}, {weights.variant} of {embed}"
        )
    return heads


def _check_shapes(tensors: Mapping[str, Array]) -> None:
    """Refuses tensors whose shapes do not fit each other, before anything is computed with them."""
    kernel = tensors[_PATCH_KERNEL]
    hidden = tensors["blocks.0.mlp.fc1.weight"]
    if kernel.ndim != 4 or kernel.shape[1] not in (1, 3) or hidden.ndim != 2 or 0 in kernel.shape:
        raise WeightsError(
            "The patch kernel must be [embed, 1 or 3 channels, rows, columns]. "
            f"Received: {kernel.shape}"
        )
    embed, mlp = kernel.shape[0], hidden.shape[0]
    positions = tensors["pos_embed"]
    tokens = positions.shape[1] if positions.ndim == 3 else -1
    classes = tensors["mlp_head.1.bias"].size if "mlp_head.1.bias" in tensors else -1
    # The first pattern that matches a whole name; a bias has the first axis of its kernel.
    expected: dict[str, tuple[int, ...]] = {
        r"(cls|dist)_token": (1, 1, embed),
        r"pos_embed": (1, tokens, embed),
        r"patch_embed\.proj\.": kernel.shape,
        r"blocks\.\d+\.norm[12]\.": (embed,),
        r"blocks\.\d+\.attn\.qkv\.": (3 * embed, embed),
        r"blocks\.\d+\.attn\.proj\.": (embed, embed),
        r"blocks\.\d+\.mlp\.fc1\.": (mlp, embed),
        r"blocks\.\d+\.mlp\.fc2\.": (embed, mlp),
        r"norm\.": (embed,),
        r"mlp_head\.0\.": (embed,),
        r"mlp_head\.1\.": (classes, embed),
    }
    for name, value in tensors.items():
        shape = next(s for pattern, s in expected.items() if re.match(pattern, name))
        if name.endswith(".bias"):
            shape = shape[:1]
        if value.shape != shape:
            raise WeightsError(
                "A tensor's shape does not fit the others. "
                f"Received: {name} {value.shape}, expected {shape}"
            )
        if not np.issubdtype(value.dtype, np.floating):
            raise WeightsError(f"Weights must be floating point. Received: {name} of {value.dtype}")


def _geometry(
    weights: CanonicalWeights, settings: NetworkSettings, fallback_geometry: Geometry | None
) -> InferredGeometry:
    """Returns the geometry that the position embeddings belong to."""
    kernel = weights.tensors[_PATCH_KERNEL]
    num_patches = weights.tensors["pos_embed"].shape[1] - 1 - ("dist_token" in weights.tensors)
    if kernel.shape[1] == 3:
        return square_grid(num_patches)
    stated = Geometry(
        num_frames=settings.num_frames,
        num_mel_bins=settings.num_mel_bins,
        strides=settings.strides,
    )
    patch_size = (kernel.shape[2], kernel.shape[3])
    return infer_geometry(num_patches, patch_size, stated, fallback_geometry)


def _with_labels(network: PretrainedNetwork) -> PretrainedNetwork:
    """Adds the published labels if the number of classes, or their names, identify them."""
    for name, classes, patches in (("audioset", 527, None), ("speech_commands", 35, 144)):
        if network.num_classes != classes or patches not in (None, math.prod(network.grid)):
            continue
        published = LabelSet.load(name)
        if network.labels is None or network.labels.names == published.names:
            activation = network.score_activation or "sigmoid"
            return dataclasses.replace(network, labels=published, score_activation=activation)
    if network.labels is not None:
        labels_of_classes(network.labels, network.num_classes)
    return network

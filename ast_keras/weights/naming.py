"""Tensor names of the published implementations, translated to canonical names and back.

Canonical names are those of timm, with the layouts of PyTorch: `cls_token`, `dist_token`,
`pos_embed`, `patch_embed.proj.*`, `blocks.N.*`, `norm.*`, and AST's head as `mlp_head.0.*`
(LayerNorm) and `mlp_head.1.*` (Dense). One `Naming` serves both directions. Only NumPy is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError

Array = np.ndarray[Any, np.dtype[Any]]

FORMATS = ("authors", "timm", "transformers", "model_garden")

_TIMM = {
    "cls_token": "cls_token",
    "dist_token": "dist_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj": "patch_embed.proj",
    "norm": "norm",
}
_TIMM_BLOCK = {
    "norm1": ("norm1",),
    "attn.qkv": ("attn.qkv",),
    "attn.proj": ("attn.proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
_TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_TRANSFORMERS_4_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
_TRANSFORMERS_5_BLOCK = {
    "norm1": ("layernorm_before",),
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


@dataclass(frozen=True)
class Naming:
    """The tensor names of one implementation.

    Args:
        format: One of `FORMATS`.
        variant: Exact description for messages, such as "transformers 4 AST".
        prefix: Prefix of every name except those of the head.
        outside: Names outside the blocks, by canonical name.
        block: Prefix of the names in a block, after `prefix`, with `{}` for the index of the block.
        inside: Names inside a block, by canonical name. Several names are stacked along the first
            axis.
        head: Names of the LayerNorm and the Dense layer of the head; None without a head.
        unused: Prefixes of names that AST does not use, with the reason.
    """

    format: str
    variant: str
    prefix: str
    outside: Mapping[str, str]
    block: str
    inside: Mapping[str, tuple[str, ...]]
    head: tuple[str, str] | None = None
    unused: Mapping[str, str] = field(default_factory=dict)

    def recognises(self, names: Iterable[str]) -> bool:
        """Returns whether tensor names follow this naming, by two names that no other one has."""
        signs = (self.prefix + self.outside["pos_embed"], self._in_block(0, "norm1", "weight")[0])
        return set(signs) <= set(names)

    def table(self, num_layers: int) -> dict[str, tuple[str, ...]]:
        """Returns the names of every tensor of a network, by canonical name.

        Args:
            num_layers: Number of transformer blocks.
        """
        start, names = self.prefix, self.outside
        table: dict[str, tuple[str, ...]] = {
            name: (start + names[name],) for name in ("cls_token", "dist_token", "pos_embed")
        }
        for part in ("weight", "bias"):
            for stem in ("patch_embed.proj", "norm"):
                table[f"{stem}.{part}"] = (f"{start}{names[stem]}.{part}",)
            for index, stem in enumerate(self.head or ()):
                table[f"mlp_head.{index}.{part}"] = (f"{stem}.{part}",)
            for layer in range(num_layers):
                for stem in self.inside:
                    theirs = self._in_block(layer, stem, part)
                    table[f"blocks.{layer}.{stem}.{part}"] = theirs
        return table

    def _in_block(self, layer: int, stem: str, part: str) -> tuple[str, ...]:
        start = self.prefix + self.block.format(layer)
        return tuple(f"{start}{name}.{part}" for name in self.inside[stem])

    def reason_unused(self, name: str) -> str | None:
        """Returns why AST does not use a tensor; None for a tensor of unknown purpose."""
        for start, reason in self.unused.items():
            if name.startswith(start):
                return reason
        return None


_IMAGE_HEAD = "ImageNet head, AST has its own"
_POOLER = "not part of the classifier"


def _transformers(variant: str, prefix: str, version: int, head: bool = False) -> Naming:
    unused = {
        "classifier.": _IMAGE_HEAD,
        "cls_classifier.": _IMAGE_HEAD,
        "distillation_classifier.": _IMAGE_HEAD,
        f"{prefix}pooler.": _POOLER,
        f"{prefix}embeddings.mask_token": _POOLER,
    }
    return Naming(
        format="transformers",
        variant=f"transformers {version} {variant}",
        prefix=prefix,
        outside=_TRANSFORMERS,
        block="encoder.layer.{}." if version == 4 else "layers.{}.",
        inside=_TRANSFORMERS_4_BLOCK if version == 4 else _TRANSFORMERS_5_BLOCK,
        head=("classifier.layernorm", "classifier.dense") if head else None,
        unused={} if head else unused,
    )


AUTHORS = Naming(
    format="authors",
    variant="the authors' AST",
    prefix="v.",
    outside=_TIMM,
    block="blocks.{}.",
    inside=_TIMM_BLOCK,
    head=("mlp_head.0", "mlp_head.1"),
    unused={
        "v.head.": "timm's head, unused by AST",
        "v.head_dist.": "timm's head, unused by AST",
    },
)
TRANSFORMERS = _transformers("AST", "audio_spectrogram_transformer.", 4, head=True)
NAMINGS = (
    AUTHORS,
    TRANSFORMERS,
    _transformers("AST", "audio_spectrogram_transformer.", 5, head=True),
    Naming(
        format="timm",
        variant="timm ViT or DeiT",
        prefix="",
        outside=_TIMM,
        block="blocks.{}.",
        inside=_TIMM_BLOCK,
        unused={"head.": _IMAGE_HEAD, "head_dist.": _IMAGE_HEAD, "pre_logits.": _POOLER},
    ),
    *(
        _transformers(variant, prefix, version)
        for version in (4, 5)
        for variant, prefix in (("DeiT", "deit."), ("ViT", "vit."), ("without head", ""))
    ),
)


@dataclass(frozen=True)
class CanonicalWeights:
    """Tensors under canonical names, and where each comes from.

    Args:
        format: One of `FORMATS`.
        variant: Exact description for messages, such as "transformers 4 AST".
        tensors: Tensors by canonical name, in the layout of PyTorch.
        origins: Original names of each canonical tensor.
        unused: Original names of tensors that AST does not use, with the reason.
    """

    format: str
    variant: str
    tensors: Mapping[str, Array]
    origins: Mapping[str, tuple[str, ...]]
    unused: Mapping[str, str]


def recognise(names: Iterable[str]) -> Naming | None:
    """Returns the naming that tensor names follow, or None.

    Example:

    >>> recognise(["v.pos_embed", "v.blocks.0.norm1.weight"]).variant
    "the authors' AST"
    """
    names = list(names)
    return next((naming for naming in NAMINGS if naming.recognises(names)), None)


def to_canonical(tensors: Mapping[str, Array], format: str | None = None) -> CanonicalWeights:
    """Translates tensors to canonical names. No tensor is dropped silently.

    Args:
        tensors: Tensors by original name, with or without the prefix `module.` of `DataParallel`.
        format: One of `FORMATS`; None to detect it.

    Returns:
        The canonical tensors, and where they come from.

    Raises:
        WeightsError: If the names follow no known naming or not that of `format`, if a tensor is
            missing, or if one is unknown.
    """
    plain = {name.removeprefix("module."): value for name, value in tensors.items()}
    if len(plain) != len(tensors):
        twice = next(name for name in plain if name in tensors and f"module.{name}" in tensors)
        raise WeightsError(
            f"A tensor appears twice, with and without the prefix module. Received: {twice}"
        )
    tensors, naming = plain, recognise(plain)
    if naming is None:
        some = ", ".join(sorted(tensors)[:3]) or "no tensors"
        raise WeightsError(
            "These are not the tensors of an AST, DeiT or ViT in a known format "
            f"({', '.join(FORMATS)}). Received: {some}"
        )
    if format not in (None, naming.format):
        raise WeightsError(
            f"These tensors have the names of {naming.variant}: leave format out, or set it to "
            f"{naming.format!r}. Received: format={format!r}"
        )
    return _translate(tensors, naming)


def _translate(tensors: Mapping[str, Array], naming: Naming) -> CanonicalWeights:
    num_layers = _count_layers(tensors, naming)
    found: dict[str, Array] = {}
    origins: dict[str, tuple[str, ...]] = {}
    for name, theirs in naming.table(num_layers).items():
        present = [t for t in theirs if t in tensors]
        if not present and _may_lack(name, naming):
            continue
        if len(present) != len(theirs):
            missing = next(t for t in theirs if t not in tensors)
            raise WeightsError(
                f"This file lacks a tensor of {naming.variant}: it may be incomplete. "
                f"Missing: {missing}"
            )
        found[name] = _stack([tensors[t] for t in theirs], theirs)
        origins[name] = theirs
    used = {name for names in origins.values() for name in names}
    unused = {}
    for name in sorted(set(tensors) - used):
        reason = naming.reason_unused(name)
        if reason is None:
            raise WeightsError(
                f"This file holds a tensor that {naming.variant} does not have, so it belongs to "
                f"another network. Received: {name} {tuple(np.shape(tensors[name]))}"
            )
        unused[name] = reason
    return CanonicalWeights(naming.format, naming.variant, found, origins, unused)


def _count_layers(tensors: Mapping[str, Array], naming: Naming) -> int:
    count = 0
    while naming._in_block(count, "norm1", "weight")[0] in tensors:
        count += 1
    return count


def _may_lack(name: str, naming: Naming) -> bool:
    """Returns whether a tensor is optional: a ViT has no distillation token, every AST has one."""
    return name == "dist_token" and naming.head is None


def _stack(parts: list[Array], names: tuple[str, ...]) -> Array:
    if len(parts) == 1:
        return parts[0]
    if len({part.shape for part in parts}) > 1 or not parts[0].ndim:
        shapes = ", ".join(f"{n} {p.shape}" for n, p in zip(names, parts, strict=True))
        raise WeightsError(f"Queries, keys and values must have one shape. Received: {shapes}")
    return np.concatenate(parts)


def from_canonical(tensors: Mapping[str, Array], naming: Naming) -> dict[str, Array]:
    """Returns canonical tensors under the names of an implementation: inverts `to_canonical`.

    Args:
        tensors: Tensors by canonical name.
        naming: The names to use.

    Returns:
        The tensors by the implementation's names; stacked tensors are split.

    Example:

    >>> block = {"blocks.0.attn.qkv.bias": np.arange(6.0)}
    >>> named = from_canonical(block, TRANSFORMERS)
    >>> named["audio_spectrogram_transformer.encoder.layer.0.attention.attention.key.bias"]
    array([2., 3.])
    """
    num_layers = 1 + max(
        (int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), default=-1
    )
    table = naming.table(num_layers)
    return {
        theirs: part
        for name, value in tensors.items()
        for theirs, part in zip(table[name], np.split(value, len(table[name])), strict=True)
    }

"""The tensors of a small network under the names of every supported source, written by hand."""

import numpy as np

EMBED, MLP, LAYERS, CLASSES = 12, 20, 2, 4
# Canonical names, to which the names of every source are converted.
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
ROWS = {"attn.qkv": 3 * EMBED, "mlp.fc1": MLP}
COLUMNS = {"mlp.fc2": MLP}
AST = "audio_spectrogram_transformer"


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


RNG = np.random.default_rng(3)


def canonical(channels=1, distilled=True, grid=(2, 3), head=True, patch=(4, 4)):
    """Returns random tensors under canonical names."""
    tensors = {
        "cls_token": random(1, 1, EMBED),
        "pos_embed": random(1, 1 + distilled + grid[0] * grid[1], EMBED),
        "patch_embed.proj.weight": random(EMBED, channels, *patch),
        "patch_embed.proj.bias": random(EMBED),
    }
    if distilled:
        tensors["dist_token"] = random(1, 1, EMBED)
    for layer in range(LAYERS):
        for part in PARTS:
            rows = ROWS.get(part, EMBED)
            kernel = (rows,) if part.startswith("norm") else (rows, COLUMNS.get(part, EMBED))
            tensors[f"blocks.{layer}.{part}.weight"] = random(*kernel)
            tensors[f"blocks.{layer}.{part}.bias"] = random(rows)
    for name, rows in (("norm", None), *([("mlp_head.0", None), ("mlp_head.1", CLASSES)] * head)):
        tensors[f"{name}.weight"] = random(*([EMBED] if rows is None else [rows, EMBED]))
        tensors[f"{name}.bias"] = random(rows or EMBED)
    return tensors


def authors(tensors, prefix="module."):
    """Returns canonical tensors under the names of the authors' AST, with timm's unused heads."""
    named = {
        prefix + (name if name.startswith("mlp_head") else f"v.{name}"): value
        for name, value in tensors.items()
    }
    for head in ("head", "head_dist"):
        named[f"{prefix}v.{head}.weight"] = random(7, EMBED)
        named[f"{prefix}v.{head}.bias"] = random(7)
    return named


def timm(tensors):
    """Returns canonical tensors under the names of timm's DeiT or ViT, with its heads."""
    named = {**tensors, "head.weight": random(7, EMBED), "head.bias": random(7)}
    if "dist_token" in tensors:
        named |= {"head_dist.weight": random(7, EMBED), "head_dist.bias": random(7)}
    return named


def transformers(tensors, prefix, version, extra=()):
    """Returns canonical tensors under the names of transformers.

    Args:
        tensors: Tensors by canonical name.
        prefix: Prefix of the names: "deit.", "vit.", "" or "audio_spectrogram_transformer.".
        version: Major version of transformers, 4 or 5.
        extra: Names of additional tensors, those of the heads.
    """
    attention = "attention.attention." if version == 4 else "attention."
    parts = ("query", "key", "value") if version == 4 else ("q_proj", "k_proj", "v_proj")
    inner = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense" if version == 4 else "attention.o_proj",
        "mlp.fc1": "intermediate.dense" if version == 4 else "mlp.fc1",
        "mlp.fc2": "output.dense" if version == 4 else "mlp.fc2",
    }
    outer = {
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    named = {
        f"{prefix}{theirs}": tensors[ours] for ours, theirs in outer.items() if ours in tensors
    }
    for layer in range(LAYERS):
        start = prefix + (f"encoder.layer.{layer}." if version == 4 else f"layers.{layer}.")
        for kind in ("weight", "bias"):
            for ours, theirs in inner.items():
                named[f"{start}{theirs}.{kind}"] = tensors[f"blocks.{layer}.{ours}.{kind}"]
            stacked = tensors[f"blocks.{layer}.attn.qkv.{kind}"]
            for index, part in enumerate(parts):
                rows = stacked[index * EMBED : (index + 1) * EMBED]
                named[f"{start}{attention}{part}.{kind}"] = rows
    for index, part in enumerate(("layernorm", "dense")):
        if f"mlp_head.{index}.weight" in tensors:
            for kind in ("weight", "bias"):
                named[f"classifier.{part}.{kind}"] = tensors[f"mlp_head.{index}.{kind}"]
    return named | {name: random(EMBED) for name in extra}


def model_garden(tensors, heads):
    """Returns the canonical tensors of a ViT under the names of the Model Garden's backbone."""
    encoder = "backbone/layer_with_weights-2"
    named = {
        "backbone/layer_with_weights-0/kernel": tensors["patch_embed.proj.weight"].transpose(
            2, 3, 1, 0
        ),
        "backbone/layer_with_weights-0/bias": tensors["patch_embed.proj.bias"],
        "backbone/layer_with_weights-1/cls": tensors["cls_token"],
        f"{encoder}/_pos_embed/pos_embedding": tensors["pos_embed"],
        f"{encoder}/_norm/gamma": tensors["norm.weight"],
        f"{encoder}/_norm/beta": tensors["norm.bias"],
    }
    inner = {"_intermediate_dense": "mlp.fc1", "_output_dense": "mlp.fc2"}
    norms = {"_attention_layer_norm": "norm1", "_output_layer_norm": "norm2"}
    for layer in range(LAYERS):
        block, start = f"blocks.{layer}.", f"{encoder}/_encoder_layers/{layer}/"
        for theirs, ours in inner.items():
            named[f"{start}{theirs}/kernel"] = tensors[f"{block}{ours}.weight"].T
            named[f"{start}{theirs}/bias"] = tensors[f"{block}{ours}.bias"]
        for theirs, ours in norms.items():
            named[f"{start}{theirs}/gamma"] = tensors[f"{block}{ours}.weight"]
            named[f"{start}{theirs}/beta"] = tensors[f"{block}{ours}.bias"]
        kernels = np.split(tensors[f"{block}attn.qkv.weight"], 3)
        biases = np.split(tensors[f"{block}attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            dense = f"{start}_attention_layer/_{part}_dense"
            named[f"{dense}/kernel"] = kernel.T.reshape(EMBED, heads, -1)
            named[f"{dense}/bias"] = bias.reshape(heads, -1)
        dense = f"{start}_attention_layer/_output_dense"
        named[f"{dense}/kernel"] = tensors[f"{block}attn.proj.weight"].T.reshape(heads, -1, EMBED)
        named[f"{dense}/bias"] = tensors[f"{block}attn.proj.bias"]
    return named

"""Tensor names of every implementation are recognised, and no tensor is dropped silently."""

import numpy as np
import pytest

from ast_keras.errors import WeightsError
from ast_keras.weights.naming import AUTHORS, NAMINGS, TRANSFORMERS, from_canonical, to_canonical
from tests.reference import named_weights
from tests.reference.named_weights import AST, authors, canonical, timm, transformers

SOUND = canonical()
DEIT = canonical(channels=3, head=False)
VIT = canonical(channels=3, head=False, distilled=False)
DEIT_HEADS = [
    f"{head}_classifier.{part}" for head in ("cls", "distillation") for part in ("weight", "bias")
]
VIT_HEAD = ["classifier.weight", "classifier.bias"]
POOLER = ["pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"]
TIMM_HEADS = [f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")]

# Variant: original tensors, expected canonical tensors, names of unused tensors.
CASES = {
    "the authors' AST": (authors(SOUND), SOUND, [f"v.{name}" for name in TIMM_HEADS]),
    "the authors' AST, not parallel": (
        authors(SOUND, ""),
        SOUND,
        [f"v.{name}" for name in TIMM_HEADS],
    ),
    "timm ViT or DeiT, distilled": (timm(DEIT), DEIT, TIMM_HEADS),
    "timm ViT or DeiT, plain": (timm(VIT), VIT, TIMM_HEADS[:2]),
    "timm ViT or DeiT, bare": (VIT, VIT, []),
}
for _version in (4, 5):
    CASES |= {
        f"transformers {_version} AST": (transformers(SOUND, f"{AST}.", _version), SOUND, []),
        f"transformers {_version} DeiT": (
            transformers(DEIT, "deit.", _version, DEIT_HEADS),
            DEIT,
            DEIT_HEADS,
        ),
        f"transformers {_version} ViT": (
            transformers(VIT, "vit.", _version, VIT_HEAD),
            VIT,
            VIT_HEAD,
        ),
        f"transformers {_version} without head": (
            transformers(DEIT, "", _version, POOLER),
            DEIT,
            POOLER,
        ),
    }


@pytest.mark.parametrize("name", CASES)
def test_source_is_recognised_and_translated(name):
    tensors, expected, unused = CASES[name]
    found = to_canonical(tensors)
    assert found.variant == name.split(",")[0]
    assert set(found.tensors) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found.tensors[key], value, strict=True)
    assert set(found.unused) == set(unused)
    assert all(found.unused.values())  # each has a reason
    plain = {key.removeprefix("module.") for key in tensors}
    assert {t for names in found.origins.values() for t in names} | set(unused) == plain
    assert to_canonical(tensors, found.format).variant == found.variant


def test_every_naming_has_a_case():
    assert {to_canonical(CASES[name][0]).variant for name in CASES} == {
        naming.variant for naming in NAMINGS
    }


@pytest.mark.parametrize("name", CASES)
def test_source_without_any_one_tensor_is_refused(name):
    tensors, expected, unused = CASES[name]
    for missing in tensors:
        short = missing.removeprefix("module.")
        rest = {key: value for key, value in tensors.items() if key != missing}
        if short in unused:
            assert to_canonical(rest).tensors.keys() == expected.keys()
        elif short.endswith(("dist_token", "distillation_token")) and expected is DEIT:
            # By its names a plain ViT; the number of positions does not fit, see test_pretrained.
            assert to_canonical(rest).tensors.keys() == expected.keys() - {"dist_token"}
        else:
            with pytest.raises(WeightsError) as error:
                to_canonical(rest)
            # Without names that identify the format or count the blocks, the error is another.
            sign = short.endswith(("pos_embed", "position_embeddings"))
            sign |= short.endswith(("norm1.weight", "layernorm_before.weight"))
            assert sign or f"Missing: {short}" in str(error.value)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_source_with_one_more_tensor_is_refused(name):
    tensors = CASES[name][0]
    for extra in ("fc_norm.weight", "v.blocks.0.ls1.gamma", "blocks.9.norm1.weight"):
        more = {**tensors, extra: np.ones(5, "float32")}
        with pytest.raises(WeightsError, match=rf"does not have.*Received: {extra} \(5,\)"):
            to_canonical(more)


def test_tensor_twice_is_refused():
    tensors = authors(SOUND) | {"v.cls_token": np.zeros((1, 1, 12), "float32")}
    with pytest.raises(WeightsError, match=r"without the prefix module\..*Received: v.cls_token"):
        to_canonical(tensors)


@pytest.mark.parametrize("tensors", [{}, {"weight": np.ones(3)}, {"encoder.pos_embed": np.ones(3)}])
def test_unknown_source_is_refused(tensors):
    with pytest.raises(WeightsError, match="not the tensors of an AST, DeiT or ViT"):
        to_canonical(tensors)


@pytest.mark.parametrize("format", ["timm", "transformers", "model_garden"])
def test_wrong_format_is_refused(format):
    with pytest.raises(WeightsError, match=f"set it to 'authors'. Received: format='{format}'"):
        to_canonical(authors(SOUND), format)


@pytest.mark.parametrize("shape", [(), (11,), (12, 1)])
def test_queries_keys_and_values_of_different_shapes_are_refused(shape):
    tensors = transformers(SOUND, f"{AST}.", 4)
    tensors[f"{AST}.encoder.layer.1.attention.attention.key.bias"] = np.zeros(shape, "float32")
    with pytest.raises(WeightsError, match="Queries, keys and values must have one shape"):
        to_canonical(tensors)


@pytest.mark.parametrize(
    ("naming", "expected"),
    [
        (AUTHORS, {n: v for n, v in authors(SOUND, "").items() if ".head" not in n}),
        (TRANSFORMERS, transformers(SOUND, f"{AST}.", 4)),
    ],
)
def test_from_canonical_is_the_reverse(naming, expected):
    named = from_canonical(SOUND, naming)
    assert set(named) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(named[key], value, strict=True)


def test_network_of_another_depth_is_counted(monkeypatch):
    monkeypatch.setattr(named_weights, "LAYERS", 11)  # two digits: block 10 comes before block 2
    deep = canonical()
    found = to_canonical(transformers(deep, f"{AST}.", 5))
    assert set(found.tensors) == set(deep)
    for key, value in from_canonical(found.tensors, TRANSFORMERS).items():
        np.testing.assert_array_equal(value, transformers(deep, f"{AST}.", 4)[key])

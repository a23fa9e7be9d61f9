"""Weights become models, and models become weights files, bit for bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import LabelError, WeightsError
from ast_keras.labels import LabelSet
from ast_keras.layers import initializers
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.weights.assign import assign_canonical, canonical_tensors, layouts, weights_by_path
from ast_keras.weights.build import adapt, as_pretrained, build_classifier
from ast_keras.weights.config_files import NetworkSettings
from ast_keras.weights.export import export_weights
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import choose_head
from ast_keras.weights.pretrained import read_pretrained
from ast_keras.weights.readers.safetensors import read_safetensors, write_safetensors
from tests.helpers import arrays
from tests.helpers.paths import GOLDENS
from tests.reference.named_weights import (
    AST,
    EMBED,
    authors,
    canonical,
    model_garden,
    timm,
    transformers,
)

GOLDEN = GOLDENS / "original_small.safetensors"
SIZE = {"strides": (4, 4), "num_frames": 12, "num_mel_bins": 8}  # 2 x 3 patches of 4 x 4
SMALL = {"num_heads": 3, "frontend": None}
ONE_BLOCK = {"embed_dim": 48, "num_layers": 1, "num_heads": 3, "mlp_dim": 96}
SPECTROGRAM = np.random.default_rng(4).standard_normal((2, 256, 128)).astype("float32")
DEIT = canonical(channels=3, head=False, grid=(3, 3))
VIT = canonical(channels=3, head=False, grid=(3, 3), distilled=False)
SOUND = canonical()


def golden_model(**arguments):
    return from_preset(GOLDEN, **{**SMALL, "num_frames": 256, **arguments})


def assert_same(found, expected):
    arrays.assert_same(dict(sorted(found.items())), dict(sorted(expected.items())))


def saved(folder, tensors):
    path = folder / "model.safetensors"
    write_safetensors(path, {n: np.ascontiguousarray(v) for n, v in tensors.items()})
    return path


def checkpoint(folder, tensors):
    """Writes a TensorFlow checkpoint and returns its prefix."""
    names = [f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in tensors]
    prefix = str(folder / "ckpt-1")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[np.ascontiguousarray(value) for value in tensors.values()],
    )
    return prefix


# --- Round trips ---

SOUNDS = {
    "authors": authors(SOUND),
    "authors, not parallel": authors(SOUND, ""),
    "transformers 4": transformers(SOUND, f"{AST}.", 4),
    "transformers 5": transformers(SOUND, f"{AST}.", 5),
}
IMAGES = {
    "timm": (timm(DEIT), DEIT),
    "timm, plain": (timm(VIT), VIT),
    "transformers 4 DeiT": (transformers(DEIT, "deit.", 4), DEIT),
    "transformers 5 DeiT": (transformers(DEIT, "deit.", 5), DEIT),
    "transformers 4 ViT": (transformers(VIT, "vit.", 4), VIT),
    "transformers 5 bare": (transformers(VIT, "", 5), VIT),
    "model garden": (model_garden(VIT, 3), VIT),
}


def assert_round_trips(model, tmp_path):
    """Exports a model to each format and reads it back, as tensors and as a model."""
    tensors = canonical_tensors(model)
    size = {name: getattr(model.backbone, name) for name in SIZE}
    for to in ("authors", "transformers"):
        export_weights(model, tmp_path / to, to)
        again = read_pretrained(tmp_path / to, num_heads=3, fallback_geometry=Geometry(**size))
        assert_same(again.weights.tensors, tensors)
        assert again.grid == model.backbone.grid
        assert_same(canonical_tensors(build_classifier(again)), tensors)
    save_to_preset(model, tmp_path / "ours")
    assert_same(canonical_tensors(from_preset(tmp_path / "ours")), tensors)


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_round_trip_is_bit_identical(name, tmp_path):
    source = read_pretrained(
        saved(tmp_path, SOUNDS[name]), num_heads=3, fallback_geometry=Geometry(**SIZE)
    )
    model = build_classifier(source)
    assert_same(canonical_tensors(model), SOUND)
    assert_round_trips(model, tmp_path)


@pytest.mark.parametrize("name", IMAGES)
def test_image_round_trip_is_bit_identical(name, tmp_path):
    tensors, expected = IMAGES[name]
    write = checkpoint if name == "model garden" else saved
    source = read_pretrained(write(tmp_path, tensors), num_heads=3)
    assert_same(source.weights.tensors, expected)
    # A grid of 2 x 3 patches, cut from 3 x 3.
    model = build_classifier(source, choose_head(source, 5), Geometry(**SIZE))
    found = canonical_tensors(model)
    adapted = {"pos_embed", "patch_embed.proj.weight"}
    for key in expected.keys() - adapted:
        np.testing.assert_array_equal(found[key], expected[key], strict=True)
    kernel = expected["patch_embed.proj.weight"]
    np.testing.assert_array_equal(found["patch_embed.proj.weight"], kernel.sum(1, keepdims=True))
    special = expected["pos_embed"].shape[1] - 9
    grid = expected["pos_embed"][0, special:].reshape(3, 3, EMBED)
    np.testing.assert_array_equal(found["pos_embed"][0, special:], grid[:2].reshape(6, EMBED))
    np.testing.assert_array_equal(
        found["pos_embed"][:, :special], expected["pos_embed"][:, :special]
    )
    if "dist_token" in expected:
        assert_round_trips(model, tmp_path)


@pytest.mark.parametrize("name", ["original_small.pth", "hf_ast_small"])
def test_golden_round_trip_is_bit_identical(name, tmp_path):
    model = from_preset(GOLDENS / name, num_heads=3, num_frames=256)
    expected = read_pretrained(
        GOLDENS / name, num_heads=3, fallback_geometry=Geometry(num_frames=256)
    ).tensors
    assert_same(canonical_tensors(model), expected)
    assert_round_trips(model, tmp_path)


def test_files_of_the_same_weights_make_the_same_model():
    a, b = golden_model(), from_preset(GOLDENS / "original_small.pth", **SMALL, num_frames=256)
    assert_same(canonical_tensors(a), canonical_tensors(b))


# --- Layouts ---


def test_every_weight_has_one_source_and_every_tensor_one_use():
    model = golden_model()
    table = layouts(model.backbone)
    assert sorted(table) == sorted(weights_by_path(model))
    assert len(table) == len(model.weights)
    used = [name for layout in table.values() for name in layout.names]
    assert len(used) == len(set(used)) == 47


def test_weights_have_our_layout():
    tensors, weights = read_safetensors(GOLDEN), weights_by_path(golden_model())
    weights = {path: weight.numpy() for path, weight in weights.items()}
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    for ours, theirs in {
        "block_2/attention/qkv/kernel": tensors["v.blocks.2.attn.qkv.weight"].T,
        "block_2/attention/projection/bias": tensors["v.blocks.2.attn.proj.bias"],
        "block_2/mlp_norm/gamma": tensors["v.blocks.2.norm2.weight"],
        "block_0/mlp_output/kernel": tensors["v.blocks.0.mlp.fc2.weight"].T,
        "norm/beta": tensors["v.norm.bias"],
        "head/kernel": tensors["mlp_head.1.weight"].T,
        "head_norm/gamma": tensors["mlp_head.0.weight"],
        "positions/embedding": tensors["v.pos_embed"][0],
    }.items():
        np.testing.assert_array_equal(weights[ours], theirs)
    tokens = np.stack([tensors["v.cls_token"][0, 0], tensors["v.dist_token"][0, 0]])
    np.testing.assert_array_equal(weights["special_tokens/tokens"], tokens)
    kernel = tensors["v.patch_embed.proj.weight"]  # [embed, 1, mel, time]
    for mel, time in ((0, 0), (3, 11), (15, 2)):
        ours = weights["patches/projection/kernel"][mel, time, 0]
        np.testing.assert_array_equal(ours, kernel[:, 0, mel, time])


def test_weights_by_path_is_the_same_under_any_model_name():
    named = ASTClassifier(ASTBackbone(**ONE_BLOCK, num_frames=32, name="head"), 2, name="norm")
    plain = ASTClassifier(ASTBackbone(**ONE_BLOCK, num_frames=32), 2)
    assert list(weights_by_path(named)) == list(weights_by_path(plain))
    assert len(weights_by_path(named)) == len(named.weights)


# --- Assignment ---


def test_assign_is_all_or_none():
    model = golden_model()
    tensors = {name: value + 1 for name, value in canonical_tensors(model).items()}
    before = model.get_weights()
    for name, value in tensors.items():
        rest = {other: t for other, t in tensors.items() if other != name}
        with pytest.raises(WeightsError, match=f"lack a tensor.*first: {name}"):
            assign_canonical(model, rest)
        for wrong in (value[..., :-1], value[None], value.sum(), np.stack([value, value])):
            with pytest.raises(WeightsError, match=f"shape.*Received: {name}"):
                assign_canonical(model, {**tensors, name: wrong})
    with pytest.raises(WeightsError, match=r"does not have.*first: blocks\.3\.norm1\.bias"):
        assign_canonical(model, {**tensors, "blocks.3.norm1.bias": np.ones(48)})
    for ours, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)
    assign_canonical(model, tensors)
    assert_same(canonical_tensors(model), tensors)


def test_assign_without_a_head_leaves_the_head():
    model = golden_model()
    kernel = model.head.kernel.numpy()
    zeros = {name: 0 * t for name, t in canonical_tensors(model).items() if "mlp_head" not in name}
    assign_canonical(model, zeros)
    np.testing.assert_array_equal(model.head.kernel, kernel)
    assert not np.any(model.backbone.get_weights()[0])


# --- Heads ---

NAMES = LabelSet(tuple("abcdefghijk"))


def test_head_is_kept_without_classes_and_fresh_with_them():
    kernel = read_safetensors(GOLDEN)["module.mlp_head.1.weight"]
    np.testing.assert_array_equal(golden_model().head.kernel.numpy().T, kernel)
    for number in (50, 11):
        model = golden_model(num_classes=number)
        assert model(SPECTROGRAM).shape == (2, number)
        # A fresh head is random, though no other weight is: truncation leaves 0.88 of 0.02.
        assert model.head.kernel.numpy().std() == pytest.approx(0.0176, rel=0.1)
        np.testing.assert_array_equal(model.head_norm.gamma, np.ones(48))
        assert not np.isin(kernel, model.head.kernel).any()
    assert not np.array_equal(golden_model(num_classes=11).head.kernel, model.head.kernel)


def test_same_labels_in_another_order_reorder_the_outputs(tmp_path):
    fallback_geometry = Geometry(num_frames=256)
    source = read_pretrained(
        GOLDEN,
        num_heads=3,
        fallback_geometry=fallback_geometry,
        known=NetworkSettings(labels=NAMES),
    )
    order = np.random.default_rng(1).permutation(11)
    plain = build_classifier(source, frontend=None)
    moved = build_classifier(
        source, choose_head(source, labels=NAMES.subset(list(order))), frontend=None
    )
    assert plain.labels == NAMES
    # Each logit is a sum of the same numbers. Seen 0, but a processor may order them differently.
    expected = plain(SPECTROGRAM).numpy()[:, order]
    np.testing.assert_allclose(moved(SPECTROGRAM), expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(moved.head.kernel, plain.head.kernel.numpy()[:, order])
    other = build_classifier(
        source, choose_head(source, labels=LabelSet(tuple("abcdefghijX"))), frontend=None
    )
    assert not np.isin(other.head.kernel, plain.head.kernel).any()
    assert other.labels.names[-1] == "X"
    # The same through a saved model.
    save_to_preset(plain, tmp_path / "plain")
    again = from_preset(tmp_path / "plain", labels=NAMES.subset(list(order)))
    assert_same(canonical_tensors(again), canonical_tensors(moved))


def test_labels_name_the_classes_of_a_head_without_names():
    model = golden_model(labels=NAMES)
    kernel = read_safetensors(GOLDEN)["module.mlp_head.1.weight"]
    np.testing.assert_array_equal(model.head.kernel, kernel.T)
    assert model.labels == NAMES


def test_fewer_labels_than_a_head_without_names_make_a_fresh_one():
    model = golden_model(labels=NAMES.subset(range(10)))
    kernel = read_safetensors(GOLDEN)["module.mlp_head.1.weight"]
    assert not np.isin(kernel, model.head.kernel).any()


def test_classes_are_needed_for_an_image_network():
    deit = GOLDENS / "deit_small_224.safetensors"
    with pytest.raises(WeightsError, match="timm ViT or DeiT has no audio head: give num_cl"):
        from_preset(deit, num_heads=3)
    source = read_pretrained(deit, num_heads=3)
    with pytest.raises(LabelError, match="one label for each class"):
        choose_head(source, 5, NAMES)


# --- Sizes ---


def test_saved_model_is_fitted_to_another_size(tmp_path):
    model = golden_model()
    save_to_preset(model, tmp_path / "model")
    same = from_preset(tmp_path / "model", num_frames=256, strides=(10, 10))
    assert_same(canonical_tensors(same), canonical_tensors(model))
    fitted = from_preset(tmp_path / "model", num_frames=128, strides=(16, 16), num_classes=3)
    source = as_pretrained(model)
    expected = adapt(source, (8, 8), (16, 16))
    assert fitted.backbone.grid == (8, 8)
    found = canonical_tensors(fitted)
    np.testing.assert_array_equal(found["pos_embed"], expected.tensors["pos_embed"])
    assert expected.changes == {"pos_embed": "mel 12 cut to 8, time 25 cut to 8"}
    assert fitted(SPECTROGRAM[:, :128]).shape == (2, 3)


def test_changes_are_described():
    source = read_pretrained(GOLDENS / "deit_small_224.safetensors", num_heads=3)
    changes = adapt(source, (12, 101), (32, 8), "mean", "nearest").changes
    assert changes == {
        "patch_embed.proj.weight": "3 channels reduced to their mean, 16 x 16 resized to 32 x 8",
        "pos_embed": "mel 14 cut to 12, time 14 nearest to 101",
    }
    assert (
        adapt(source, (14, 14), (16, 16), position_resize="reinit").changes["pos_embed"]
        == "new, random"
    )


@pytest.mark.parametrize("argument", [{"position_resize": "bilinaer"}, {"rgb_reduction": "max"}])
def test_unknown_method_is_refused_even_if_nothing_is_resized(argument):
    with pytest.raises(WeightsError, match=f"{next(iter(argument))} must be one of"):
        golden_model(**argument)


@pytest.mark.parametrize("name", ["num_frames", "num_mel_bins"])
def test_size_zero_is_not_replaced_by_the_default(name):
    source = read_pretrained(GOLDEN, num_heads=3, fallback_geometry=Geometry(num_frames=256))
    with pytest.raises(ValueError, match="at least one patch"):
        build_classifier(source, geometry=Geometry(**{name: 0}))


def test_precision_does_not_change_the_weights():
    model = golden_model(dtype="mixed_float16", drop_path=0.1)
    assert_same(canonical_tensors(model), canonical_tensors(golden_model()))
    assert model.backbone.policy.name == "mixed_float16"
    assert model.backbone.drop_path == 0.1
    assert model.backbone(SPECTROGRAM).dtype == "float16"


def test_skip_random_initialization_ends_with_its_context():
    with initializers.skip_random_initialization():
        assert isinstance(initializers.truncated_normal(), initializers.Uninitialized)
        with initializers.skip_random_initialization():
            pass
        assert isinstance(initializers.lecun_normal(), initializers.Uninitialized)
    with pytest.raises(KeyError), initializers.skip_random_initialization():
        raise KeyError
    assert isinstance(initializers.truncated_normal(), keras.initializers.TruncatedNormal)
    golden_model(num_classes=3)
    backbone = ASTBackbone(**ONE_BLOCK, num_frames=32)
    for path in ("patches/projection/kernel", "block_0/attention/qkv/kernel"):
        assert np.any(weights_by_path(ASTClassifier(backbone, 2))[path])

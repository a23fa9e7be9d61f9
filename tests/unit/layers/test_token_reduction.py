"""Patchout and token merging, as layers and as options of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import from_preset
from ast_keras.errors import ArgumentError, WeightsError
from ast_keras.layers.token_reduction import Patchout, merge_similar_tokens

RNG = np.random.default_rng(3)
FRAMES = 126  # 12 columns of 12 patches
SPECTROGRAM = RNG.standard_normal((2, FRAMES, 128)).astype("float32")
# float32 in another order, on logits up to three: seen 1.4e-6.
SAME = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def plain():
    keras.utils.set_random_seed(5)
    model = from_preset("ast_test", num_classes=10, num_frames=FRAMES, frontend=None)
    model.set_weights([3 * weight for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def with_options(plain, tmp_path_factory):
    """Returns a function that loads the plain model with token options."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    plain.save_to_preset(folder)
    return lambda **options: from_preset(folder, **options)


def gradients(model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(SPECTROGRAM, training=True) ** 2)
    return tape.gradient(loss, model.trainable_variables)


# --- Patchout ---


def numbered(num_tokens):
    """Returns four examples whose tokens contain their own index."""
    return tf.repeat(tf.range(num_tokens, dtype="float32")[None, :, None], 4, axis=0)


def test_whole_rows_and_columns_are_dropped():
    layer = Patchout(grid=(4, 10), mel_rate=0.5, time_rate=0.3, num_special_tokens=1, seed=1)
    kept = layer(numbered(41), training=True)[..., 0].numpy().astype(int)
    assert kept.shape == (4, 1 + 2 * 7)
    assert (kept[:, 0] == 0).all()
    for example in kept[:, 1:] - 1:
        assert (np.diff(example) > 0).all()
        rows, columns = np.unique(example // 10), np.unique(example % 10)
        assert len(rows) == 2
        assert len(columns) == 7
    assert len({tuple(example) for example in kept}) == 4, "each example draws its own patches"


def test_single_patches_are_dropped_uniformly():
    layer = Patchout(grid=(4, 10), patch_rate=0.25, num_special_tokens=2, seed=1)
    kept = layer(tf.repeat(numbered(42), 50, axis=0), training=True)[..., 0].numpy().astype(int)
    assert kept.shape == (200, 32)
    assert (kept[:, :2] == [0, 1]).all()
    # Each patch stays in 150 of 200 draws, give or take five standard deviations of 6.
    counts = np.bincount(kept[:, 2:].ravel(), minlength=42)[2:]
    assert abs(counts - 150).max() < 31


def test_nothing_is_dropped_at_inference_or_at_rate_zero():
    layer = Patchout(grid=(4, 10), patch_rate=0.5, seed=1)
    tokens = numbered(42)
    assert layer(tokens, training=False) is tokens
    assert Patchout(grid=(4, 10)).seed_generator is None


def test_mask_keeps_the_same_tokens():
    layer = Patchout(grid=(4, 10), patch_rate=0.5, num_special_tokens=2, seed=1)
    mask = tf.constant(np.arange(42) % 3 == 0)[None, None]
    tokens, kept = layer(numbered(42), training=True, attention_mask=mask)
    np.testing.assert_array_equal(kept[:, 0], tokens[..., 0].numpy() % 3 == 0)


def test_patchout_rejects_a_rate_of_one():
    with pytest.raises(ArgumentError, match=r"time_rate must lie in \[0, 1\).*1\.0"):
        Patchout(grid=(4, 10), time_rate=1.0)


def test_patchout_reads_the_argument_names_of_earlier_configs():
    config = {"grid": [4, 10], "share": 0.1, "mel": 0.2, "time": 0.3, "num_special_tokens": 1}
    layer = Patchout.from_config(config)
    assert (layer.patch_rate, layer.mel_rate, layer.time_rate) == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "XLA"]
)
def test_patchout_trains_and_leaves_inference_unchanged(with_options, plain, compiled):
    model = with_options(patchout=0.2, patchout_mel=0.2, patchout_time=0.4)
    np.testing.assert_array_equal(model(SPECTROGRAM), plain(SPECTROGRAM))
    step = tf.function(lambda: gradients(model), jit_compile=compiled)
    assert all(np.isfinite(gradient).all() for gradient in step())


# --- Token merging ---


def test_most_similar_patches_are_merged():
    # Of eight patches the fifth (of set A) and the eighth (of set B) are equal.
    patches = np.eye(8, dtype="float32")[[0, 1, 2, 3, 4, 5, 6, 4]]
    tokens = tf.constant(np.concatenate([np.zeros((1, 8), "float32"), patches])[None])
    merged, counts = merge_similar_tokens(tokens, None, tokens, num_merged=1, num_special_tokens=1)
    expected = patches[[0, 2, 6, 1, 3, 5, 7]]  # set A without the fifth, then set B
    np.testing.assert_array_equal(merged[0, 1:], expected)
    assert counts.numpy()[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 2]


def test_merging_keeps_the_weighted_sum_and_counts_tokens():
    tokens = tf.constant(RNG.standard_normal((3, 2 + 21, 6)), "float32")
    first, counts = merge_similar_tokens(tokens, None, tokens, 4, 2)
    second, counts = merge_similar_tokens(first, counts, first, 5, 2)
    assert second.shape == (3, 14, 6)
    np.testing.assert_array_equal(tf.reduce_sum(counts, axis=1), [23, 23, 23])
    total = tf.reduce_sum(second * counts[..., None], axis=1)
    np.testing.assert_allclose(total, tf.reduce_sum(tokens, axis=1), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(second[:, :2], tokens[:, :2])


def test_merging_applies_at_inference_and_only_with_num_tokens(with_options, plain):
    np.testing.assert_array_equal(with_options(merge_tokens=0)(SPECTROGRAM), plain(SPECTROGRAM))
    merging = with_options(merge_tokens=30)
    assert np.abs(merging(SPECTROGRAM) - plain(SPECTROGRAM)).max() > 1e-4
    np.testing.assert_allclose(merging.backbone(SPECTROGRAM), plain.backbone(SPECTROGRAM), **SAME)
    np.testing.assert_allclose(
        merging(SPECTROGRAM, training=True), plain(SPECTROGRAM, training=True), **SAME
    )


def test_merging_equal_patches_changes_nothing(with_options):
    # Without positions, the patches of a constant sound that share a row are equal: all merge.
    steady, merging = with_options(), with_options(merge_tokens=50)
    for model in (steady, merging):
        positions = model.backbone.get_layer("positions").embedding
        positions.assign(tf.zeros_like(positions))
    constant = np.repeat(SPECTROGRAM[:, :1], FRAMES, axis=1)
    np.testing.assert_allclose(merging(constant), steady(constant), **SAME)


def test_merging_rejects_lengths(with_options):
    model = with_options(merge_tokens=8, padding="masked")
    assert model(SPECTROGRAM).shape == (2, 10)
    with pytest.raises(ArgumentError, match="merge_tokens to 0"):
        model(SPECTROGRAM, lengths=np.array([FRAMES, 100]))


def test_misspelt_option_is_named(with_options):
    with pytest.raises(WeightsError, match="merge_tokens"):
        with_options(merge_token=3)


def test_options_are_saved_with_the_model(with_options, tmp_path):
    with_options(merge_tokens=7, patchout=0.1).save_to_preset(tmp_path / "saved")
    backbone = from_preset(tmp_path / "saved").backbone
    assert (backbone.merge_tokens, backbone.patchout) == (7, 0.1)
    assert from_preset(tmp_path / "saved", merge_tokens=0).backbone.merge_tokens == 0

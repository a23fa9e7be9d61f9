"""The dials: Patchout, merged tokens, windows and blocks computed twice; and how they combine."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import ASTBackbone, from_preset
from ast_keras.errors import WeightsError
from ast_keras.layers import token_reduction
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

RNG = np.random.default_rng(3)
FRAMES = 246  # 24 columns of 12 patches
SOUND = RNG.standard_normal((2, FRAMES, 128)).astype("float32")
# float32 in another order, on logits up to three: seen 1.4e-6.
SAME = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def plain():
    keras.utils.set_random_seed(5)
    model = from_preset("ast_test", num_classes=10, num_frames=FRAMES, frontend=None)
    model.set_weights([3 * weight for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def turned(plain, tmp_path_factory):
    """Returns a function that loads the plain model with dials."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    plain.save_to_preset(folder)
    return lambda **dials: from_preset(folder, **dials)


def gradients(model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(SOUND, training=True) ** 2)
    return tape.gradient(loss, model.trainable_variables)


# --- Patchout ---


def numbered(tokens):
    """Tokens that say their own number."""
    return tf.repeat(tf.range(tokens, dtype="float32")[None, :, None], 4, axis=0)


def test_rows_and_columns_are_left_out_whole():
    layer = token_reduction.Patchout((4, 10), mel=0.5, time=0.3, num_special_tokens=1, seed=1)
    kept = layer(numbered(41), training=True)[..., 0].numpy().astype(int)
    assert kept.shape == (4, 1 + 2 * 7)
    assert (kept[:, 0] == 0).all()
    for example in kept[:, 1:] - 1:
        assert (np.diff(example) > 0).all()
        rows, columns = np.unique(example // 10), np.unique(example % 10)
        assert len(rows) == 2
        assert len(columns) == 7
    assert len({tuple(example) for example in kept}) == 4, "each example draws for itself"


def test_single_patches_are_left_out_anywhere():
    layer = token_reduction.Patchout((4, 10), share=0.25, num_special_tokens=2, seed=1)
    draws = [layer(numbered(42), training=True)[..., 0].numpy() for _ in range(50)]
    kept = np.concatenate(draws).astype(int)
    assert kept.shape == (200, 32)
    assert (kept[:, :2] == [0, 1]).all()
    # Each patch stays in 150 of 200 draws, give or take five deviations of 6.
    counts = np.bincount(kept[:, 2:].ravel(), minlength=42)[2:]
    assert abs(counts - 150).max() < 31


def test_nothing_is_left_out_otherwise():
    layer = token_reduction.Patchout((4, 10), share=0.5, seed=1)
    tokens = numbered(42)
    assert layer(tokens, training=False) is tokens
    assert token_reduction.Patchout((4, 10)).seed_generator is None


def test_a_mask_goes_with_its_tokens():
    layer = token_reduction.Patchout((4, 10), share=0.5, num_special_tokens=2, seed=1)
    mask = tf.constant(np.arange(42) % 3 == 0)[None, None]
    tokens, kept = layer(numbered(42), training=True, attention_mask=mask)
    np.testing.assert_array_equal(kept[:, 0], tokens[..., 0].numpy() % 3 == 0)


def test_a_share_of_all_is_refused():
    with pytest.raises(ValueError, match=r"patchout_time must lie in \[0, 1\).*1\.0"):
        token_reduction.Patchout((4, 10), time=1.0)


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_patchout_trains_and_leaves_inference_alone(turned, plain, compiled):
    model = turned(patchout=0.2, patchout_mel=0.2, patchout_time=0.4)
    np.testing.assert_array_equal(model(SOUND), plain(SOUND))
    step = tf.function(lambda: gradients(model), jit_compile=compiled)
    assert all(np.isfinite(gradient).all() for gradient in step())


# --- Merged tokens ---


def test_the_most_similar_are_merged():
    """Of eight patches the fifth and the eighth are equal, and become one."""
    patches = np.eye(8, dtype="float32")[[0, 1, 2, 3, 4, 5, 6, 4]]
    tokens = np.concatenate([np.zeros((1, 8), "float32"), patches])[None]
    found, sizes = token_reduction.merge(tf.constant(tokens), None, tf.constant(tokens), 1, 1)
    wanted = patches[[0, 2, 6, 1, 3, 5, 7]]  # the first hand without the fifth, then the second
    np.testing.assert_array_equal(found[0, 1:], wanted)
    assert sizes.numpy()[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 2]


def test_merging_keeps_the_sum_and_counts_patches():
    tokens = tf.constant(RNG.standard_normal((3, 2 + 21, 6)), "float32")
    first, sizes = token_reduction.merge(tokens, None, tokens, 4, 2)
    second, sizes = token_reduction.merge(first, sizes, first, 5, 2)
    assert second.shape == (3, 14, 6)
    np.testing.assert_array_equal(tf.reduce_sum(sizes, axis=1), [23, 23, 23])
    # Each token counts as what it stands for, so that nothing is lost.
    total = tf.reduce_sum(second * sizes[..., None], axis=1)
    np.testing.assert_allclose(total, tf.reduce_sum(tokens, axis=1), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(second[:, :2], tokens[:, :2])


def test_no_merging_is_exact_and_all_tokens_are_never_merged(turned, plain):
    np.testing.assert_array_equal(turned(merge_tokens=0)(SOUND), plain(SOUND))
    merging = turned(merge_tokens=30)
    assert np.abs(merging(SOUND) - plain(SOUND)).max() > 1e-4
    np.testing.assert_allclose(merging.backbone(SOUND), plain.backbone(SOUND), **SAME)
    np.testing.assert_allclose(merging(SOUND, training=True), plain(SOUND, training=True), **SAME)


def test_equal_patches_merge_without_a_trace(turned, plain):
    """A steady sound's patches of a row differ by their positions alone: with none, all merge."""
    steady, merging = turned(), turned(merge_tokens=100)
    for model in (steady, merging):
        positions = model.backbone.get_layer("positions").embedding
        positions.assign(tf.zeros_like(positions))
    sound = np.repeat(SOUND[:, :1], FRAMES, axis=1)
    np.testing.assert_allclose(merging(sound), steady(sound), **SAME)


def test_merging_refuses_lengths(turned):
    model = turned(merge_tokens=8, padding="masked")
    assert model(SOUND).shape == (2, 10)
    with pytest.raises(ValueError, match="merge_tokens to 0"):
        model(SOUND, lengths=np.array([FRAMES, 100]))


# --- Windows and blocks computed twice ---


def test_a_window_of_all_changes_nothing(turned, plain):
    wide, narrow = turned(attention_window=23), turned(attention_window=2)
    np.testing.assert_allclose(wide(SOUND), plain(SOUND), **SAME)
    np.testing.assert_allclose(wide.backbone(SOUND), plain.backbone(SOUND), **SAME)
    assert np.abs(narrow(SOUND) - plain(SOUND)).max() > 1e-4
    for ours, theirs in zip(gradients(wide), gradients(plain), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale + 1e-9)


def test_windows_know_lengths(turned):
    model = turned(attention_window=3, padding="masked")
    together = model(SOUND, lengths=np.array([FRAMES, 96]))
    np.testing.assert_allclose(together[1], model(SOUND[1:, :96])[0], **SAME)


def test_windows_of_any_length_in_one_graph(turned):
    model = turned(attention_window=3, padding="masked")
    free = [tf.TensorSpec([None, None, 128])]
    graph = tf.function(lambda sound: model(sound, training=False), input_signature=free)
    for frames in (FRAMES, 130):
        sound = SOUND[:, :frames]
        np.testing.assert_allclose(graph(sound), model(sound), **SAME)


def test_a_window_has_no_map_of_attention(turned):
    with pytest.raises(ValueError, match="attention_window=None"):
        turned(attention_window=3).backbone.attention_weights(SOUND)


def test_blocks_computed_twice_have_the_same_gradients(turned, plain):
    model = turned(gradient_checkpointing=True)
    for ours, theirs in zip(gradients(model), gradients(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_blocks_computed_twice_on_two_devices():
    """A step of `fit` on two logical devices, which need a process of their own."""
    script = """
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from ast_keras import from_preset

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
weights = []
for twice in (False, True):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = from_preset(
            "ast_test", 3, num_frames=46, frontend=None, gradient_checkpointing=twice
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sound = np.random.default_rng(1).standard_normal((4, 46, 128)).astype("float32")
    before = model.get_weights()
    model.fit(sound, np.array([0, 1, 2, 1]), batch_size=4, shuffle=False, verbose=0)
    weights.append(model.get_weights())
assert any((now != then).any() for now, then in zip(weights[1], before))
print(max(abs(ours - theirs).max() for ours, theirs in zip(*weights)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-7


# --- What does not go together ---


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"attention_window": 5, "merge_tokens": 3}, "set merge_tokens and patchout"),
        ({"attention_window": 5, "patchout_time": 0.3}, "set merge_tokens and patchout"),
        ({"attention_window": 5, "attention_dropout": 0.1}, "set attention_dropout to 0"),
        ({"attention_window": 0}, "at least 1"),
        ({"merge_tokens": -1}, "0 for none"),
        ({"patchout": 1.5}, r"patchout must lie in \[0, 1\)"),
        ({"gradient_checkpointing": True, "dropout": 0.1}, "set dropout"),
    ],
)
def test_what_excludes_each_other_is_refused(dials, message):
    sizes = {"embed_dim": 12, "num_layers": 1, "num_heads": 3, "mlp_dim": 20, "num_frames": 46}
    with pytest.raises(ValueError, match=message):
        ASTBackbone(**sizes, **dials)


def test_causal_models_refuse_what_moves_tokens():
    sizes = {"embed_dim": 12, "num_layers": 1, "num_heads": 3, "mlp_dim": 20, "num_frames": 46}
    with pytest.raises(ValueError, match="leave merge_tokens out"):
        CausalASTBackbone(**sizes, block_columns=2, merge_tokens=3)


def test_a_misspelt_dial_is_named(turned):
    with pytest.raises(WeightsError, match="merge_tokens"):
        turned(merge_token=3)


def test_dials_travel_with_the_model(turned, tmp_path):
    turned(merge_tokens=7, patchout=0.1).save_to_preset(tmp_path / "saved")
    backbone = from_preset(tmp_path / "saved").backbone
    assert (backbone.merge_tokens, backbone.patchout) == (7, 0.1)
    assert from_preset(tmp_path / "saved", merge_tokens=0).backbone.merge_tokens == 0

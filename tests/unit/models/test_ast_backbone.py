"""ASTBackbone: sizes, dtype policies, config, regularisation and gradient checkpointing."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import ArgumentError
from ast_keras.models.ast_backbone import ASTBackbone
from tests.helpers.arrays import random

FRAMES, MEL = 24, 16
SPECTROGRAM = random(2, FRAMES, MEL)


def make_backbone(**changes):
    arguments = {
        "embed_dim": 12,
        "num_layers": 2,
        "num_heads": 3,
        "mlp_dim": 20,
        "num_frames": FRAMES,
        "num_mel_bins": MEL,
        "patch_size": (8, 4),
        "strides": (4, 5),
    }
    return ASTBackbone(**{**arguments, **changes})


@pytest.fixture(scope="module")
def plain():
    """A backbone without any dropout."""
    keras.utils.set_random_seed(2)
    return make_backbone()


def gradients(backbone):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(backbone(SPECTROGRAM, training=True) ** 3)
    return tape.gradient(loss, backbone.trainable_variables)


# (num_mel_bins, num_frames), patch size, strides, patches: square, tall, with frames left over.
@pytest.mark.parametrize(
    ("size", "patch_size", "strides", "patches"),
    [
        ((16, 24), (16, 16), (10, 10), 1),
        ((32, 64), (16, 16), (16, 16), 8),
        ((31, 47), (5, 7), (3, 2), 9 * 21),
        ((16, 24), (16, 2), (16, 2), 12),
        ((20, 9), (4, 9), (4, 1), 5),
    ],
)
@pytest.mark.parametrize("distillation", [True, False])
def test_backbone_takes_any_size(size, patch_size, strides, patches, distillation):
    mel, frames = size
    backbone = make_backbone(
        num_mel_bins=mel,
        num_frames=frames,
        patch_size=patch_size,
        strides=strides,
        use_distillation_token=distillation,
        num_layers=1,
    )
    specials = 2 if distillation else 1
    assert backbone.num_special_tokens == specials
    assert np.prod(backbone.grid) == patches
    assert backbone.output_shape == (None, specials + patches, 12)
    assert backbone(random(2, frames, mel)).shape == (2, specials + patches, 12)


def test_attention_weights_of_every_block_sum_to_one():
    backbone = make_backbone(num_layers=3)
    maps = backbone.attention_weights(SPECTROGRAM)
    tokens = backbone.output_shape[1]
    assert [tuple(weights.shape) for weights in maps] == [(2, 3, tokens, tokens)] * 3
    for weights in maps:
        # Sums of float32 numbers below one: seen 1.2e-7.
        np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=0, atol=1e-6)


def test_functional_graph_is_the_model_for_whole_clips(plain):
    # The class docstring promises that `get_layer(...).output` is what `call` computes then.
    inner = keras.Model(plain.inputs, plain.get_layer("block_0").output)
    tokens, _ = plain.embed_tokens(plain.get_layer("patches")(SPECTROGRAM))
    # Tokens of size one; fused operations may round each of some ten sums differently, by 1.2e-7.
    np.testing.assert_allclose(inner([SPECTROGRAM]), plain.blocks[0](tokens), rtol=0, atol=3e-6)


def test_num_tokens_limits_the_output(plain):
    first = plain(SPECTROGRAM, num_tokens=2)
    assert first.shape == (2, 2, 12)
    # Products of other shapes, on normalised tokens of size three.
    np.testing.assert_allclose(first, plain(SPECTROGRAM)[:, :2], rtol=0, atol=5e-6)


# --- Config ---


def test_backbone_keeps_a_dtype_policy_of_its_own():
    backbone = make_backbone(num_layers=1, dtype="mixed_bfloat16")
    revived = ASTBackbone.from_config(backbone.get_config())
    assert revived(SPECTROGRAM).dtype == backbone(SPECTROGRAM).dtype == "bfloat16"


def test_config_of_an_earlier_version_loads(plain):
    # Options added later may be missing; `attention_window` existed and was None.
    config = {**plain.get_config(), "attention_window": None}
    del config["merge_tokens"], config["gradient_checkpointing"]
    assert ASTBackbone.from_config(config).get_config() == plain.get_config()
    with pytest.raises(ArgumentError, match="attention_window is no longer supported"):
        ASTBackbone.from_config({**config, "attention_window": 3})


def test_preset_name_makes_a_backbone():
    backbone = ASTBackbone.from_preset("ast_test", num_frames=48)
    assert (backbone.embed_dim, backbone.grid) == (48, (12, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide.*num_heads=5, embed_dim=12"),
        ({"patch_size": (17, 4)}, "at least one patch.*patch_size=.17, 4"),
        ({"patch_size": (8, 25)}, "at least one patch.*patch_size=.8, 25"),
        ({"gradient_checkpointing": True, "dropout": 0.1}, "set dropout.*dropout=0.1"),
    ],
)
def test_backbone_rejects_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ArgumentError, match=message):
        make_backbone(**changes)


def test_backbone_rejects_a_misspelt_argument():
    with pytest.raises(TypeError, match="num_frame"):
        make_backbone(num_frame=24)


# --- Training ---


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
def test_dropout_rates_act_only_in_training(rate, plain):
    backbone = make_backbone(**{rate: 0.5})
    backbone.set_weights(plain.get_weights())
    expected = plain(SPECTROGRAM).numpy()
    np.testing.assert_array_equal(backbone(SPECTROGRAM), expected)
    np.testing.assert_array_equal(backbone(SPECTROGRAM, training=False), expected)
    draws = {backbone(SPECTROGRAM, training=True).numpy().tobytes() for _ in range(3)}
    assert len(draws) > 1


def test_training_without_dropout_gives_the_same_output(plain):
    np.testing.assert_array_equal(plain(SPECTROGRAM, training=True), plain(SPECTROGRAM))


def test_drop_path_grows_from_zero_at_the_first_block():
    backbone = make_backbone(num_layers=3, drop_path=0.4)
    assert [block.drop_path for block in backbone.blocks] == [0.0, 0.2, 0.4]


def test_gradient_checkpointing_gives_the_same_gradients(plain):
    backbone = make_backbone(gradient_checkpointing=True)
    backbone.set_weights(plain.get_weights())
    for found, expected in zip(gradients(backbone), gradients(plain), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_gradient_checkpointing_trains_on_two_devices():
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
for checkpointing in (False, True):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = from_preset(
            "ast_test", 3, num_frames=46, frontend=None, gradient_checkpointing=checkpointing
        )
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    spectrogram = np.random.default_rng(1).standard_normal((4, 46, 128)).astype("float32")
    before = model.get_weights()
    model.fit(spectrogram, np.array([0, 1, 2, 1]), batch_size=4, shuffle=False, verbose=0)
    weights.append(model.get_weights())
assert any((now != then).any() for now, then in zip(weights[1], before))
print(max(abs(one - other).max() for one, other in zip(*weights)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-6

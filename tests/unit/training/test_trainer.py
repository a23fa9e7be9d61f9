"""The training step: accumulation, clipping and mixed precision on one device.

Two devices: tests/end_to_end/test_devices.py.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.recipe import load_recipe, override
from ast_keras.training import build
from ast_keras.training.distribution import distribute
from ast_keras.training.trainer import ASTTrainer, gradient_factor

# Thirteen examples in batches of four: every fourth batch is mostly padding rows. All masks are on.
SETTINGS = [
    *("data.num_train=13", "data.num_validation=4", "data.num_test=4", "data.clip_seconds=0.5"),
    *("frontend.num_frames=48", "model.size=ast_test", "train.batch_size=4"),
    "model.num_layers=1",
    *("augment.mixup_rate=0.5", "augment.noise=true", "augment.roll_frames=10"),
    *("augment.freq_mask_bins=20", "augment.time_mask_frames=8"),
    *("train.num_epochs=5", "optimizer.warmup_steps=2"),
]
STEPS = 20
EMBED_DIM = 48  # of ast_test


def trained(*settings, steps=STEPS):
    """Returns losses, last weights and optimizer of a recipe's first steps."""
    recipe = override(load_recipe("quickstart"), [*SETTINGS, *settings])
    keras.utils.set_random_seed(1)
    dataset = build.make_dataset(recipe)
    pipeline = build.make_pipeline(recipe, dataset, "train", training=True)
    parts = recipe.train.accumulate_steps
    trainer = ASTTrainer(
        build.make_model(recipe, dataset.labels),
        build.make_optimizer(recipe, pipeline.steps_per_epoch),
        build.make_loss(recipe),
        distribute(tf.distribute.get_strategy(), pipeline, 0, steps, parts),
        accumulate_steps=parts,
        clip_norm=recipe.optimizer.gradient_clip_norm,
        jit_compile=recipe.train.jit_compile,
    )
    losses = [trainer.train(tf.constant(1))["loss"] for _ in range(steps)]
    return losses, trainer.model.get_weights(), trainer.optimizer


def assert_same_training(found, expected):
    # Sums in another order over 20 steps of about 1e-3: seen 1.2e-7 of loss, 6e-8 of weights.
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        if ours.shape == (3 * EMBED_DIM,):
            # The softmax does not depend on the bias of the keys. Its gradient is rounding alone,
            # which Adam scales up to a step of the usual size (seen 7e-6).
            keys = np.s_[EMBED_DIM : 2 * EMBED_DIM]
            ours, theirs = np.delete(ours, keys), np.delete(theirs, keys)
        np.testing.assert_allclose(ours, theirs, atol=5e-7)


@pytest.fixture(scope="module")
def whole():
    return trained()


# Two parts of two examples; three parts of four examples have two padding rows.
@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_accumulated_batches_equal_whole_ones(whole, parts):
    found = trained(f"train.accumulate_steps={parts}")
    assert_same_training(found, whole)
    assert int(found[2].iterations.numpy()) == STEPS  # the learning rate depends on it


@pytest.mark.slow
def test_accumulation_compiles_like_a_whole_batch(whole):
    assert_same_training(trained("train.accumulate_steps=2", "train.jit_compile=true"), whole)


@pytest.mark.slow
def test_accumulated_gradients_are_clipped_once(whole):
    clip = "optimizer.gradient_clip_norm=0.5"
    clipped = trained(clip)
    assert_same_training(trained(clip, "train.accumulate_steps=2"), clipped)
    assert np.abs(np.subtract(clipped[0], whole[0])).max() > 0.01, "nothing was clipped"


def test_clipping_equals_that_of_keras():
    def steps(keras_clips):
        variable = keras.Variable([3.0, -4.0])
        clip = {"global_clipnorm": 2.0} if keras_clips else {}
        optimizer = keras.optimizers.SGD(0.1, **clip)
        for gradient in ([3.0, 4.0], [0.3, 0.4]):
            gradient = tf.constant(gradient)
            factor = 1.0 if keras_clips else gradient_factor([gradient], clip_norm=2.0)
            optimizer.apply([gradient * factor], [variable])
        return variable.numpy()

    # Two roundings, of 1.2e-7 each: the norm, and a product that a processor may fuse with a sum.
    np.testing.assert_allclose(steps(False), steps(True), rtol=5e-7)


@pytest.mark.parametrize("clip_norm", [None, 2.0])
def test_gradient_factor_is_nan_if_a_gradient_is_not_finite(clip_norm):
    finite, infinite = tf.constant([1.0]), tf.constant([float("inf")])
    assert gradient_factor([finite], clip_norm, loss_scale=4.0) == 1.0
    assert np.isnan(gradient_factor([finite, infinite], clip_norm, loss_scale=4.0))


@pytest.mark.slow
def test_dropout_and_accumulation_can_be_combined():
    losses, _, optimizer = trained("model.dropout=0.2", "train.accumulate_steps=2", steps=2)
    assert np.isfinite(losses).all()
    assert int(optimizer.iterations.numpy()) == 2


LEARNING = [
    *("augment.mixup_rate=0", "augment.noise=false", "augment.roll_frames=0"),
    *("augment.freq_mask_bins=0", "augment.time_mask_frames=0", "optimizer.learning_rate=0.01"),
    *("data.num_train=8", "train.num_epochs=15"),
]


@pytest.mark.parametrize(
    "precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_learns(precision):
    losses, _, optimizer = trained(*LEARNING, f"train.precision={precision}", steps=30)
    # From the logarithm of ten classes, 2.3, to about 1.0; chance stays above 2.
    assert np.mean(losses[:2]) > 2.0
    assert np.mean(losses[-2:]) < 1.5
    assert int(optimizer.iterations.numpy()) == 30, "steps were skipped for overflow"

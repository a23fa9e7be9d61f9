"""What `freeze`, `enable_lora` and `learning_rate_factors` do, in fit and in every saved form."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import AdamL2, AudioClassifier, export_weights, from_preset, to_causal
from ast_keras.errors import ArgumentError
from ast_keras.export.serving_module import ServingModule
from tests.helpers.arrays import random
from tests.helpers.models import tiny_classifier

CLIPS, TARGETS = 0.1 * random(4, 4000), np.array([0, 1, 2, 0])
SIZE = dict(num_frames=32)
# The product of the factors is added to the kernel by another operation: one float32 rounding of
# kernels of about 0.1, then sums of up to 96 terms (seen 7e-7 of logits of about 1).
ROUNDING = dict(rtol=0, atol=3e-6)


def paths(model):
    return [weight.path for weight in model.trainable_weights]


def fit(model, factors=None, epochs=2):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamL2(1e-2, learning_rate_factors=factors), loss, run_eagerly=True)
    model.fit(CLIPS, TARGETS, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="module")
def with_lora():
    """A model with LoRA, trained for two steps."""
    model = tiny_classifier(**SIZE)
    model.enable_lora(4, alpha=8)
    return fit(model)


# --- freeze ---


def test_frozen_blocks_do_not_move_and_the_others_do():
    model = tiny_classifier(**SIZE)
    model.freeze(1)
    before = {weight.path: weight.numpy() for weight in model.weights}
    fit(model, epochs=1)
    moved = {w.path.split("/")[0] for w in model.weights if np.any(w.numpy() != before[w.path])}
    assert moved == {"block_1", "norm", "head_norm", "head"}


def test_freeze_takes_the_backbone_the_embeddings_or_nothing():
    model = tiny_classifier(**SIZE)
    everything = paths(model)
    model.freeze("backbone")
    assert paths(model) == ["head_norm/gamma", "head_norm/beta", "head/kernel", "head/bias"]
    model.freeze(0)
    assert {path.split("/")[0] for path in set(everything) - set(paths(model))} == {
        "patches", "special_tokens", "positions",
    }  # fmt: skip
    model.freeze(2)
    assert len(paths(model)) == 6  # with the last LayerNorm
    model.freeze(None)
    assert paths(model) == everything


@pytest.mark.parametrize("part", [3, -1, "head", "4", 1.0, True])
def test_freeze_rejects_what_is_no_part(part):
    with pytest.raises(ArgumentError, match=r"Received: part="):
        tiny_classifier(**SIZE).freeze(part)


def test_causal_model_is_frozen_block_by_block():
    model = to_causal(tiny_classifier(num_frames=98), block_columns=4, past_blocks=1)
    model.freeze(1)
    assert model.backbone.blocks[1].trainable
    assert not any(path.startswith(("block_0", "positions")) for path in paths(model))


# --- learning_rate_factors ---


def test_factors_decay_from_the_head_to_the_input():
    factors = tiny_classifier(**SIZE).learning_rate_factors(layer_decay=0.5, head_factor=50)
    assert factors == {
        "head": 50, "head_norm": 50, "block_1": 0.5, "block_0": 0.25,
        "positions": 0.125, "special_tokens": 0.125, "patches": 0.125,
    }  # fmt: skip
    assert tiny_classifier(**SIZE).learning_rate_factors() == {}


def test_first_step_has_the_size_that_the_factors_give():
    model = tiny_classifier(**SIZE)
    before = {weight.path: weight.numpy() for weight in model.weights}
    fit(model, model.learning_rate_factors(layer_decay=0.5, head_factor=3), epochs=1)
    moves = {w.path: np.abs(w.numpy() - before[w.path]).max() for w in model.weights}
    for path, factor in {
        "head/kernel": 3, "norm/gamma": 1, "block_1/mlp_output/kernel": 0.5,
        "block_0/mlp_output/kernel": 0.25, "patches/projection/kernel": 0.125,
    }.items():  # fmt: skip
        # Adam's first step is the rate wherever the gradient is far above epsilon.
        assert moves[path] == pytest.approx(1e-2 * factor, rel=1e-2)


@pytest.mark.parametrize("arguments", [{"layer_decay": 0}, {"layer_decay": 2}, {"head_factor": -1}])
def test_factors_outside_of_their_range_are_rejected(arguments):
    with pytest.raises(ArgumentError, match=r"Received: "):
        tiny_classifier(**SIZE).learning_rate_factors(**arguments)


# --- LoRA ---


def test_lora_starts_as_the_same_model_and_trains_factors_and_head():
    model = tiny_classifier(**SIZE)
    before = model(CLIPS).numpy()
    model.enable_lora(4)
    np.testing.assert_array_equal(model(CLIPS).numpy(), before)
    assert len(paths(model)) == 2 * 8 + 4
    assert all("lora_kernel" in path or path.startswith("head") for path in paths(model))


def test_lora_moves_factors_and_head_only(with_lora):
    start = tiny_classifier(**SIZE)
    untouched = {w.path: w.numpy() for w in start.weights if not w.path.startswith("head")}
    for weight in with_lora.weights:
        if weight.path in untouched:
            np.testing.assert_array_equal(weight.numpy(), untouched[weight.path])
    change = with_lora(CLIPS).numpy() - start(CLIPS).numpy()
    assert np.abs(change).max() > 0.1
    assert all(np.any(w.numpy()) for w in with_lora.weights if w.name == "lora_kernel_b")


def saved_and_loaded(model, form, folder):
    """Returns a model without LoRA that was saved and loaded."""
    if form == "preset":
        model.save_to_preset(folder / "model")
        return from_preset(folder / "model")
    if form == "keras":
        model.save(folder / "model.keras")
        return keras.models.load_model(folder / "model.keras", compile=False)
    export_weights(model, folder / "authors", to="authors")
    return from_preset(folder / "authors" / "model.safetensors", num_heads=3, **SIZE)


@pytest.mark.parametrize("form", ["preset", "keras", "authors"])
def test_lora_is_merged_in_what_is_saved(form, with_lora, tmp_path):
    plain = saved_and_loaded(with_lora, form, tmp_path)
    assert len(plain.weights) == len(tiny_classifier(**SIZE).weights)
    assert len(plain.trainable_weights) == len(plain.weights)
    found, expected = plain(CLIPS).numpy(), with_lora(CLIPS).numpy()
    np.testing.assert_allclose(found, expected, **ROUNDING)


def test_lora_is_merged_in_exports_and_causal_models(with_lora):
    module = ServingModule(with_lora)
    assert len(module.model_variables) == len(tiny_classifier(**SIZE).variables)
    expected = with_lora.scores(with_lora(CLIPS).numpy())
    np.testing.assert_allclose(module.scores(tf.constant(CLIPS)), expected, **ROUNDING)
    kernel = to_causal(with_lora, 1, 0).backbone.blocks[0].mlp_hidden.kernel
    merged = with_lora.backbone.blocks[0].mlp_hidden.merged_kernel()
    np.testing.assert_array_equal(kernel, merged)


def test_lora_trains_on_after_its_weights_were_loaded(with_lora, tmp_path):
    with_lora.save_weights(tmp_path / "model.weights.h5")
    model = tiny_classifier(**SIZE)
    model.enable_lora(4, alpha=8)
    model.load_weights(tmp_path / "model.weights.h5")
    loaded = model(CLIPS).numpy()
    np.testing.assert_allclose(loaded, with_lora(CLIPS).numpy(), **ROUNDING)
    fit(model)
    factor = model.backbone.blocks[0].mlp_hidden.lora_kernel_b
    assert np.any(factor.numpy()), "a factor without gradient"


def test_lora_keeps_frozen_blocks_frozen(tmp_path):
    model = tiny_classifier(**SIZE)
    model.freeze(1)
    model.enable_lora(2)
    assert len(paths(model)) == 8 + 4
    expected = paths(model)
    model.freeze(1)
    assert paths(model) == expected
    model.save_to_preset(tmp_path / "model")
    blocks = from_preset(tmp_path / "model").backbone.blocks
    assert [block.trainable for block in blocks] == [False, True]
    assert len(blocks[1].trainable_weights) == len(blocks[1].weights)


def test_lora_saves_kernels_in_float32_under_mixed_precision(tmp_path):
    model = tiny_classifier(dtype="mixed_bfloat16", **SIZE)
    model.enable_lora(2)
    model.backbone.save_weights(tmp_path / "backbone.weights.h5")
    kernel = model.backbone.blocks[0].mlp_hidden._kernel.numpy()
    found = []
    with h5py.File(tmp_path / "backbone.weights.h5") as file:
        file.visititems(lambda _, item: found.append(item))
        stored = [item[()] for item in found if getattr(item, "shape", None) == kernel.shape]
    assert any(np.array_equal(value, kernel) and value.dtype == "float32" for value in stored)


def test_lora_gradients_are_those_of_the_kernel():
    """With gradient checkpointing, through the same chain rule as without."""
    gradients = []
    for checkpointing in (False, True):
        model = from_preset(
            "ast_test", num_classes=3, num_layers=1, gradient_checkpointing=checkpointing, **SIZE
        )
        model.set_weights(tiny_classifier(num_layers=1, **SIZE).get_weights())
        model.enable_lora(2)
        layer = model.backbone.blocks[0].mlp_output
        layer.lora_kernel_a.assign(random(*layer.lora_kernel_a.shape))

        @tf.function
        def differentiate(model=model, layer=layer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(CLIPS, training=True) ** 2)
            return tape.gradient(loss, [layer._kernel.value, layer.lora_kernel_b.value])

        kernel, factor = differentiate()
        np.testing.assert_allclose(
            factor, layer.lora_kernel_a.numpy().T @ kernel, rtol=1e-4, atol=1e-4
        )
        gradients.append(factor)
    # Recomputed sums, of gradients of about 10.
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arguments", [(0,), (2.0,), (True,), (2, 0), (2, -1.0)])
def test_lora_rejects_ranks_and_alphas(arguments):
    with pytest.raises(ArgumentError, match=r"Received: (rank|alpha)="):
        tiny_classifier(**SIZE).enable_lora(*arguments)


def test_lora_is_enabled_once_and_only_in_transformer_blocks(with_lora):
    with pytest.raises(ArgumentError, match="has LoRA already"):
        with_lora.enable_lora(2)

    class Encoder(keras.layers.Layer):
        embed_dim, blocks = 4, None

    model = AudioClassifier(Encoder(), num_classes=2)
    for call in (lambda: model.enable_lora(2), lambda: model.freeze(1)):
        with pytest.raises(ArgumentError, match="Received: Encoder"):
            call()
    model.freeze("backbone")
    assert not model.backbone.trainable

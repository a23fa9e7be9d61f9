"""CausalASTBackbone: steps equal the whole clip, reach of attention, saving and training."""

import keras
import numpy as np
import pytest

import ast_keras
from ast_keras.errors import ArgumentError, InferenceError, RecipeError, WeightsError
from ast_keras.inference.embedder import Embedder
from ast_keras.inference.explanation import attention_rollout, gradient_times_input
from ast_keras.labels import LabelSet
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.recipe import load_recipe, override
from ast_keras.training.build import make_model
from ast_keras.weights.build import to_causal
from ast_keras.weights.resize import resize_positions
from tests.helpers.models import attentive_causal_classifier, block_logits

# float32 sums in another order; logits of up to 6.
SUMS = 1e-5
FRAMES_PER_BLOCK = 50  # 5 patches along time, 10 frames apart


@pytest.fixture(scope="module")
def model():
    return attentive_causal_classifier()


@pytest.fixture(scope="module")
def waveform():
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 40), 4000)
    return (rng.uniform(-1, 1, 160_000) * loudness).astype("float32")[None]


def stepped(model, spectrogram):
    """Returns the logits of every block, computed one block after another."""
    backbone, cache, logits = model.backbone, model.backbone.initial_cache(), []
    blocks = (spectrogram.shape[1] - backbone.min_frames) // FRAMES_PER_BLOCK + 1
    for number in range(blocks):
        frames = spectrogram[:, number * FRAMES_PER_BLOCK :][:, : backbone.min_frames]
        patches = backbone.get_layer("patches")(frames)
        tokens, cache = backbone.step(patches, number, cache)
        logits.append(model.classify(backbone.pool_blocks(tokens)))
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("past_blocks", [0, 2, pytest.param(5, marks=pytest.mark.slow)])
def test_steps_equal_the_whole_clip(waveform, past_blocks):
    model = attentive_causal_classifier(past_blocks)
    spectrogram = model.spectrogram(waveform)
    expected = block_logits(model, spectrogram)
    assert expected.shape == (1, 19, 5)
    assert np.ptp(expected, axis=1).min() > 0.05  # else equality would show nothing
    np.testing.assert_allclose(stepped(model, spectrogram), expected, rtol=0, atol=SUMS)


def test_whole_clip_equals_an_independent_computation(model, waveform):
    # Every block of time by itself: its own tokens and those of the blocks it attends to go through
    # the plain transformer blocks, one layer after another.
    backbone = model.backbone
    spectrogram = model.spectrogram(waveform)[:, :400]
    patches = backbone.get_layer("patches")(spectrogram).numpy().reshape(12, -1, 48)
    special = backbone.get_layer("special_tokens").tokens.numpy()
    table = backbone.get_layer("positions").embedding.numpy()
    grid = table[2:].reshape(12, 15, 48)
    blocks = []
    for number in range(7):
        columns = slice(5 * number, 5 * number + 5)
        phase = slice(5 * (number % 3), 5 * (number % 3) + 5)
        patch = (patches[:, columns] + grid[:, phase]).reshape(60, 48)
        blocks.append(np.concatenate([special + table[:2], patch]))
    for layer in backbone.blocks:
        # Of the output only the last block's tokens are kept.
        blocks = [
            layer(np.concatenate(blocks[max(0, n - 2) : n + 1])[None])[0, -62:].numpy()
            for n in range(7)
        ]
    expected = [
        backbone.get_layer("norm")(block[None])[0, :2].numpy().mean(axis=0) for block in blocks
    ]
    found = backbone.pool_blocks(backbone(spectrogram))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS)


def test_block_depends_on_neither_the_future_nor_more_than_its_past(model, waveform):
    spectrogram = model.spectrogram(waveform).numpy()
    logits = block_logits(model, spectrogram)[0]
    changed = spectrogram.copy()
    changed[:, 5 * FRAMES_PER_BLOCK + 6 : 6 * FRAMES_PER_BLOCK] += 1.0  # in block 5 alone
    difference = np.abs(block_logits(model, changed)[0] - logits).max(axis=1)
    # Two layers that each reach two blocks back: four blocks later the change has an effect, five
    # blocks later it has none.
    assert (difference[5:10] > 1e-5).all()
    assert (difference[:5] == 0).all()
    assert (difference[10:] == 0).all()


def test_clip_in_a_batch_equals_the_clip_alone(model, waveform):
    padded = np.full((3, 160_000), 1e6, "float32")
    lengths = [160_000, 41_234, 3_000]
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = waveform[0, :length]
    together = model(padded, lengths=np.array(lengths))
    for row, length in enumerate(lengths):
        alone = model(waveform[:, :length])
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=SUMS)


def test_description_states_the_number_of_blocks(model):
    assert model.describe_input(160_000) == (
        "10.00 s: all is processed, in 19 whole blocks of 5 patches"
    )


def test_clip_result_is_the_mean_of_its_blocks(model, waveform):
    pooled = model.backbone.pool_blocks(model.backbone(model.spectrogram(waveform)))
    expected = model.classify(np.mean(pooled, axis=1))
    np.testing.assert_allclose(model(waveform), expected, rtol=0, atol=SUMS)


@pytest.mark.parametrize("way", ["keras", "preset"])
def test_saved_model_gives_the_same_logits(model, waveform, tmp_path, way):
    if way == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    else:
        ast_keras.save_to_preset(model, tmp_path / "model")
        again = ast_keras.from_preset(tmp_path / "model")
    assert isinstance(again.backbone, CausalASTBackbone)
    np.testing.assert_array_equal(again(waveform), model(waveform))


def test_to_causal_copies_the_weights():
    keras.utils.set_random_seed(2)
    plain = ast_keras.from_preset("ast_test", num_classes=5, num_frames=310)
    causal = to_causal(plain, block_columns=5, past_blocks=2)
    assert not causal.frontend.remove_waveform_mean
    ours, theirs = ({w.path: w.numpy() for w in m.weights} for m in (causal, plain))
    assert ours.keys() == theirs.keys()
    positions = next(path for path in ours if path.endswith("positions/embedding"))
    expected = resize_positions(theirs.pop(positions)[None], 2, (12, 30), (12, 15))[0]
    np.testing.assert_array_equal(ours.pop(positions), expected)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path])


def test_causal_model_trains_with_fit(waveform):
    model = attentive_causal_classifier()
    model.compile(
        optimizer=ast_keras.AdamL2(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # tracing a graph would take longer than these steps
    )
    clips = waveform.reshape(4, -1)[:, :16000]
    history = model.fit(clips, np.array([0, 1, 2, 3]), batch_size=4, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_recipe_makes_a_causal_model():
    recipe = override(
        load_recipe("quickstart"),
        ["model.patch_size=16,16", "model.strides=10,10", "model.block_columns=2",
         "model.past_blocks=3"],
    )  # fmt: skip
    model = make_model(recipe, LabelSet(("dog", "cow")))
    assert (model.backbone.block_columns, model.backbone.past_blocks) == (2, 3)
    with pytest.raises(RecipeError, match="past_blocks must not be negative"):
        override(recipe, ["model.past_blocks=-1"])


def test_backbone_rejects_frames_that_are_not_whole_blocks():
    sizes = {"embed_dim": 48, "num_layers": 2, "num_heads": 3, "mlp_dim": 96}
    with pytest.raises(ArgumentError, match="set it to 306, for 6 blocks"):
        CausalASTBackbone(**sizes, num_frames=324, block_columns=5)


def test_from_backbone_rejects_numbers_out_of_range(model):
    with pytest.raises(ArgumentError, match=r"past_blocks at least 0.*past_blocks=-1"):
        CausalASTBackbone.from_backbone(model.backbone, block_columns=5, past_blocks=-1)


def test_backbone_rejects_less_than_a_block(model):
    with pytest.raises(ArgumentError, match="must fill a block, 56 frames"):
        model.backbone(np.zeros((1, 40, 128), "float32"))


def test_inference_rejects_what_needs_a_single_attention_map(model, waveform):
    with pytest.raises(InferenceError, match="no single attention map"):
        attention_rollout(model, waveform[0])
    with pytest.raises(InferenceError, match="pooled"):
        Embedder(model, "seconds")
    # Other explanations and embeddings work for causal models.
    assert gradient_times_input(model, waveform[0], 1, steps=1).shape == (998, 128)
    assert Embedder(model).model is model


def test_plain_preset_is_not_loaded_as_causal():
    with pytest.raises(WeightsError, match=r"ASTBackbone\.from_preset, or ast_keras\.to_causal"):
        CausalASTBackbone.from_preset("ast_test", num_frames=126)

"""Block-causal attention: step by step as in one go, saved, trained, exported with its state."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import ast_keras
from ast_keras.errors import ExportError, InferenceError, RecipeError
from ast_keras.export.streaming_tflite import export_streaming_tflite
from ast_keras.inference.embedder import Embedder
from ast_keras.inference.explanation import attention_rollout, gradient_times_input
from ast_keras.labels import LabelSet
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.recipe import load_recipe, override
from ast_keras.training.build import make_model
from ast_keras.weights.build import to_causal
from ast_keras.weights.resize import resize_positions

# float32 sums in another order; logits of up to 6.
SUMS = 1e-5
FRAMES_PER_BLOCK = 50  # 5 patches along time, 10 frames apart


def make_model_that_attends(past_blocks=2, **settings):
    """Returns a causal model whose attention is far from uniform, so that a mask shows."""
    keras.utils.set_random_seed(1)
    model = ast_keras.from_preset("ast_test", num_classes=5, num_frames=310, **settings)
    for weight in model.backbone.weights:
        if weight.path.endswith(("qkv/kernel", "positions/embedding", "tokens")):
            weight.assign(8 * weight)
    model.head.kernel.assign(50 * model.head.kernel)
    return to_causal(model, block_columns=5, past_blocks=past_blocks)


@pytest.fixture(scope="module")
def model():
    return make_model_that_attends()


@pytest.fixture(scope="module")
def waveform():
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 40), 4000)
    return (rng.uniform(-1, 1, 160_000) * loudness).astype("float32")[None]


def block_logits(model, spectrogram):
    tokens = model.backbone(spectrogram)
    return model.classify(model.backbone.pool_blocks(tokens)).numpy()


def stepped(model, spectrogram):
    """Returns the logits of every block, computed one after the other."""
    backbone, cache, logits = model.backbone, model.backbone.initial_cache(), []
    blocks = (spectrogram.shape[1] - backbone.min_frames) // FRAMES_PER_BLOCK + 1
    for number in range(blocks):
        frames = spectrogram[:, number * FRAMES_PER_BLOCK :][:, : backbone.min_frames]
        patches = backbone.get_layer("patches")(frames)
        tokens, cache = backbone.step(patches, number, cache)
        logits.append(model.classify(backbone.pool_blocks(tokens)))
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("past_blocks", [0, 1, 2, 5])
def test_steps_equal_the_whole_under_the_same_mask(waveform, past_blocks):
    model = make_model_that_attends(past_blocks)
    spectrogram = model.spectrogram(waveform)
    expected = block_logits(model, spectrogram)
    assert expected.shape == (1, 19, 5)
    assert np.ptp(expected, axis=1).min() > 0.05  # blocks differ, or equality says nothing
    np.testing.assert_allclose(stepped(model, spectrogram), expected, rtol=0, atol=SUMS)


def test_whole_equals_an_independent_computation(model, waveform):
    # Each block by itself, in NumPy order: its own tokens and those of the blocks in sight go
    # through the plain blocks one layer at a time.
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
        # Of the output for the last block in sight only its own tokens are kept.
        blocks = [
            layer(np.concatenate(blocks[max(0, n - 2) : n + 1])[None])[0, -62:].numpy()
            for n in range(7)
        ]
    expected = [
        backbone.get_layer("norm")(block[None])[0, :2].numpy().mean(axis=0) for block in blocks
    ]
    found = backbone.pool_blocks(backbone(spectrogram))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=SUMS)


def test_a_block_sees_neither_the_future_nor_more_than_its_past(model, waveform):
    spectrogram = model.spectrogram(waveform).numpy()
    logits = block_logits(model, spectrogram)[0]
    changed = spectrogram.copy()
    changed[:, 5 * FRAMES_PER_BLOCK + 6 : 6 * FRAMES_PER_BLOCK] += 1.0  # in block 5 alone
    difference = np.abs(block_logits(model, changed)[0] - logits).max(axis=1)
    # Two layers, each two blocks back: four blocks later it is still felt, five later it is not.
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


def test_a_causal_model_says_that_it_hears_whole_blocks(model):
    assert model.describe_input(160_000) == (
        "10.00 s: all is heard, in 19 whole blocks of 5 patches"
    )


def test_result_of_a_clip_is_the_mean_of_its_blocks(model, waveform):
    pooled = model.backbone.pool_blocks(model.backbone(model.spectrogram(waveform)))
    expected = model.classify(tf.reduce_mean(pooled, axis=1))
    np.testing.assert_allclose(model(waveform), expected, rtol=0, atol=SUMS)


@pytest.mark.parametrize("way", ["keras", "preset"])
def test_saved_model_is_the_same(model, waveform, tmp_path, way):
    if way == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    else:
        ast_keras.save_to_preset(model, tmp_path / "model")
        again = ast_keras.from_preset(tmp_path / "model")
    assert isinstance(again.backbone, CausalASTBackbone)
    np.testing.assert_array_equal(again(waveform), model(waveform))


def test_weights_are_those_of_the_model_it_is_made_from():
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


def test_it_trains_with_fit(waveform):
    model = make_model_that_attends()
    model.compile(
        optimizer=ast_keras.AdamL2(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    clips = waveform.reshape(4, -1)
    history = model.fit(clips, np.array([0, 1, 2, 3]), batch_size=4, epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_recipe_makes_one():
    recipe = override(
        load_recipe("quickstart"),
        ["model.patch_size=16,16", "model.strides=10,10", "model.block_columns=2",
         "model.past_blocks=3"],
    )  # fmt: skip
    model = make_model(recipe, LabelSet(("dog", "cow")))
    assert (model.backbone.block_columns, model.backbone.past_blocks) == (2, 3)
    with pytest.raises(RecipeError, match="past_blocks must not be negative"):
        override(recipe, ["model.past_blocks=-1"])


def test_attention_span_that_is_no_whole_number_of_blocks_is_an_error():
    with pytest.raises(ValueError, match="set it to 306, for 6 blocks"):
        CausalASTBackbone(48, 2, 3, 96, num_frames=324, block_columns=5)


def test_less_than_a_block_is_an_error_for_the_backbone_alone(model):
    with pytest.raises(ValueError, match="must fill a block, 56 frames"):
        model.backbone(np.zeros((1, 40, 128), "float32"))


def test_what_has_no_place_in_blocks_is_refused(model, waveform):
    with pytest.raises(InferenceError, match="no one map of attention"):
        attention_rollout(model, waveform[0])
    with pytest.raises(InferenceError, match="choose kind pooled"):
        Embedder(model, "seconds")
    # The rest works on causal models, too.
    assert gradient_times_input(model, waveform[0], 1, steps=1).shape == (998, 128)
    assert Embedder(model).model is model


# --- TFLite with explicit state ---


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_exported_stream_equals_the_model(model, tmp_path, quantize):
    file = tmp_path / "stream.tflite"
    about = export_streaming_tflite(model, file, quantize=quantize)
    # Compared by the export itself, over three times the blocks in sight.
    assert about["compared_blocks"] == 18
    assert about["max_error"] < (1e-5 if quantize == "none" else 0.1)
    written = json.loads((tmp_path / "stream.tflite.json").read_text())
    assert written["state"]["state_samples"] == [1, 1200]
    assert written["state"]["state_keys_1"] == [1, 3, 124, 16]
    assert written["num_samples"] == 8000


def test_quantised_stream_is_smaller(model, tmp_path):
    sizes = [
        export_streaming_tflite(model, tmp_path / f"{q}.tflite", quantize=q)["size_bytes"]
        for q in ("none", "int8")
    ]
    matrices = sum(
        int(np.prod(w.shape))
        for b in model.backbone.blocks
        for w in b.weights
        if "kernel" in w.path
    )
    assert sizes[0] - sizes[1] > 2.5 * matrices  # of four bytes one is left, and scales


def test_exported_stream_runs_for_long_in_another_process(model, waveform, tmp_path):
    # As a client does it: nothing of this package, names from the JSON, state from call to call.
    import subprocess
    import sys

    file = tmp_path / "stream.tflite"
    export_streaming_tflite(model, file)
    np.save(tmp_path / "sound.npy", waveform[0])
    code = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
about = json.load(open(sys.argv[1] + ".json"))
runner = Interpreter(model_path=sys.argv[1]).get_signature_runner("stream")
details = runner.get_input_details()
state = {n: np.zeros(s, details[n]["dtype"]) for n, s in about["state"].items()}
sound, size, found = np.load(sys.argv[2]), about["num_samples"], []
for block in range(len(sound) // size):
    outputs = runner(waveform=sound[None, block * size:][:, :size], **state)
    found.append(outputs.pop("scores")[0])
    state = outputs
np.save(sys.argv[3], found)
"""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(file),
            str(tmp_path / "sound.npy"),
            str(tmp_path / "out.npy"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    whole = np.concatenate([np.zeros((1, 1200), "float32"), waveform], axis=1)
    expected = model.scores(block_logits(model, model.spectrogram(whole)))[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected[:20], rtol=0, atol=SUMS)


def test_stream_export_says_what_is_wrong(model, tmp_path):
    plain = ast_keras.from_preset("ast_test", num_classes=2, num_frames=98)
    with pytest.raises(ExportError, match="Only a causal model"):
        export_streaming_tflite(plain, tmp_path / "a.tflite")
    with pytest.raises(ExportError, match="at least one past block"):
        export_streaming_tflite(make_model_that_attends(0), tmp_path / "a.tflite")
    with pytest.raises(ExportError, match="quantize must be one of"):
        export_streaming_tflite(model, tmp_path / "a.tflite", quantize="int2")
    (tmp_path / "a.tflite").write_text("mine")
    with pytest.raises(ExportError, match="add --overwrite"):
        export_streaming_tflite(model, tmp_path / "a.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]

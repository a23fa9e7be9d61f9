"""Clips of any length with `padding="masked"`: in one batch, and other lengths than in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import ast_keras
from ast_keras.data.dataset import Split
from ast_keras.data.pipeline import Pipeline
from ast_keras.layers.position_embedding import PositionEmbedding
from ast_keras.layers.spectrogram_augment import SpectrogramAugment, axis_mask
from ast_keras.training.trainer import ASTTrainer
from ast_keras.weights.resize import resize_positions

RATE = 16000
# float32 sums over other numbers of tokens, on logits of up to 6: seen 2.9e-6.
SUMS = 1e-5


def make_model(num_frames=298, **settings):
    """Returns a small model whose logits differ from clip to clip."""
    keras.utils.set_random_seed(1)
    settings = {"padding": "masked", **settings}
    model = ast_keras.from_preset("ast_test", num_classes=5, num_frames=num_frames, **settings)
    model.head.kernel.assign(50 * model.head.kernel)
    positions = model.backbone.get_layer("positions").embedding
    positions.assign(20 * positions)  # so that a wrong one changes the logits
    return model


def make_clips(lengths, seed=0):
    """Returns modulated noise; every clip has another loudness and modulation."""
    rng = np.random.default_rng(seed)
    clips = []
    for n in lengths:
        wave = np.sin(np.arange(n) * rng.uniform(0.001, 1.0) + rng.uniform(0, 6))
        loudness = 10 ** rng.uniform(-3, -0.5)
        clips.append((loudness * wave * rng.uniform(-1, 1, n)).astype("float32"))
    return clips


def batched(clips, fill=0.0):
    waveform = np.full((len(clips), max(map(len, clips))), fill, "float32")
    for row, clip in zip(waveform, clips, strict=True):
        row[: len(clip)] = clip
    return waveform, np.array([len(clip) for clip in clips], "int32")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def alone(model):
    """Returns a compiled function from one clip to its logits."""
    function = tf.function(
        lambda clip: model(clip, training=False),
        input_signature=[tf.TensorSpec((1, None), tf.float32)],
    )
    return lambda clip: function(clip[None]).numpy()[0]


@pytest.fixture(scope="module")
def mixed():
    """16 clips of 0.3 to 8 s, for a model of 3 s."""
    lengths = np.random.default_rng(3).integers(4800, 128001, 14)
    return make_clips([4800, 128000, *lengths])


def test_batch_of_mixed_lengths_equals_its_clips_alone(model, alone, mixed):
    waveform, lengths = batched(mixed)
    together = model.predict({"waveform": waveform, "lengths": lengths}, batch_size=16, verbose=0)
    expected = np.stack([alone(clip) for clip in mixed])
    assert np.ptp(expected, axis=0).min() > 0.05  # else equality would show nothing
    np.testing.assert_allclose(together, expected, rtol=0, atol=SUMS)


def test_content_of_the_padding_does_not_matter(model, mixed):
    silent, lengths = batched(mixed[:8])
    loud, _ = batched(mixed[:8], fill=1e6)
    np.testing.assert_array_equal(
        model(loud, lengths=lengths).numpy(), model(silent, lengths=lengths).numpy()
    )


@pytest.mark.slow
def test_xla_gives_the_same_logits(model, mixed):
    waveform, lengths = batched([clip[:50000] for clip in mixed[:4]])
    compiled = tf.function(lambda w, n: model(w, lengths=n), jit_compile=True)
    np.testing.assert_allclose(
        compiled(waveform, lengths), model(waveform, lengths=lengths), rtol=0, atol=SUMS
    )


def test_gradient_of_a_padded_batch_is_the_sum_of_its_clips(model, mixed):
    def gradient(waveform, lengths):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(waveform, lengths=lengths, training=True) ** 2)
        return tape.gradient(loss, model.backbone.get_layer("positions").embedding.value)

    clips = mixed[:3]
    together = gradient(*batched(clips, fill=1e6))
    apart = sum(gradient(clip[None], None) for clip in clips)
    scale = float(tf.reduce_max(tf.abs(apart)))
    # The sums of three clips in another order.
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5 * scale)


def test_original_padding_equals_the_authors():
    # As in their code, which `parity/` compares with, the log-mels are padded with zeros up to
    # `num_frames` and all frames are attended to. A clip with its length equals the clip alone.
    model = make_model(padding="original")
    (clip,) = make_clips([20000])
    waveform, lengths = batched([clip, make_clips([47000])[0]], fill=1e6)
    fbank = ast_keras.LogMelFilterbank(mean=0.0, std=0.5)(clip[None]).numpy()
    padded = np.zeros((1, 298, 128), "float32")
    padded[:, : fbank.shape[1]] = fbank
    normalised = (padded - model.frontend.mean) / (2 * model.frontend.std)
    expected = model.classify(model.pool(model.backbone(normalised)))
    np.testing.assert_allclose(model(waveform, lengths=lengths)[:1], expected, rtol=0, atol=SUMS)
    np.testing.assert_allclose(model(clip[None]), expected, rtol=0, atol=SUMS)


def test_whole_clip_is_the_same_with_either_padding(model):
    original = make_model(padding="original")
    original.set_weights(model.get_weights())
    (clip,) = make_clips([original.frontend.num_samples])
    np.testing.assert_allclose(model(clip[None]), original(clip[None]), rtol=0, atol=SUMS)


def test_longer_clip_equals_a_model_with_interpolated_positions(model, tmp_path):
    # `from_preset(..., num_frames=...)` interpolates in NumPy, and stores the result.
    ast_keras.save_to_preset(model, tmp_path / "model")
    longer = ast_keras.from_preset(tmp_path / "model", num_frames=998)
    assert longer.padding == "masked"
    (clip,) = make_clips([160000])
    np.testing.assert_allclose(model(clip[None]), longer(clip[None]), rtol=0, atol=SUMS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1.00 s: all is processed, with the first 9 of 29 positions"),
        (20, "20.00 s: all is processed; the positions of 29 patches along time are stretched"),
    ],
)
def test_clip_of_any_length_is_processed_to_its_end(model, alone, seconds, words):
    (clip,) = make_clips([seconds * RATE])
    assert np.isfinite(alone(clip)).all()
    changed = clip.copy()
    changed[-RATE // 4 :] *= -0.1
    assert np.abs(alone(changed) - alone(clip)).max() > 1e-4  # ten times SUMS
    assert model.describe_input(len(clip)).startswith(words)


def test_description_states_what_original_padding_cuts():
    model = make_model(padding="original")
    assert "only the first 3.00 s are processed" in model.describe_input(10 * RATE)
    assert "padded to 3.00 s" in model.describe_input(RATE)


def test_less_than_a_frame_gives_a_result(model):
    assert np.isfinite(model(np.full((1, 100), 0.1, "float32"))).all()
    assert np.isfinite(model(np.zeros((2, 9000), "float32"), lengths=[1, 9000])).all()


def test_original_padding_rejects_a_spectrogram_of_another_length():
    backbone = make_model(padding="original").backbone
    with pytest.raises(ValueError, match="incompatible"):
        backbone(np.zeros((1, 400, 128), "float32"))


def test_original_padding_rejects_lengths():
    backbone = make_model(padding="original").backbone
    with pytest.raises(ValueError, match='lengths needs padding="masked"'):
        backbone(np.zeros((1, 298, 128), "float32"), lengths=np.array([100]))


@pytest.mark.parametrize("columns", [1, 5, 12, 13, 40])
def test_positions_equal_the_interpolated_table(columns):
    # For more columns those of `resize_positions`, for fewer the first ones.
    layer = PositionEmbedding(grid=(3, 12))
    tokens = np.zeros((2, 2 + 3 * columns, 8), "float32")
    layer.build((None, 2 + 3 * 12, 8))
    embedding = np.random.default_rng(1).standard_normal((38, 8)).astype("float32")
    layer.embedding.assign(embedding)
    expected = embedding[2:].reshape(3, 12, 8)[:, :columns].reshape(-1, 8)
    if columns > 12:
        expected = resize_positions(embedding[None], 2, (3, 12), (3, columns))[0, 2:]
    for result in (
        layer(tokens, columns=np.array([columns, columns])),
        tf.function(lambda x, n: layer(x, columns=n), reduce_retracing=True)(
            tf.constant(tokens), tf.constant([columns, columns])
        ),
    ):
        np.testing.assert_array_equal(result[0, :2], embedding[:2])
        # `resize_positions` interpolates in float64, the layer in float32, on numbers up to three.
        np.testing.assert_allclose(result[1, 2:], expected, rtol=0, atol=1e-6)


def test_positions_reject_more_tokens_without_columns():
    layer = PositionEmbedding(grid=(3, 12))
    layer.build((None, 38, 8))
    with pytest.raises(ValueError, match="need their count"):
        layer(np.zeros((1, 2 + 3 * 5, 8), "float32"))


# --- Training ---


def test_time_mask_stays_within_the_clip_and_leaves_half():
    draws = tf.constant(np.random.default_rng(0).random((500, 2)), tf.float32)
    used = np.random.default_rng(1).integers(2, 60, 500)
    masked = axis_mask(draws, 192, 100, tf.constant(used)).numpy()
    assert (masked.sum(axis=1) <= used / 2).all()
    assert not (masked & (np.arange(100) >= used[:, None])).any()
    assert masked.any(axis=1).mean() > 0.8


def test_roll_stays_within_the_clip():
    augment = SpectrogramAugment(roll_frames=10)
    spectrogram = np.arange(40, dtype="float32").reshape(1, 40, 1)
    spectrogram = np.repeat(spectrogram, 6, axis=0)
    seeds = np.arange(12, dtype="int32").reshape(6, 2)
    rolled = augment(spectrogram, training=True, seeds=seeds, lengths=np.full(6, 25)).numpy()
    for row in rolled[..., 0]:
        np.testing.assert_array_equal(row[25:], np.arange(25, 40))
        np.testing.assert_array_equal(np.roll(np.arange(25), int(-row[0]) % 25), row[:25])
    assert (rolled[:, 0, 0] != 0).any()


def make_pipeline(lengths, **settings):
    split = Split(
        sources=make_clips(lengths, seed=2),
        targets=[(i % 5,) for i in range(len(lengths))],
    )
    settings = {"training": True, "seed": 4, "by_length": True, **settings}
    return Pipeline(split, num_classes=5, clip_samples=32000, batch_size=4, **settings)


LENGTHS = [int(n) for n in np.random.default_rng(5).integers(3000, 40000, 42)]


def padded(waveform):
    """Pads a batch to the width of the longest clip of the data."""
    return tf.pad(waveform, [[0, 0], [0, 32000 - tf.shape(waveform)[1]]])


# Accumulation contains the plain step; the others repeat it in other graphs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulate_steps", "jit_compile"),
    [
        (2, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
    ],
)
def test_training_on_batches_by_length_equals_training_on_padded_ones(
    accumulate_steps, jit_compile
):
    weights = []
    for pad in (False, True):
        model = make_model(
            num_frames=98,
            augment=SpectrogramAugment(
                freq_mask_bins=24, time_mask_frames=30, noise=True, roll_frames=10
            ),
        )
        batches = make_pipeline(LENGTHS).dataset(0, 3)
        if pad:
            batches = batches.map(lambda batch: {**batch, "waveform": padded(batch["waveform"])})
        trainer = ASTTrainer(
            model,
            keras.optimizers.SGD(1e-3),
            keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None),
            batches,
            accumulate_steps=accumulate_steps,
            jit_compile=jit_compile,
        )
        trainer.train(tf.constant(3))
        assert np.isfinite(trainer.mean_loss())
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        # Three steps of float32 sums over other widths; weights of at most 3.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

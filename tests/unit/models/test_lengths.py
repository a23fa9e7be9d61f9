"""Sounds of any length: in one batch, longer and shorter than the model was trained for."""

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
    """Returns a small model whose logits differ from sound to sound."""
    keras.utils.set_random_seed(1)
    settings = {"padding": "masked", **settings}
    model = ast_keras.from_preset("ast_test", num_classes=5, num_frames=num_frames, **settings)
    model.head.kernel.assign(50 * model.head.kernel)
    positions = model.backbone.get_layer("positions").embedding
    positions.assign(20 * positions)  # else a wrong one would hardly show
    return model


def make_clips(lengths, seed=0):
    """Returns noise, each clip of a loudness and a modulation of its own."""
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
    """Returns what the model makes of one clip, compiled once."""
    function = tf.function(
        lambda clip: model(clip, training=False),
        input_signature=[tf.TensorSpec((1, None), tf.float32)],
    )
    return lambda clip: function(clip[None]).numpy()[0]


@pytest.fixture(scope="module")
def mixed():
    """64 clips of 0.3 to 12 s, for a model of 3 s."""
    lengths = np.random.default_rng(3).integers(4800, 192001, 62)
    return make_clips([4800, 192000, *lengths])


def test_batch_of_mixed_lengths_equals_its_clips_alone(model, alone, mixed):
    waveform, lengths = batched(mixed)
    together = model.predict({"waveform": waveform, "lengths": lengths}, batch_size=64, verbose=0)
    expected = np.stack([alone(clip) for clip in mixed])
    assert np.ptp(expected, axis=0).min() > 0.05  # sounds differ, or equality says nothing
    np.testing.assert_allclose(together, expected, rtol=0, atol=SUMS)


def test_padding_is_not_heard(model, mixed):
    silent, lengths = batched(mixed[:8])
    loud, _ = batched(mixed[:8], fill=1e6)
    np.testing.assert_array_equal(
        model(loud, lengths=lengths).numpy(), model(silent, lengths=lengths).numpy()
    )


def test_compiled_by_xla_it_is_the_same(model, mixed):
    waveform, lengths = batched([clip[:50000] for clip in mixed[:4]])
    compiled = tf.function(lambda w, n: model(w, lengths=n), jit_compile=True)
    np.testing.assert_allclose(
        compiled(waveform, lengths), model(waveform, lengths=lengths), rtol=0, atol=SUMS
    )


def test_gradient_of_a_padded_batch_is_finite_and_that_of_the_clips(model, mixed):
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


def test_original_padding_is_the_authors():
    # Zeros among the log-mels up to `num_frames`, all attended to: what `parity/` compares with
    # their code. A clip given with its length equals the clip alone here, too.
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


def test_longer_clip_equals_a_model_stretched_once(model, tmp_path):
    # `from_preset(..., num_frames=...)` interpolates in NumPy, and stores the result.
    ast_keras.save_to_preset(model, tmp_path / "model")
    longer = ast_keras.from_preset(tmp_path / "model", num_frames=998)
    assert longer.padding == "masked"
    (clip,) = make_clips([160000])
    np.testing.assert_allclose(model(clip[None]), longer(clip[None]), rtol=0, atol=SUMS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1.00 s: all is heard, with the first 9 of 29 positions"),
        (60, "60.00 s: all is heard; the positions of 29 patches along time are stretched"),
    ],
)
def test_any_length_is_heard_and_said(model, alone, seconds, words):
    (clip,) = make_clips([seconds * RATE])
    assert np.isfinite(alone(clip)).all()
    changed = clip.copy()
    changed[-RATE // 4 :] *= -0.1
    assert np.abs(alone(changed) - alone(clip)).max() > 1e-4  # to its end, ten times SUMS
    assert model.describe_input(len(clip)).startswith(words)


def test_original_padding_says_what_is_cut():
    model = make_model(padding="original")
    assert "the first 3.00 s are heard" in model.describe_input(10 * RATE)
    assert "padded to 3.00 s" in model.describe_input(RATE)


def test_less_than_a_frame_gives_a_result(model):
    assert np.isfinite(model(np.full((1, 100), 0.1, "float32"))).all()
    assert np.isfinite(model(np.zeros((2, 9000), "float32"), lengths=[0, 9000])).all()


def test_spectrogram_of_another_length_is_refused_with_original_padding():
    backbone = make_model(padding="original").backbone
    with pytest.raises(ValueError, match="incompatible"):
        backbone(np.zeros((1, 400, 128), "float32"))


def test_lengths_are_refused_with_original_padding():
    backbone = make_model(padding="original").backbone
    with pytest.raises(ValueError, match='need padding="masked"'):
        backbone(np.zeros((1, 298, 128), "float32"), lengths=np.array([100]))


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be one of original, masked"):
        make_model(padding="zero")


@pytest.mark.parametrize("columns", [1, 5, 12, 13, 40])
def test_positions_equal_the_ones_that_are_stored(columns):
    # More columns: as `resize_positions` interpolates. Fewer: the first ones.
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
        # Interpolated in float64 there and float32 here, on numbers of up to three.
        np.testing.assert_allclose(result[1, 2:], expected, rtol=0, atol=1e-6)


def test_missing_column_count_is_an_error():
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


def test_batches_hold_clips_of_similar_length():
    plain, by_length = (make_pipeline(LENGTHS, by_length=choice) for choice in (False, True))

    def padding(pipeline):
        batches = list(pipeline.batches(0, pipeline.steps_per_epoch))
        size = sum(batch["waveform"].size for batch in batches)
        return 1 - sum(batch["lengths"].sum() for batch in batches) / size

    assert padding(plain) > 0.3
    assert padding(by_length) < 0.15
    widths = {b["waveform"].shape[1] for b in by_length.batches(0, by_length.steps_per_epoch)}
    assert len(widths) > 3
    assert all(width % 2000 == 0 for width in widths)


def test_every_clip_comes_once_an_epoch_in_an_order_of_its_own():
    pipeline = make_pipeline(LENGTHS)
    orders = [pipeline.order(epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(42))
    assert orders[0] != orders[1]
    again = make_pipeline(LENGTHS)
    np.testing.assert_array_equal(again.batch(7)["waveform"], pipeline.batch(7)["waveform"])
    rows = pipeline.batch(7, slice(2, 4))
    np.testing.assert_array_equal(rows["lengths"], pipeline.batch(7)["lengths"][2:4])


def test_lengths_come_from_headers(tmp_path):
    import soundfile

    for name, rate, frames in (
        ("a.wav", 16000, 8000),
        ("b.flac", 44100, 44100),
        ("c.ogg", 8000, 9),
    ):
        soundfile.write(tmp_path / name, np.zeros(frames), rate)
    (tmp_path / "d.wav").write_bytes(b"no sound")
    sources = [str(path) for path in sorted(tmp_path.iterdir())]
    split = Split(sources=[*sources, np.zeros(70000)], targets=[(0,)] * 5)
    pipeline = Pipeline(split, num_classes=1, clip_samples=32000, batch_size=2, by_length=True)
    assert pipeline.clips.lengths().tolist() == [8000, 16000, 18, 32000, 32000]


def test_evaluation_keeps_the_order_of_the_split():
    pipeline = make_pipeline(LENGTHS, training=False)
    lengths = np.concatenate([b["lengths"] for b in pipeline.batches(0, pipeline.steps_per_epoch)])
    assert lengths[:42].tolist() == [min(n, 32000) for n in LENGTHS]


@pytest.mark.parametrize(
    ("accumulate_steps", "jit_compile"),
    [(1, False), (2, False), pytest.param(1, True, marks=pytest.mark.slow)],
)
def test_training_on_batches_by_length_equals_training_on_padded_ones(
    accumulate_steps, jit_compile
):
    weights = []
    for width in (None, 32000):
        model = make_model(
            num_frames=98,
            augment=SpectrogramAugment(
                freq_mask_bins=24, time_mask_frames=30, noise=True, roll_frames=10
            ),
        )
        pipeline = make_pipeline(LENGTHS)
        if width:
            pipeline._width = lambda examples: 32000
        trainer = ASTTrainer(
            model,
            keras.optimizers.SGD(1e-3),
            keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None),
            pipeline.dataset(0, 3),
            accumulate_steps=accumulate_steps,
            jit_compile=jit_compile,
        )
        trainer.train(tf.constant(3))
        assert np.isfinite(trainer.mean_loss())
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        # Three steps of float32 sums over other widths; weights of at most 3.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

"""Backbone and classifier: shapes, precision, saving, errors, gradients, regularisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier

RNG = np.random.default_rng(10)
FRAMES, MEL = 24, 16
LABELS = LabelSet(("dog", "cow", "hen"), ("d", "c", "h"))


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


WAVEFORM = 0.1 * random(2, 3000)
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


def make_frontend(**changes):
    arguments = {"sample_rate": 8000, "num_mel_bins": MEL, "num_frames": FRAMES}
    return LogMelFilterbank(**{**arguments, **changes})


def make_model(augment=None, frontend=True, **changes):
    return ASTClassifier(
        make_backbone(**changes),
        num_classes=3,
        frontend=make_frontend() if frontend else None,
        augment=augment,
        labels=LABELS,
    )


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return make_model()


@pytest.fixture(scope="module")
def plain():
    """A model of spectrograms without any rate."""
    keras.utils.set_random_seed(2)
    return make_model(frontend=False)


# --- Shapes ---


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


def test_backbone_shows_the_attention_of_every_block():
    backbone = make_backbone(num_layers=3)
    maps = backbone.attention_weights(SPECTROGRAM)
    tokens = backbone.output_shape[1]
    assert [tuple(weights.shape) for weights in maps] == [(2, 3, tokens, tokens)] * 3
    for weights in maps:
        # Sums of float32 numbers below one: seen 1.2e-7.
        np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=0, atol=4e-7)


@pytest.mark.parametrize("distillation", [True, False])
def test_classifier_reads_the_mean_of_the_special_tokens(distillation):
    model = make_model(frontend=False, use_distillation_token=distillation)
    tokens = model.backbone(SPECTROGRAM).numpy()
    pooled = model.pool(tokens).numpy()
    expected = (tokens[:, 0] + tokens[:, 1]) / 2 if distillation else tokens[:, 0]
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-7)  # one float32 rounding
    logits = model.head(model.head_norm(expected)).numpy()
    # What follows that rounding, on logits of size 0.1.
    np.testing.assert_allclose(model(SPECTROGRAM), logits, rtol=0, atol=1e-7)


def test_classifier_hears_only_the_length_that_it_is_told(model):
    padded = np.pad(WAVEFORM[:, :2000], ((0, 0), (0, 1000)), constant_values=0.7)
    heard = model(padded, lengths=np.array([2000, 2000])).numpy()
    # Removing the clip's mean adds zeros too, in another order: seen 3.7e-9.
    np.testing.assert_allclose(heard, model(WAVEFORM[:, :2000]), rtol=0, atol=2e-8)
    assert np.abs(heard - model(padded).numpy()).max() > 1e-4


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_classifier_scores_are_probabilities(activation):
    model = ASTClassifier(make_backbone(num_layers=1), 3, score_activation=activation)
    logits = np.array([[0.0, 1.0, -2.0]], "float32")
    exp = np.exp(logits.astype("float64"))
    expected = exp / exp.sum() if activation == "softmax" else exp / (1 + exp)
    # float32 exponentials, results below one: seen 2e-8.
    np.testing.assert_allclose(model.scores(logits), expected, rtol=0, atol=1e-7)


# --- Precision ---


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_classifier_is_mixed_inside_and_float32_at_both_ends(policy, model):
    keras.config.set_dtype_policy(policy)
    mixed = make_model()
    mixed.set_weights(model.get_weights())
    half = policy.removeprefix("mixed_")
    assert mixed.backbone(SPECTROGRAM).dtype == half
    # The waveform reaches the filterbank unharmed: bit for bit the same spectrogram.
    spectrograms = []
    frontend = mixed.frontend.call
    mixed.frontend.call = lambda *args, **kwargs: (
        spectrograms.append(frontend(*args, **kwargs)) or spectrograms[-1]
    )
    logits = mixed(WAVEFORM)
    np.testing.assert_array_equal(spectrograms[0], model.spectrogram(WAVEFORM))
    assert logits.dtype == "float32"
    assert mixed.compute_dtype == "float32"
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}
    reference = model(WAVEFORM).numpy()
    # Eleven and eight bits of precision, on logits of size 0.1: seen 5.8e-5 and 7.3e-4.
    tolerance = {"mixed_float16": 2e-4, "mixed_bfloat16": 2.5e-3}[policy]
    np.testing.assert_allclose(logits, reference, rtol=0, atol=tolerance)
    assert not np.array_equal(logits, reference)


def test_backbone_takes_a_policy_of_its_own_and_keeps_it():
    backbone = make_backbone(num_layers=1, dtype="mixed_bfloat16")
    revived = ASTBackbone.from_config(backbone.get_config())
    assert revived(SPECTROGRAM).dtype == backbone(SPECTROGRAM).dtype == "bfloat16"


# --- Saving ---


def test_classifier_survives_a_keras_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(WAVEFORM), model(WAVEFORM))
    assert loaded.labels == LABELS
    assert loaded.frontend.get_config() == model.frontend.get_config()
    assert loaded.backbone.get_config() == model.backbone.get_config()


def test_classifier_config_holds_the_labels_as_text(model):
    config = model.get_config()
    assert config["labels"] == {"names": ["dog", "cow", "hen"], "ids": ["d", "c", "h"]}
    assert ASTClassifier.from_config(config).labels == LABELS
    assert ASTClassifier.from_config({**config, "labels": None}).labels is None


def test_classifier_saves_a_mixed_model(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = make_model()
    mixed.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.backbone(SPECTROGRAM).dtype == "bfloat16"
    np.testing.assert_array_equal(loaded(WAVEFORM), mixed(WAVEFORM))


# --- Errors ---


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_backbone(num_heads=5), "num_heads must divide.*num_heads=5, embed_dim=12"),
        (lambda: make_backbone(patch_size=(17, 4)), "at least one patch large.*patch_size=.17, 4"),
        (lambda: make_backbone(patch_size=(8, 25)), "at least one patch large.*patch_size=.8, 25"),
        (
            lambda: ASTClassifier(make_backbone(num_layers=1), 4, labels=LABELS),
            "one label for each class.*3 labels, num_classes=4",
        ),
        (
            lambda: ASTClassifier(make_backbone(num_layers=1), 3, score_activation="relu"),
            "score_activation must be one of softmax, sigmoid.*'relu'",
        ),
        (
            lambda: ASTClassifier(
                make_backbone(num_layers=1), 3, frontend=make_frontend(num_frames=25)
            ),
            r"same num_frames and num_mel_bins.*\(25, 16\), backbone \(24, 16\)",
        ),
        (
            lambda: ASTClassifier(
                make_backbone(num_layers=1), 3, frontend=make_frontend(num_mel_bins=17)
            ),
            r"same num_frames and num_mel_bins.*\(24, 17\), backbone \(24, 16\)",
        ),
    ],
)
def test_model_rejects_parts_that_do_not_fit(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_backbone(num_frame=24),
        lambda: ASTClassifier(make_backbone(num_layers=1), 3, front_end=None),
    ],
)
def test_model_rejects_a_misspelt_argument(make):
    with pytest.raises((TypeError, ValueError), match=r"num_frame|front_end"):
        make()


@pytest.mark.parametrize("shape", [(2, FRAMES + 1, MEL), (2, FRAMES, MEL - 1), (2, FRAMES)])
def test_classifier_rejects_a_spectrogram_of_another_size(shape):
    with pytest.raises(ValueError, match=r"(?i)shape|rank|ndim"):
        make_model(frontend=False, num_layers=1)(random(*shape))


# --- Training ---


@pytest.mark.parametrize("distillation", [True, False])
def test_gradients_reach_every_weight(distillation):
    model = make_model(use_distillation_token=distillation, dropout=0.1, attention_dropout=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(np.array([0, 2]), model(WAVEFORM, training=True))
    weights = model.trainable_weights
    gradients = tape.gradient(value, [weight.value for weight in weights])
    idle = [
        weight.path
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert idle == []
    # patches 2, tokens 1, positions 1, two blocks of 12, norm 2, head norm 2, head 2
    assert len(weights) == 34


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
def test_rates_act_only_while_training(rate, plain):
    model = make_model(frontend=False, **{rate: 0.5})
    model.set_weights(plain.get_weights())
    expected = plain(SPECTROGRAM).numpy()
    np.testing.assert_array_equal(model(SPECTROGRAM), expected)
    np.testing.assert_array_equal(model(SPECTROGRAM, training=False), expected)
    np.testing.assert_array_equal(plain(SPECTROGRAM, training=True), expected)
    draws = {model(SPECTROGRAM, training=True).numpy().tobytes() for _ in range(3)}
    assert len(draws) > 1


def test_drop_path_grows_from_zero_at_the_first_block():
    backbone = make_backbone(num_layers=3, drop_path=0.4)
    rates = [backbone.get_layer(f"block_{index}").drop_path for index in range(3)]
    assert rates == [0.0, 0.2, 0.4]


def test_augment_acts_only_while_training_and_by_the_seeds():
    model = make_model(augment=SpectrogramAugment(freq_mask_bins=8, noise=True, seed=3))
    expected = model(WAVEFORM).numpy()
    seeds = np.array([[1, 2], [3, 4]], "int32")
    np.testing.assert_array_equal(model(WAVEFORM, training=False, seeds=seeds), expected)
    one = model(WAVEFORM, training=True, seeds=seeds).numpy()
    np.testing.assert_array_equal(model(WAVEFORM, training=True, seeds=seeds), one)
    assert not np.array_equal(one, expected)
    assert not np.array_equal(model(WAVEFORM, training=True, seeds=seeds + 1), one)
    assert not np.array_equal(model(WAVEFORM, training=True), model(WAVEFORM, training=True))


def test_classifier_learns_with_keras_fit():
    model = make_model(num_layers=1)
    time = np.arange(3000) / 8000
    tones = np.sin(2 * np.pi * np.array([[300.0], [1000.0], [2500.0]]) * time)
    waveforms = np.tile(tones, (8, 1)) + 0.05 * RNG.standard_normal((24, 3000))
    waveforms, classes = waveforms.astype("float32"), np.tile(np.arange(3), 8)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling would take longer than training
    )
    history = model.fit(waveforms, classes, batch_size=24, epochs=20, verbose=0).history
    assert history["accuracy"][-1] == 1.0

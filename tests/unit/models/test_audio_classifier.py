"""AudioClassifier and ASTClassifier: precision, lengths, saving, export, errors and training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import ArgumentError, LabelError
from ast_keras.export.serving_module import label_names
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.presets.loading import from_preset
from tests.helpers.arrays import random
from tests.helpers.models import tiny_classifier

FRAMES, MEL = 24, 16
LABELS = LabelSet(("dog", "cow", "hen"), ("d", "c", "h"))
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
def one_block():
    """A small backbone for tests of the classifier's arguments."""
    return make_backbone(num_layers=1)


# --- Forward pass ---


@pytest.mark.parametrize("distillation", [True, False])
def test_classifier_reads_the_mean_of_the_special_tokens(distillation):
    model = make_model(frontend=False, use_distillation_token=distillation)
    tokens = model.backbone(SPECTROGRAM).numpy()
    pooled = model.pool(tokens).numpy()
    expected = (tokens[:, 0] + tokens[:, 1]) / 2 if distillation else tokens[:, 0]
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=5e-7)  # one rounding, values up to 3
    logits = model.head(model.head_norm(expected)).numpy()
    # The last block computes the special tokens only, as products of other shapes: sums of 20
    # float32 numbers in another order, on logits of size 0.1.
    np.testing.assert_allclose(model(SPECTROGRAM), logits, rtol=0, atol=5e-7)


def test_padding_beyond_a_clips_length_is_ignored(model):
    padded = np.pad(WAVEFORM[:, :2000], ((0, 0), (0, 1000)), constant_values=0.7)
    logits = model(padded, lengths=np.array([2000, 2000])).numpy()
    # The clip's mean is a sum of 3,000 instead of 2,000 float32 numbers, in another order, which
    # changes it by up to 1e-8 and the log-mels of weak bins by 1e-6: seen 2.3e-8 in the logits.
    np.testing.assert_allclose(logits, model(WAVEFORM[:, :2000]), rtol=0, atol=5e-7)
    assert np.abs(logits - model(padded).numpy()).max() > 1e-4


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_are_probabilities(activation, one_block):
    model = ASTClassifier(one_block, 3, score_activation=activation)
    logits = np.array([[0.0, 1.0, -2.0]], "float32")
    exp = np.exp(logits.astype("float64"))
    expected = exp / exp.sum() if activation == "softmax" else exp / (1 + exp)
    # float32 exponentials, results below one: seen 2e-8.
    np.testing.assert_allclose(model.scores(logits), expected, rtol=0, atol=1e-7)


class MeanEncoder(keras.Model):
    """The smallest encoder of the protocol in `AudioClassifier`'s docstring."""

    embed_dim, num_frames, num_mel_bins, min_frames = MEL, FRAMES, MEL, 1
    padding, num_pooled_tokens = "original", None

    @property
    def policy(self):
        return self.dtype_policy

    def call(self, spectrogram, training=None, lengths=None, num_tokens=None):
        return spectrogram

    def pool(self, tokens, lengths=None):
        return keras.ops.mean(tokens, axis=1)


def test_any_encoder_can_be_classified():
    model = AudioClassifier(MeanEncoder(), 3, frontend=make_frontend())
    expected = model.classify(np.mean(model.spectrogram(WAVEFORM), axis=1))
    np.testing.assert_allclose(model(WAVEFORM), expected, rtol=0, atol=1e-6)  # sums of 24 numbers
    assert model.describe_input(800).endswith("as in training")


# --- Lengths ---


@pytest.mark.parametrize(("num_frames", "seconds"), [(1024, 10), (998, 10), (98, 1), (50, 0.515)])
def test_default_length_is_whole_seconds_if_possible(num_frames, seconds):
    frontend = LogMelFilterbank(num_frames=num_frames)
    backbone = ASTBackbone(
        embed_dim=12, num_layers=1, num_heads=3, mlp_dim=12, num_frames=num_frames
    )
    model = ASTClassifier(backbone, 2, frontend=frontend)
    assert model.default_num_samples == round(seconds * 16000)


def test_max_input_samples_add_no_frame(model):
    count = model.max_input_samples
    assert model.frontend.count_frames(count) == FRAMES
    assert model.frontend.count_frames(count + 1) == FRAMES + 1
    assert "padded to" in model.describe_input(count)
    assert "only the first" in model.describe_input(count + 1)
    masked = ASTClassifier(make_backbone(padding="masked"), 3, frontend=make_frontend())
    assert masked.max_input_samples is None


def test_lengths_need_a_frontend(one_block):
    model = ASTClassifier(one_block, 3)
    with pytest.raises(ArgumentError, match="built without a frontend"):
        _ = model.max_input_samples


# --- Precision ---


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_classifier_is_mixed_inside_and_float32_at_both_ends(policy, model):
    keras.config.set_dtype_policy(policy)
    mixed = make_model()
    mixed.set_weights(model.get_weights())
    half = policy.removeprefix("mixed_")
    assert mixed.backbone(SPECTROGRAM).dtype == half
    # The waveform reaches the filterbank in float32: the spectrogram is equal to the bit.
    np.testing.assert_array_equal(mixed.spectrogram(WAVEFORM), model.spectrogram(WAVEFORM))
    logits = mixed(WAVEFORM)
    assert logits.dtype == "float32"
    assert mixed.compute_dtype == "float32"
    assert {weight.dtype for weight in mixed.trainable_weights} == {"float32"}
    reference = model(WAVEFORM).numpy()
    # Eleven and eight bits of precision, on logits of size 0.1: seen 5.8e-5 and 7.3e-4.
    tolerance = {"mixed_float16": 2e-4, "mixed_bfloat16": 2.5e-3}[policy]
    np.testing.assert_allclose(logits, reference, rtol=0, atol=tolerance)
    assert not np.array_equal(logits, reference)


def test_call_receives_the_waveform_in_float32_under_a_mixed_policy(model):
    # Half precision would change these samples, and with them the spectrogram and the logits.
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = ASTClassifier(make_backbone(dtype="float32"), 3, frontend=make_frontend())
    mixed.set_weights(model.get_weights())
    np.testing.assert_array_equal(mixed(WAVEFORM), model(WAVEFORM))


# --- Saving and exporting ---


def test_classifier_survives_a_keras_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(WAVEFORM), model(WAVEFORM))
    assert loaded.labels == LABELS
    assert loaded.frontend.get_config() == model.frontend.get_config()
    assert loaded.backbone.get_config() == model.backbone.get_config()


def test_config_holds_the_labels_as_text(model):
    config = model.get_config()
    assert config["labels"] == {"names": ["dog", "cow", "hen"], "ids": ["d", "c", "h"]}
    assert ASTClassifier.from_config(config).labels == LABELS


def test_config_without_optional_parts_loads(one_block):
    config = ASTClassifier(one_block, 3).get_config()
    minimal = {"backbone": config["backbone"], "num_classes": 3}
    revived = ASTClassifier.from_config(minimal)
    assert revived.get_config() | {"name": None} == config | {"name": None}


def test_mixed_model_keeps_its_precision_in_a_keras_file(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = make_model()
    mixed.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.backbone(SPECTROGRAM).dtype == "bfloat16"
    np.testing.assert_array_equal(loaded(WAVEFORM), mixed(WAVEFORM))


def test_export_calls_the_exporter_of_the_format(monkeypatch, model):
    calls = []
    monkeypatch.setattr(
        "ast_keras.export.saved_model.export_saved_model",
        lambda *args, **options: calls.append(("tf_saved_model", args, options)),
    )
    monkeypatch.setattr(
        "ast_keras.export.tflite.export_tflite",
        lambda *args, **options: calls.append(("litert", args, options)),
    )
    model.export("served", version=3)
    model.export("model.tflite", format="litert", quantize="int8")
    assert calls == [
        ("tf_saved_model", (model, "served"), {"version": 3}),
        ("litert", (model, "model.tflite"), {"quantize": "int8"}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["predict", "fit"])
def test_export_works_after_predict_and_fit(before, tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = tiny_classifier()
    clips = 0.1 * random(4, 16000)
    if before == "predict":
        model.predict(clips, verbose=0)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=False)
        model.fit(clips, np.array([0, 1, 2, 0]), verbose=0)
    model.export(tmp_path / "served", num_clips=2)
    model.export(tmp_path / "model.tflite", format="litert", num_clips=2)
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert (tmp_path / "model.tflite").is_file()


def test_scores_rejects_a_waveform(model):
    with pytest.raises(
        ArgumentError, match=r"model\.scores\(model\(waveform\)\).*shape=\(1, 16000\)"
    ):
        model.scores(np.zeros((1, 16000), "float32"))


def test_export_rejects_another_format(model, tmp_path):
    message = "format must be one of tf_saved_model, litert.*'onnx'"
    with pytest.raises(ArgumentError, match=message):
        model.export(tmp_path / "model", format="onnx")


def test_export_takes_the_arguments_of_keras(monkeypatch, model):
    calls = []
    exporter = "ast_keras.export.saved_model.export_saved_model"
    monkeypatch.setattr(exporter, lambda *args, **options: calls.append((args, options)))
    model.export(filepath="served", verbose=False)
    assert calls == [((model, "served"), {})]
    with pytest.raises(ArgumentError, match="leave input_signature out"):
        model.export("served", input_signature=[])


# --- Labels ---


@pytest.mark.parametrize(("num_classes", "labels"), [(3, None), (None, ["a", "b", "c"])])
def test_a_list_of_labels_is_saved_with_the_model(num_classes, labels, one_block, tmp_path):
    model = ASTClassifier(one_block, num_classes, labels=labels)
    if labels is None:
        model.labels = np.array(["a", "b", "c"])  # assigned later
    assert model.num_classes == 3
    model.save_to_preset(tmp_path / "preset")
    assert from_preset(tmp_path / "preset").labels == LabelSet(("a", "b", "c"))
    assert from_preset(tmp_path / "preset", labels=["c", "b", "a"]).labels.names == ("c", "b", "a")
    assert ASTClassifier.from_config(model.get_config()).labels == model.labels
    assert label_names(model) == ("a", "b", "c")
    assert label_names(model, ["x", "y", "z"]) == ("x", "y", "z")


def test_wrong_labels_are_refused_when_they_are_assigned(one_block):
    model = ASTClassifier(one_block, 3, labels=["a", "b", "c"])
    for wrong in (["a", "b"], "abc", ["a", "a", "b"]):
        with pytest.raises(LabelError):
            model.labels = wrong
    assert model.labels.names == ("a", "b", "c")
    with pytest.raises(ArgumentError, match="needs num_classes or labels"):
        ASTClassifier(one_block, None)


# --- Errors ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 4, "labels": LABELS}, "one label for each class.*3 labels, num_classes=4"),
        ({"score_activation": "relu"}, "score_activation must be one of softmax, sigmoid.*'relu'"),
        (
            {"frontend": {"num_frames": 25}},
            r"same num_frames and num_mel_bins.*\(25, 16\), backbone \(24, 16\)",
        ),
        (
            {"frontend": {"num_mel_bins": 17}},
            r"same num_frames and num_mel_bins.*\(24, 17\), backbone \(24, 16\)",
        ),
        ({"dtype": "mixed_bfloat16"}, "always float32.*dtype='mixed_bfloat16'"),
    ],
)
def test_classifier_rejects_parts_that_do_not_fit(arguments, message, one_block):
    if "frontend" in arguments:
        arguments = {"frontend": make_frontend(**arguments["frontend"])}
    with pytest.raises(ValueError, match=message):
        ASTClassifier(one_block, **{"num_classes": 3, **arguments})


def test_classifier_accepts_dtype_float32(one_block):
    assert ASTClassifier(one_block, 3, dtype="float32").compute_dtype == "float32"


def test_classifier_rejects_a_misspelt_argument(one_block):
    with pytest.raises((TypeError, ValueError), match="front_end"):
        ASTClassifier(one_block, 3, front_end=None)


@pytest.mark.parametrize("shape", [(2, FRAMES + 1, MEL), (2, FRAMES, MEL - 1), (2, FRAMES)])
def test_classifier_rejects_a_spectrogram_of_another_size(shape, one_block):
    with pytest.raises(ValueError, match=r"(?i)shape|rank|ndim"):
        ASTClassifier(one_block, 3)(random(*shape))


# --- Training ---


@pytest.mark.parametrize("distillation", [True, False])
def test_gradients_reach_every_weight(distillation):
    model = make_model(use_distillation_token=distillation, dropout=0.1, attention_dropout=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(np.array([0, 2]), model(WAVEFORM, training=True))
    weights = model.trainable_weights
    gradients = tape.gradient(value, [weight.value for weight in weights])
    unused = [
        weight.path
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert unused == []
    # patches 2, tokens 1, positions 1, two blocks of 12, norm 2, head norm 2, head 2
    assert len(weights) == 34


def test_augmentation_acts_only_in_training_and_follows_the_seeds():
    model = make_model(augment=SpectrogramAugment(freq_mask_bins=8, noise=True, seed=3))
    expected = model(WAVEFORM).numpy()
    seeds = np.array([[1, 2], [3, 4]], "int32")
    np.testing.assert_array_equal(model(WAVEFORM, training=False, seeds=seeds), expected)
    augmented = model(WAVEFORM, training=True, seeds=seeds).numpy()
    np.testing.assert_array_equal(model(WAVEFORM, training=True, seeds=seeds), augmented)
    assert not np.array_equal(augmented, expected)
    assert not np.array_equal(model(WAVEFORM, training=True, seeds=seeds + 1), augmented)
    assert not np.array_equal(model(WAVEFORM, training=True), model(WAVEFORM, training=True))


def test_classifier_learns_with_keras_fit():
    model = make_model(num_layers=1)
    time = np.arange(3000) / 8000
    tones = np.sin(2 * np.pi * np.array([[300.0], [1000.0], [2500.0]]) * time)
    waveforms = np.tile(tones, (8, 1)) + 0.05 * random(24, 3000)
    waveforms, classes = waveforms.astype("float32"), np.tile(np.arange(3), 8)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling would take longer than training
    )
    history = model.fit(waveforms, classes, batch_size=24, epochs=20, verbose=0).history
    assert history["accuracy"][-1] == 1.0

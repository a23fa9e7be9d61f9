"""`compile` of a classifier: the activation of its scores and the scaling of its loss."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import losses

from ast_keras import from_preset, save_to_preset
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from tests.helpers.arrays import random

SIZE = {"embed_dim": 12, "num_layers": 1, "num_heads": 3, "mlp_dim": 16}
SPECTROGRAM, CLASSES = random(2, 24, 16), np.array([0, 1])
LOGITS = np.array([[0.0, 1.0, -2.0]], "float32")
SIGMOID = [[0.5, 0.731059, 0.119203]]
SOFTMAX = [[0.259496, 0.705384, 0.035119]]
BINARY = losses.BinaryCrossentropy(from_logits=True)
CATEGORICAL = losses.CategoricalCrossentropy(from_logits=True)


def make_model(num_classes=3, dtype=None, **settings):
    backbone = ASTBackbone(**SIZE, num_frames=24, num_mel_bins=16, dtype=dtype)
    return ASTClassifier(backbone, num_classes, **settings)


def assert_scores(model, expected):
    np.testing.assert_allclose(model.scores(LOGITS), expected, rtol=0, atol=1e-6)


# --- The activation of scores ---


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BINARY, SIGMOID),
        (losses.BinaryFocalCrossentropy(from_logits=True), SIGMOID),
        (functools.partial(losses.binary_crossentropy, from_logits=True), SIGMOID),
        (losses.serialize(BINARY), SIGMOID),
        ([BINARY], SIGMOID),
        (CATEGORICAL, SOFTMAX),
        (losses.CategoricalFocalCrossentropy(from_logits=True), SOFTMAX),
        (losses.SparseCategoricalCrossentropy(from_logits=True), SOFTMAX),
    ],
)
def test_scores_follow_the_loss(loss, expected):
    model = make_model()
    model.compile("sgd", BINARY if expected == SOFTMAX else CATEGORICAL)  # the last loss decides
    model.compile("sgd", loss)
    assert_scores(model, expected)
    model.compile("sgd", lambda targets, logits: keras.ops.mean(logits))  # no opinion
    assert_scores(model, expected)
    assert_scores(ASTClassifier.from_config(model.get_config()), expected)


def test_a_chosen_activation_stays():
    model = make_model(score_activation="softmax")
    model.compile("sgd", BINARY)
    copy = ASTClassifier.from_config(model.get_config())
    copy.compile("sgd", BINARY)
    for chosen in (model, copy):
        assert_scores(chosen, SOFTMAX)
    copy.score_activation = None
    assert_scores(copy, SIGMOID)


def test_scores_of_a_loaded_model_are_those_of_the_saved_one(tmp_path):
    model = make_model()
    model.compile("sgd", BINARY)
    model.save(tmp_path / "model.keras")
    save_to_preset(model, tmp_path / "preset")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    presets = [from_preset(tmp_path / "preset"), from_preset(tmp_path / "preset", dropout=0.1)]
    for copy in (loaded, *presets):
        assert_scores(copy, SIGMOID)
        copy.compile("sgd", CATEGORICAL)
        assert_scores(copy, SOFTMAX)
    chosen = from_preset(tmp_path / "preset", num_classes=3, score_activation="sigmoid")
    chosen.compile("sgd", CATEGORICAL)
    assert_scores(chosen, SIGMOID)


def test_files_of_earlier_versions_keep_their_scores():
    # A softmax was stored although the loss was binary: loading must not change results.
    model = make_model()
    model.compile("sgd", BINARY)
    stored = keras.saving.serialize_keras_object(model)
    stored["config"]["score_activation"] = "softmax"
    assert_scores(keras.saving.deserialize_keras_object(stored), SOFTMAX)


@pytest.mark.parametrize("settings", [{}, {"score_activation": "softmax"}])
def test_the_score_of_one_class_is_a_sigmoid(settings):
    model = make_model(num_classes=1, **settings)
    assert float(model.scores(np.zeros((1, 1), "float32"))[0, 0]) == 0.5
    model.compile("sgd", CATEGORICAL)
    assert model.get_config()["score_activation"] == "sigmoid"


@pytest.mark.parametrize(
    "loss", ["bce", "sparse_categorical_crossentropy", losses.CategoricalCrossentropy()]
)
def test_a_loss_of_probabilities_is_reported(loss):
    with pytest.warns(UserWarning, match="output of the model is logits.*from_logits=True"):
        make_model().compile("sgd", loss)


def test_other_losses_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in (BINARY, "mse", None, lambda targets, logits: 0.0):
            make_model().compile("sgd", loss)


# --- Loss scaling ---


def test_a_half_precision_backbone_gets_loss_scaling(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model()
    keras.config.set_dtype_policy("float32")
    model.compile("adam", CATEGORICAL, run_eagerly=True)
    scaler = model.optimizer
    assert isinstance(scaler, keras.mixed_precision.LossScaleOptimizer)
    assert float(scaler.scale_loss(1.0)) == 2**15
    model.train_on_batch(SPECTROGRAM, np.eye(3)[CLASSES])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(loaded, keras.mixed_precision.LossScaleOptimizer)
    assert isinstance(loaded.inner_optimizer, keras.optimizers.Adam)
    for ours, theirs in zip(scaler.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model.compile(scaler, CATEGORICAL)
    assert model.optimizer is scaler  # not scaled twice


def test_loss_scaling_saves_gradients_below_the_range_of_float16():
    model = make_model(dtype="mixed_float16")
    first = model.backbone.get_layer("patches").weights[0]
    moved = {}
    for scale in (False, True):
        # Gradients of 1e-9 are zero in float16, whose smallest number is 6e-8.
        tiny = lambda targets, logits: 1e-7 * CATEGORICAL(targets, logits)  # noqa: E731
        model.compile(keras.optimizers.SGD(1e3), tiny, auto_scale_loss=scale, run_eagerly=True)
        before = first.numpy()
        model.train_on_batch(SPECTROGRAM, np.eye(3)[CLASSES])
        moved[scale] = np.count_nonzero(first.numpy() != before) / before.size
    assert moved[False] < 0.5 < 0.9 < moved[True], moved


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_other_precisions_need_no_loss_scaling(dtype):
    model = make_model(dtype=dtype)
    model.compile("adam", CATEGORICAL)
    assert isinstance(model.optimizer, keras.optimizers.Adam)


def test_loss_scaling_can_be_left_out(tmp_path):
    model = make_model(dtype="mixed_float16")
    model.compile("adam", CATEGORICAL, auto_scale_loss=False)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    for plain in (model, copy):
        assert isinstance(plain.optimizer, keras.optimizers.Adam)

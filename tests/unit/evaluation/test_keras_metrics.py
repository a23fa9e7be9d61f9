"""Keras metrics against `evaluate_predictions`, in every way that Keras calls a metric."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import ast_keras
from ast_keras.errors import ArgumentError
from ast_keras.evaluation import keras_metrics
from ast_keras.evaluation.metrics import evaluate_predictions
from tests.helpers.models import tiny_classifier
from tests.helpers.paths import ROOT

RNG = np.random.default_rng(3)
TARGETS = (RNG.random((120, 5)) < 0.3).astype("float32")
LOGITS = (RNG.normal(size=TARGETS.shape) + TARGETS).astype("float32")
# The result is float32, whose spacing at 1 is 1.2e-7.
TOLERANCE = 1e-6


def metrics(**settings):
    return [ast_keras.MeanAveragePrecision(**settings), ast_keras.DPrime(**settings)]


def assert_equal(found, scores, targets, multi_label=True):
    evaluation = evaluate_predictions(scores, targets, multi_label)
    expected = [evaluation.mean_average_precision, evaluation.d_prime]
    np.testing.assert_allclose([float(value) for value in found], expected, atol=TOLERANCE)


@pytest.mark.parametrize("in_graph", [False, True])
def test_metrics_equal_evaluate_predictions_over_several_batches(in_graph):
    made = metrics(from_logits=True)
    for metric in made:

        def step(targets, logits, metric=metric):
            metric.update_state(targets, logits)
            return metric.result()

        step = tf.function(step, reduce_retracing=True) if in_graph else step
        interim = [step(TARGETS[i : i + 50], LOGITS[i : i + 50]) for i in (0, 50, 100)]
        assert float(interim[-1]) == float(metric.result())
    assert_equal([metric.result() for metric in made], LOGITS, TARGETS)


def test_metrics_apply_a_softmax_and_leave_out_examples_of_weight_zero():
    targets = np.eye(5, dtype="float32")[np.arange(120) % 5]
    weights = (np.arange(120) % 4 > 0).astype("float32")
    made = metrics(from_logits=True, activation="softmax")
    for metric in made:
        metric.update_state(targets, LOGITS, sample_weight=weights[:, None])
    scores = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    kept = weights > 0
    assert_equal([m.result() for m in made], scores[kept], targets[kept], multi_label=False)


def test_metrics_work_with_a_classifier_that_keras_would_compile_with_xla():
    model = tiny_classifier(num_frames=32)
    waveforms = RNG.normal(size=(8, 5200)).astype("float32") / 10
    targets = np.eye(3, dtype="float32")[np.arange(8) % 3]
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=metrics(from_logits=True),
        jit_compile=True,  # what Keras chooses on a GPU
    )
    found = model.evaluate(waveforms, targets, batch_size=4, verbose=0)[1:]
    assert not model.jit_compile
    assert_equal(found, model.predict(waveforms, batch_size=4, verbose=0), targets)
    # Without such metrics the choice is Keras's: none under op determinism, for example.
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    for other in (plain, model):
        other.compile(loss="mse", metrics=["accuracy"], jit_compile=True)
    assert model.jit_compile == plain.jit_compile


def test_metrics_forget_everything_when_reset():
    for metric in metrics():
        metric.update_state(TARGETS[:40], LOGITS[:40])
        metric.reset_state()
        assert np.isnan(metric.result())
        metric.update_state(TARGETS[40:], LOGITS[40:])
        expected = evaluate_predictions(LOGITS[40:], TARGETS[40:], True)
        assert float(metric.result()) == pytest.approx(
            expected.summary()[metric.name], abs=TOLERANCE
        )


@pytest.mark.parametrize("eager", [False, True])
def test_metrics_in_fit_and_evaluate_equal_the_scores_of_predict(eager, tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    settings = {"weighted_metrics": metrics(from_logits=True), "run_eagerly": eager}
    model.compile("sgd", loss, **settings)
    weights = np.where(np.arange(120) < 100, 1.0, 0.0)  # filling rows at the end
    data = tf.data.Dataset.from_tensor_slices((LOGITS, TARGETS, weights)).batch(32)
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    scores = model.predict(LOGITS, verbose=0)[:100]
    last = [history[f"val_{name}"][-1] for name in ("mean_average_precision", "d_prime")]
    assert_equal(last, scores, TARGETS[:100])
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert_equal([found["mean_average_precision"], found["d_prime"]], scores, TARGETS[:100])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.evaluate(data, verbose=0, return_dict=True) == found


TWO_REPLICAS = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
from tests.unit.evaluation.test_keras_metrics import LOGITS, TARGETS, assert_equal, metrics

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    model.compile("sgd", "mse", metrics=metrics(from_logits=True))
found = model.evaluate(LOGITS, TARGETS, batch_size=32, verbose=0)[1:]
assert_equal(found, model.predict(LOGITS, verbose=0), TARGETS)
"""


@pytest.mark.slow  # a process of its own: the number of devices is fixed when TensorFlow starts
def test_metrics_count_the_examples_of_all_replicas():
    command = [sys.executable, "-c", TWO_REPLICAS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_interim_results_of_many_scores_are_recomputed_when_the_examples_double(monkeypatch):
    monkeypatch.setattr(keras_metrics, "_ALWAYS_EXACT_SCORES", 0)
    metric = ast_keras.MeanAveragePrecision()

    @tf.function
    def step(targets, scores):
        metric.update_state(targets, scores)
        return metric.result()

    interim = [float(step(TARGETS[i : i + 10], LOGITS[i : i + 10])) for i in range(0, 60, 10)]
    exact = [
        evaluate_predictions(LOGITS[:n], TARGETS[:n], True).mean_average_precision
        for n in (10, 20, 20, 40, 40, 40)
    ]
    np.testing.assert_allclose(interim, exact, atol=TOLERANCE)
    whole = evaluate_predictions(LOGITS[:60], TARGETS[:60], True)
    assert float(metric.result()) == pytest.approx(whole.mean_average_precision, abs=TOLERANCE)


def test_metrics_of_fractions_and_of_scores_that_are_not_finite():
    mixed = ast_keras.MeanAveragePrecision()
    mixed.update_state([[0.7, 0.3], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]])
    assert float(mixed.result()) == 1.0
    mixed.update_state([[1.0, 0.0]], [[float("nan"), 0.1]])
    assert np.isnan(mixed.result())


def test_metrics_reject_integer_classes_unknown_activations_and_xla():
    metric = ast_keras.MeanAveragePrecision()
    with pytest.raises(ArgumentError, match=r"to_categorical. Received: y_true.shape=\(3,\)"):
        metric.update_state([0, 1, 0], LOGITS[:3])
    with pytest.raises(ArgumentError, match="activation must be one of"):
        ast_keras.DPrime(activation="relu")
    with pytest.raises(ArgumentError, match="jit_compile=False"):
        tf.function(metric.update_state, jit_compile=True, autograph=False)(TARGETS, LOGITS)

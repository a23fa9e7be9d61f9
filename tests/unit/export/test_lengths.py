"""Exported files for clips of any length: the valid lengths are an input."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from ast_keras.audio.encoding import wav_bytes
from ast_keras.export import ExportError, export_saved_model, export_tflite
from tests.unit.export.models import EXACT, labelled_classifier, round_to_16_bits

LENGTHS = np.array([9_000, 30_000, 16_000], np.int32)


# The graph of a masked block is large: one block by default, which takes half the time of two.
@pytest.fixture(
    scope="module",
    params=[
        ("masked", 1),
        pytest.param(("masked", 2), marks=pytest.mark.slow),
        pytest.param(("original", 2), marks=pytest.mark.slow),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def model(request):
    padding, num_layers = request.param
    return labelled_classifier(padding=padding, num_layers=num_layers)


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(0)
    return [
        (rng.uniform(-1, 1, n) * 10 ** rng.uniform(-2, -0.5)).astype("float32") for n in LENGTHS
    ]


@pytest.fixture(scope="module")
def padded(waveforms):
    """The waveforms in one array, padded with values that must have no effect."""
    batch = np.full((3, 30_000), 9.0, "float32")
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch


@pytest.fixture(scope="module")
def alone(model, waveforms):
    """The model's scores of each waveform on its own."""
    return np.concatenate([model.scores(model(waveform[None])) for waveform in waveforms])


def test_served_batch_of_mixed_lengths_equals_its_clips(
    model, padded, waveforms, alone, tmp_path, measure_in_process
):
    path, _ = export_saved_model(model, tmp_path, num_clips=2)
    served = tf.saved_model.load(str(path))
    found = served.signatures["serving_lengths"](
        waveform=tf.constant(padded), lengths=tf.constant(LENGTHS)
    )["scores"]
    np.testing.assert_allclose(found, alone, rtol=0, atol=EXACT)
    files = [wav_bytes(waveform, 16_000) for waveform in waveforms]
    found = served.signatures["serving_bytes"](audio_bytes=tf.constant(files))["scores"]
    expected = [model.scores(model(round_to_16_bits(x)[None]))[0] for x in waveforms]
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    if model.padding == "masked":  # otherwise only the first second of a clip has an effect
        found = served.signatures["serving_default"](waveform=tf.constant(waveforms[1][None]))
        np.testing.assert_allclose(found["scores"], alone[1:2], rtol=0, atol=EXACT)


def test_tflite_file_uses_only_the_valid_samples(model, padded, alone, tmp_path):
    size = 30_000 if model.padding == "masked" else 15_840
    report = export_tflite(
        model, tmp_path / "a.tflite", num_samples=size, takes_length=True, num_clips=8
    )
    assert report.max_error < EXACT  # half of the compared clips were valid in part only
    runner = Interpreter(str(tmp_path / "a.tflite")).get_signature_runner("serving_default")
    for waveform, length, expected in zip(padded, LENGTHS, alone, strict=True):
        valid = np.array([min(length, size)], np.int32)
        found = runner(waveform=waveform[None, :size], length=valid)["scores"][0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


@pytest.mark.slow
def test_int8_file_of_a_masked_model_may_be_longer_than_the_model_was_trained_on(tmp_path):
    report = export_tflite(
        labelled_classifier(padding="masked"),
        tmp_path / "a.tflite",
        num_samples=48_000,
        takes_length=True,
        quantize="int8",
        num_clips=8,
    )
    assert not report.violations
    assert not report.float_layers


def test_original_padding_rejects_longer_input(tmp_path):
    with pytest.raises(ExportError, match=r'at most 16079 samples .*padding="masked"'):
        export_tflite(labelled_classifier(), tmp_path / "b.tflite", num_samples=48_000)

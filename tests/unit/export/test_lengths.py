"""Sounds of any length in what is exported: lengths go in with the waveform."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from ast_keras import from_preset
from ast_keras.export import ExportError, export_saved_model, export_tflite

# float32 sums in another order, on scores, and the filterbank as a convolution.
SCORES = 1e-5
LENGTHS = np.array([9_000, 30_000, 16_000], np.int32)


def make_model(padding):
    keras.utils.set_random_seed(5)
    model = from_preset("ast_test", num_classes=5, num_frames=98, padding=padding)
    model.head.kernel.assign(60 * model.head.kernel)
    return model


@pytest.fixture(scope="module", params=[pytest.param("original", marks=pytest.mark.slow), "masked"])
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def sounds():
    rng = np.random.default_rng(0)
    return [
        (rng.uniform(-1, 1, n) * 10 ** rng.uniform(-2, -0.5)).astype("float32") for n in LENGTHS
    ]


@pytest.fixture(scope="module")
def padded(sounds):
    """The sounds in one array, followed by what is not to be heard."""
    waveform = np.full((3, 30_000), 9.0, "float32")
    for row, sound in zip(waveform, sounds, strict=True):
        row[: len(sound)] = sound
    return waveform


@pytest.fixture(scope="module")
def alone(model, sounds):
    return np.concatenate([model.scores(model(sound[None])) for sound in sounds])


def test_served_batch_of_mixed_lengths_equals_its_sounds(model, padded, sounds, alone, tmp_path):
    path, _ = export_saved_model(model, tmp_path, num_clips=2)
    served = tf.saved_model.load(str(path))
    found = served.signatures["serving_lengths"](
        waveform=tf.constant(padded), lengths=tf.constant(LENGTHS)
    )["scores"]
    np.testing.assert_allclose(found, alone, rtol=0, atol=SCORES)
    files = [tf.audio.encode_wav(sound[:, None], 16_000).numpy() for sound in sounds]
    found = served.signatures["serving_bytes"](audio_bytes=tf.constant(files))["scores"]
    # WAV files of 16 bits: samples differ by 1.5e-5.
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)
    if model.padding == "masked":  # else what comes after the model's second is not heard
        found = served.signatures["serving_default"](waveform=tf.constant(sounds[1][None]))
        np.testing.assert_allclose(found["scores"], alone[1:2], rtol=0, atol=SCORES)


def test_tflite_file_hears_as_much_as_it_is_told(model, padded, alone, tmp_path):
    size = 30_000 if model.padding == "masked" else 15_840
    report = export_tflite(
        model, tmp_path / "a.tflite", num_samples=size, takes_length=True, num_clips=8
    )
    assert report.max_error < SCORES  # half of the clips it was compared on were shorter
    runner = Interpreter(str(tmp_path / "a.tflite")).get_signature_runner("serving_default")
    for waveform, length, expected in zip(padded, LENGTHS, alone, strict=True):
        heard = np.array([min(length, size)], np.int32)
        found = runner(waveform=waveform[None, :size], length=heard)["scores"][0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=SCORES)


def test_tflite_file_of_a_masked_model_may_be_longer_than_the_model_was_made_for(tmp_path):
    longer = make_model("masked")
    report = export_tflite(longer, tmp_path / "a.tflite", num_samples=48_000, num_clips=4)
    assert report.max_error < SCORES
    with pytest.raises(ExportError, match='padding="masked"'):
        export_tflite(make_model("original"), tmp_path / "b.tflite", num_samples=48_000)


def test_int8_file_with_lengths_keeps_its_bounds(tmp_path):
    model = make_model("masked")
    report = export_tflite(
        model, tmp_path / "a.tflite", num_samples=48_000, takes_length=True, quantize="int8",
        num_clips=8,
    )  # fmt: skip
    assert report.missed is None or not report.missed

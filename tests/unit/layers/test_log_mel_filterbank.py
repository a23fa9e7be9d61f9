"""Tests of `LogMelFilterbank` as a Keras layer: shapes, padding, precision, rejected input.

Its numbers are compared with Kaldi's definition in `tests/parity/test_frontend.py`.
"""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import LogMelFilterbank
from ast_keras.errors import ArgumentError
from tests.helpers.paths import GOLDENS


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype("float32")


@pytest.mark.parametrize("num_frames", [60, 98, 200])
def test_frames_are_cut_or_padded_before_normalisation(num_frames):
    waveform = noise(2, 16000)
    whole, fitted = LogMelFilterbank()(waveform), LogMelFilterbank(num_frames=num_frames)
    result = fitted(waveform).numpy()
    assert result.shape == (2, num_frames, 128)
    kept = min(98, num_frames)
    np.testing.assert_array_equal(result[:, :kept], whole[:, :kept])
    # float32 rounding of 0.467.
    np.testing.assert_allclose(result[:, kept:], 4.2677393 / (2 * 4.5689974), rtol=1e-7)
    np.testing.assert_allclose(fitted.padding_value, 0.46703, atol=5e-6)


def test_waveform_shorter_than_a_frame_gives_only_padding():
    assert LogMelFilterbank()(noise(2, 399)).shape == (2, 0, 128)
    short = LogMelFilterbank(num_frames=10)(noise(2, 100))
    np.testing.assert_array_equal(short, np.full((2, 10, 128), short[0, 0, 0]))


def test_silence_equals_the_energy_floor():
    silence = LogMelFilterbank(mean=0.0, std=0.5)(np.zeros((1, 800), "float32"))
    np.testing.assert_array_equal(silence, np.full((1, 3, 128), np.log(np.float32(2.0**-23))))


def test_num_samples_is_the_least_number_that_gives_num_frames():
    layer = LogMelFilterbank(num_frames=98)
    assert layer.num_samples == 15920
    fbank = LogMelFilterbank(remove_waveform_mean=False)
    waveform = noise(1, 16000)
    assert fbank(waveform[:, :15920]).shape[1] == 98
    assert fbank(waveform[:, :15919]).shape[1] == 97


@pytest.mark.parametrize("remove_waveform_mean", [True, False])
def test_padded_clips_with_lengths_equal_unpadded_clips(remove_waveform_mean):
    layer = LogMelFilterbank(num_frames=120, remove_waveform_mean=remove_waveform_mean)
    lengths = [16000, 9000, 400, 399, 0]
    batch = noise(5, 16000) + 0.1
    for clip, length in zip(batch, lengths, strict=True):
        clip[length:] = 1e6  # must not affect the output
    together = layer(batch, lengths=np.array(lengths, "int32"))
    for row, (clip, length) in enumerate(zip(batch, lengths, strict=True)):
        if length == 0:
            np.testing.assert_array_equal(together[row], together[3])
            continue
        alone = layer(clip[None, :length])[0]
        # The mean is summed in another order (1e-8 of 0.1), which affects weak bins:
        # observed 1.1e-5.
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=4e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_filterbank_computes_in_float32_under_every_policy(policy):
    waveform = noise(1, 8000)
    expected = LogMelFilterbank(num_frames=48)(waveform)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8000,), dtype="float32")
        layer = LogMelFilterbank(num_frames=48)
        model = keras.Model(
            inputs, keras.layers.Activation("linear", dtype="float32")(layer(inputs))
        )
        assert layer.compute_dtype == "float32"
        np.testing.assert_array_equal(model(waveform), expected)
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16", keras.DTypePolicy("float64")])
def test_filterbank_rejects_another_dtype(dtype):
    with pytest.raises(ArgumentError, match=r"float32 under every dtype policy.*Received: dtype="):
        LogMelFilterbank(dtype=dtype)


@pytest.mark.parametrize("dtype", [None, "float32", keras.DTypePolicy("float32")])
def test_filterbank_accepts_dtype_float32(dtype):
    layer = LogMelFilterbank.from_config(LogMelFilterbank(dtype=dtype).get_config())
    assert layer.dtype_policy.name == "float32"


def test_from_preset_returns_the_filterbank_of_a_published_name():
    layer = LogMelFilterbank.from_preset("ast_base_speech_commands")
    assert (layer.num_frames, layer.num_mel_bins) == (128, 128)
    assert (layer.mean, layer.std) == (-6.845978, 5.5654526)


def test_from_preset_reads_a_saved_model_without_its_weights(tmp_path):
    saved = GOLDENS / "saved_0.1.0" / "plain"
    shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("*.h5"))
    layer = LogMelFilterbank.from_preset(tmp_path / "model", num_frames=50)
    config = json.loads((saved / "audio_converter.json").read_text())["config"]
    assert layer.mean == config["mean"]
    assert layer.num_frames == 50


def test_filterbank_with_an_unknown_length_equals_the_eager_layer():
    layer = LogMelFilterbank(num_frames=40)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None), tf.float32)])
    for samples in (100, 4000, 9000):
        waveform = noise(2, samples)
        # The mean may be rounded differently by the kernel of another shape.
        np.testing.assert_allclose(traced(waveform), layer(waveform), rtol=0, atol=1e-5)


def test_symbolic_output_shape():
    assert LogMelFilterbank()(keras.Input((16000,))).shape == (None, 98, 128)
    assert LogMelFilterbank()(keras.Input((None,))).shape == (None, None, 128)
    assert LogMelFilterbank(num_frames=7, num_mel_bins=40)(keras.Input((None,))).shape == (
        None,
        7,
        40,
    )


def test_filterbank_rejects_other_inputs():
    layer = LogMelFilterbank()
    with pytest.raises(ArgumentError, match="divide int16 by 32768"):
        layer(np.zeros((1, 800), "int16"))
    with pytest.raises(ArgumentError, match=r"waveform\[None\]"):
        layer(np.zeros(800, "float32"))
    with pytest.raises(ArgumentError, match="mix the channels"):
        layer(np.zeros((1, 800, 2), "float32"))


def test_filterbank_rejects_invalid_arguments():
    with pytest.raises(ArgumentError, match="std and num_frames must be positive"):
        LogMelFilterbank(std=0.0)
    with pytest.raises(ArgumentError, match="std and num_frames must be positive"):
        LogMelFilterbank(num_frames=0)
    with pytest.raises(ArgumentError, match="window must be one of"):
        LogMelFilterbank(window="blackman")
    with pytest.raises(ArgumentError, match='method must be "fft" or "conv"'):
        LogMelFilterbank(method="dft")


def test_convolution_accepts_any_length():
    layer = LogMelFilterbank(num_frames=40, method="conv")
    exact = LogMelFilterbank(num_frames=40)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None), tf.float32)])
    for samples in (0, 100, 399, 400, 559, 560, 9000):
        waveform = noise(2, samples)
        # float32 against float64 on noise: observed 3e-6.
        for call in (layer, traced):
            np.testing.assert_allclose(call(waveform), exact(waveform), rtol=0, atol=1e-5)


def test_convolution_compiles_with_xla():
    layer = LogMelFilterbank(num_frames=40, method="conv")
    compiled = tf.function(layer, jit_compile=True)
    for samples in (399, 560):
        waveform = noise(2, samples)
        np.testing.assert_allclose(compiled(waveform), layer(waveform), rtol=0, atol=1e-5)


def test_convolution_ignores_padding():
    waveform = noise(2, 9000)
    waveform[1, 5000:] = 1e3
    lengths = np.array([9000, 5000], "int32")
    layer = LogMelFilterbank(num_frames=60, method="conv")
    result = layer(waveform, lengths=lengths).numpy()
    np.testing.assert_allclose(result[:1], layer(waveform[:1]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(result[1:], layer(waveform[1:, :5000]), rtol=0, atol=1e-5)


def test_model_around_the_filterbank_trains():
    inputs = keras.Input((None,))
    hidden = keras.layers.Flatten()(LogMelFilterbank(num_frames=20)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    history = model.fit(noise(8, 4000), np.zeros((8, 1)), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()

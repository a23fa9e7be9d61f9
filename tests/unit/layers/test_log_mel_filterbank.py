"""The filterbank as a Keras layer: shapes, padding, precision, mistakes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import LogMelFilterbank


def sound(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype("float32")


@pytest.mark.parametrize("num_frames", [60, 98, 200])
def test_frames_are_cut_or_padded_before_normalisation(num_frames):
    waveform = sound(2, 16000)
    whole, fitted = LogMelFilterbank()(waveform), LogMelFilterbank(num_frames=num_frames)
    result = fitted(waveform).numpy()
    assert result.shape == (2, num_frames, 128)
    kept = min(98, num_frames)
    np.testing.assert_array_equal(result[:, :kept], whole[:, :kept])
    # One float32 rounding of 0.467.
    np.testing.assert_allclose(result[:, kept:], 4.2677393 / (2 * 4.5689974), rtol=1e-7)
    np.testing.assert_allclose(fitted.padding_value, 0.46703, atol=5e-6)


def test_less_than_a_frame_is_all_padding():
    assert LogMelFilterbank()(sound(2, 399)).shape == (2, 0, 128)
    short = LogMelFilterbank(num_frames=10)(sound(2, 100))
    np.testing.assert_array_equal(short, np.full((2, 10, 128), short[0, 0, 0]))


def test_silence_is_the_floor_exactly():
    silence = LogMelFilterbank(mean=0.0, std=0.5)(np.zeros((1, 800), "float32"))
    np.testing.assert_array_equal(silence, np.full((1, 3, 128), np.log(np.float32(2.0**-23))))


def test_num_samples_fill_the_frames_exactly():
    layer = LogMelFilterbank(num_frames=98)
    assert layer.num_samples == 15920
    fbank = LogMelFilterbank(remove_waveform_mean=False)
    waveform = sound(1, 16000)
    assert fbank(waveform[:, :15920]).shape[1] == 98
    assert fbank(waveform[:, :15919]).shape[1] == 97


@pytest.mark.parametrize("remove_waveform_mean", [True, False])
def test_lengths_make_padded_clips_equal_to_clips_alone(remove_waveform_mean):
    layer = LogMelFilterbank(num_frames=120, remove_waveform_mean=remove_waveform_mean)
    lengths = [16000, 9000, 400, 399, 0]
    batch = sound(5, 16000) + 0.1
    for clip, length in zip(batch, lengths, strict=True):
        clip[length:] = 1e6  # whatever stands there must not be heard
    together = layer(batch, lengths=np.array(lengths, "int32"))
    for row, (clip, length) in enumerate(zip(batch, lengths, strict=True)):
        if length == 0:
            np.testing.assert_array_equal(together[row], together[3])
            continue
        alone = layer(clip[None, :length])[0]
        # The mean is summed in another order: 1e-8 of 0.1, over weak bins; seen 1.1e-5.
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=4e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_every_policy_leaves_it_in_float32(policy):
    waveform = sound(1, 8000)
    expected = LogMelFilterbank(num_frames=48)(waveform)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8000,), dtype="float32")
        layer = LogMelFilterbank(num_frames=48, dtype=policy)
        model = keras.Model(
            inputs, keras.layers.Activation("linear", dtype="float32")(layer(inputs))
        )
        assert layer.compute_dtype == "float32"
        np.testing.assert_array_equal(model(waveform), expected)
    finally:
        keras.config.set_dtype_policy(before)


def test_it_trains_inside_a_model():
    inputs = keras.Input((None,))
    hidden = keras.layers.Flatten()(LogMelFilterbank(num_frames=20)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    history = model.fit(sound(8, 4000), np.zeros((8, 1)), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_lengths_unknown_when_traced_work():
    layer = LogMelFilterbank(num_frames=40)
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None), tf.float32)])
    for samples in (100, 4000, 9000):
        waveform = sound(2, samples)
        # Another kernel for another shape may round the mean otherwise.
        np.testing.assert_allclose(traced(waveform), layer(waveform), rtol=0, atol=1e-5)


def test_symbolic_shapes_are_right():
    assert LogMelFilterbank()(keras.Input((16000,))).shape == (None, 98, 128)
    assert LogMelFilterbank()(keras.Input((None,))).shape == (None, None, 128)
    assert LogMelFilterbank(num_frames=7, num_mel_bins=40)(keras.Input((None,))).shape == (
        None,
        7,
        40,
    )


def test_filterbank_rejects_what_is_no_waveform():
    layer = LogMelFilterbank()
    with pytest.raises(ValueError, match="divide int16 by 32768"):
        layer(np.zeros((1, 800), "int16"))
    with pytest.raises(ValueError, match=r"waveform\[None\]"):
        layer(np.zeros(800, "float32"))
    with pytest.raises(ValueError, match="mix the channels"):
        layer(np.zeros((1, 800, 2), "float32"))


def test_filterbank_rejects_impossible_settings():
    with pytest.raises(ValueError, match="std and num_frames must be positive"):
        LogMelFilterbank(std=0.0)
    with pytest.raises(ValueError, match="std and num_frames must be positive"):
        LogMelFilterbank(num_frames=0)
    with pytest.raises(ValueError, match="window must be one of"):
        LogMelFilterbank(window="blackman")
    with pytest.raises(ValueError, match='method must be "fft" or "conv"'):
        LogMelFilterbank(method="dft")


def test_convolution_takes_any_length():
    layer = LogMelFilterbank(num_frames=40, method="conv")
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None), tf.float32)])
    compiled = tf.function(layer, jit_compile=True)
    for samples in (0, 100, 399, 400, 559, 560, 9000):
        waveform = sound(2, samples)
        expected = LogMelFilterbank(num_frames=40)(waveform)
        # float32 against float64 on noise: seen 3e-6.
        for call in (layer, traced, compiled):
            np.testing.assert_allclose(call(waveform), expected, rtol=0, atol=1e-5)


def test_convolution_hears_no_padding():
    waveform = sound(2, 9000)
    waveform[1, 5000:] = 1e3
    lengths = np.array([9000, 5000], "int32")
    layer = LogMelFilterbank(num_frames=60, method="conv")
    result = layer(waveform, lengths=lengths).numpy()
    np.testing.assert_allclose(result[:1], layer(waveform[:1]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(result[1:], layer(waveform[1:, :5000]), rtol=0, atol=1e-5)

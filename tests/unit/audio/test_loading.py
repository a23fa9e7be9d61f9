"""Tests of `load_audio`, `audio_from_array` and `audio_info`: samples, channels, rates, errors."""

import concurrent.futures
import itertools
import struct
import warnings

import numpy as np
import pytest

from ast_keras.audio import audio_from_array, audio_info, load_audio
from ast_keras.audio.decoding import AudioInfo
from ast_keras.errors import (
    AudioChannelError,
    AudioEmptyError,
    AudioError,
    AudioNotFoundError,
    AudioSampleError,
    AudioWarning,
)
from tests.helpers.audio import RATE, decibels, encode, noise, sine


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_load_audio_returns_equal_samples_for_path_and_bytes(tmp_path, no_warnings):
    data = encode(noise((3_000, 2)), rate=44_100)
    path = tmp_path / "clip.of.any.name"
    path.write_bytes(data)
    expected = load_audio(data)
    for source in (path, str(path), bytearray(data), memoryview(data), np.bytes_(data)):
        np.testing.assert_array_equal(load_audio(source), expected)


def test_load_audio_returns_equal_samples_in_threads():
    clips = [
        encode(noise((4_000, 2), seed), rate=44_100, container=container)
        for seed, container in enumerate(["WAV", "FLAC", "AIFF", "AU"] * 8)
    ]
    expected = [load_audio(clip) for clip in clips]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(load_audio, clips), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


# --- Channels ---


def test_load_audio_mixes_channels_to_their_mean(no_warnings):
    wave = noise((1_000, 6))
    # float32 rounding of a sum of six and its division: measured 2e-8.
    np.testing.assert_allclose(load_audio(encode(wave)), wave.mean(axis=1), rtol=0, atol=6e-8)


@pytest.mark.parametrize("channel", [0, 1, np.int64(2)])
def test_load_audio_selects_one_channel(channel, no_warnings):
    wave = noise((1_000, 3))
    np.testing.assert_array_equal(load_audio(encode(wave), channel=channel), wave[:, channel])


@pytest.mark.parametrize("channel", [2, -1, "left", None, 0.0])
def test_load_audio_rejects_a_channel_that_does_not_exist(channel):
    with pytest.raises(AudioChannelError, match=r'"mix" or one of 0 to 1.*<bytes>'):
        load_audio(encode(noise((1_000, 2))), channel=channel)


# --- Rates ---


@pytest.mark.parametrize("rate", [5_000, 8_000, 11_127, 22_050, 44_100, 48_000, 128_000])
def test_load_audio_resamples_a_tone_to_the_ideal_tone(rate, no_warnings):
    data = encode(sine(rate, hz=1_000), rate, codec="FLOAT")
    samples, ideal = load_audio(data), sine(hz=1_000)
    assert len(samples) == RATE
    inner = slice(1_000, -1_000)
    # Measured -131.4 dB (11,127 Hz) to -137.8 dB; 10 dB (a factor of 3) margin.
    assert decibels(samples[inner] - ideal[inner], ideal[inner]) < -121


@pytest.mark.parametrize("hz", [9_000, 12_000, 20_000])
def test_load_audio_removes_frequencies_above_the_new_nyquist_frequency(hz):
    samples = load_audio(encode(sine(44_100, hz=hz), 44_100, codec="FLOAT"))
    # Measured -141.8 dB at most; 10 dB (a factor of 3) margin.
    assert decibels(samples[1_000:-1_000], sine(hz=1_000)) < -131


@pytest.mark.parametrize("rate", [8_000, 11_127, 44_100, 48_000, 999_983])
@pytest.mark.filterwarnings("ignore:.*shorter than 25 ms")
def test_audio_from_array_rounds_the_length_half_up(rate):
    for length, sample_rate in itertools.product([500, 1_001, 4_410, 65_537], [16_000, 44_100]):
        expected = int(length * sample_rate / rate + 0.5)
        assert len(audio_from_array(np.zeros(length), rate, sample_rate)) == expected


@pytest.mark.parametrize("rate", [0, -16_000, 16, 44, 44_100.0, "16000", True, None, 10**7])
def test_load_audio_rejects_an_invalid_sample_rate(rate):
    with pytest.raises(AudioError, match=r"sample_rate must be a whole number of Hz.*<bytes>"):
        load_audio(encode(noise(1_000)), rate)
    with pytest.raises(AudioError, match=r"source_rate must be a whole number of Hz.*<array>"):
        audio_from_array(noise(1_000), rate)


@pytest.mark.parametrize("rate", [1, 300, 4_000_000_000])
def test_load_audio_rejects_an_invalid_sample_rate_in_the_header(rate):
    data = bytearray(encode(noise(1_000)))
    struct.pack_into("<I", data, 24, rate)
    with pytest.raises(AudioError, match=r"rate in the header|cannot be decoded"):
        load_audio(data)


# --- Spans ---


def test_consecutive_spans_have_no_gap_and_no_overlap():
    wave = noise(11_127)
    data = encode(wave, 11_127)
    spans = [
        load_audio(data, 11_127, start_seconds=i / 7, duration_seconds=1 / 7) for i in range(7)
    ]
    np.testing.assert_array_equal(np.concatenate(spans), wave)


def test_load_audio_cuts_a_span_at_the_end_of_the_file(no_warnings):
    wave = noise(RATE)
    part = load_audio(encode(wave), start_seconds=0.75, duration_seconds=9)
    np.testing.assert_array_equal(part, wave[12_000:])


def test_load_audio_rejects_a_span_outside_the_file():
    data = encode(noise(RATE))
    with pytest.raises(AudioEmptyError, match=r"start_seconds.*<bytes>, of 1 s"):
        load_audio(data, start_seconds=1)
    for start in (-0.1, np.nan, np.inf):
        with pytest.raises(AudioError, match=r"start_seconds must be 0 or more.*<bytes>"):
            load_audio(data, start_seconds=start)
    for duration in (0, -1, np.nan, np.inf):
        with pytest.raises(AudioError, match=r"duration_seconds must be positive.*<bytes>"):
            load_audio(data, duration_seconds=duration)


# --- Arrays ---


@pytest.mark.parametrize("shape", [(1_000,), (1_000, 1), (1, 1_000), (1_000, 2), (2, 1_000)])
def test_audio_from_array_selects_the_short_axis_as_channels(shape, no_warnings):
    wave = noise(shape)
    expected = wave if wave.ndim == 1 else wave.mean(axis=int(np.argmin(shape)))
    np.testing.assert_array_equal(audio_from_array(wave, RATE), expected)


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (3, 1_000), (1_000, 8), (), (1, 2, 500)])
def test_audio_from_array_rejects_an_ambiguous_shape(shape):
    with pytest.raises(AudioChannelError, match=r"pass channel_axis=0 or 1.*<array>"):
        audio_from_array(np.zeros(shape), RATE)


@pytest.mark.filterwarnings("ignore:.*shorter than 25 ms")
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 2), 0), ((2, 2), 1), ((3, 900), 0), ((900, 8), -1)]
)
def test_audio_from_array_uses_the_given_channel_axis(shape, axis):
    wave = noise(shape)
    samples = audio_from_array(wave, RATE, channel_axis=axis, channel=1)
    np.testing.assert_array_equal(samples, np.take(wave, 1, axis))


@pytest.mark.parametrize("axis", [2, -3, 0.5])
def test_audio_from_array_rejects_a_channel_axis_that_does_not_exist(axis):
    with pytest.raises(AudioChannelError, match="channel_axis"):
        audio_from_array(np.zeros((2, 1_000)), RATE, channel_axis=axis)
    with pytest.raises(AudioChannelError, match="channel_axis"):
        audio_from_array(np.zeros(1_000), RATE, channel_axis=0)


@pytest.mark.parametrize(
    ("dtype", "lowest", "silence"),
    [("int8", -128, 0), ("uint8", 0, 128), ("int16", -32_768, 0), ("int32", -(2**31), 0)],
)
def test_audio_from_array_scales_integers_by_full_scale(dtype, lowest, silence, no_warnings):
    half = lowest // 2 + silence // 2
    samples = audio_from_array(np.array([lowest, silence, half] * 200, dtype), RATE)
    np.testing.assert_array_equal(samples[:3], [-1, 0, -0.5])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_audio_from_array_returns_a_new_float32_array(dtype, no_warnings):
    array = np.linspace(-1, 1, 1_024).astype(dtype)
    samples = audio_from_array(array, RATE)
    assert samples.dtype == np.float32
    assert not np.shares_memory(samples, array)
    np.testing.assert_array_equal(samples, array.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", ["int64", "uint16", "uint32", "bool", "complex64", "U1", "object"]
)
def test_audio_from_array_rejects_other_dtypes(dtype):
    with pytest.raises(AudioSampleError, match=r"cast them.*<array>"):
        audio_from_array(np.zeros(1_000, dtype), RATE)


def test_integers_stored_as_floats_are_rejected():
    with pytest.raises(AudioSampleError, match=r"divide 16-bit values by 32768.*12000.*<array>"):
        audio_from_array(sine(amplitude=12_000.0), RATE)
    with pytest.raises(AudioSampleError, match=r"divide 16-bit values by 32768.*<bytes>"):
        load_audio(encode(sine(amplitude=12_000.0), codec="FLOAT"))


def test_audio_from_array_accepts_a_slight_overshoot(no_warnings):
    assert audio_from_array(sine(amplitude=1.3), RATE).max() > 1.29


def test_audio_from_array_warns_above_twice_full_scale():
    with pytest.warns(AudioWarning, match=r"louder than full scale.*a peak of 4.*<array>"):
        assert audio_from_array(sine(hz=4_000, amplitude=4), RATE).max() == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_samples_are_rejected(value):
    wave = sine()
    wave[5_000] = value
    with pytest.raises(AudioSampleError, match=r"must be finite.*<array>"):
        audio_from_array(wave, RATE)
    with pytest.raises(AudioSampleError, match=r"must be finite.*<bytes>"):
        load_audio(encode(wave, codec="DOUBLE"))


# --- Short, empty and silent audio ---


def test_silence_is_valid(no_warnings):
    assert not load_audio(encode(np.zeros(RATE))).any()
    assert not audio_from_array(np.zeros(400), RATE).any()


def test_audio_shorter_than_a_frame_is_reported():
    with pytest.warns(AudioWarning, match=r"shorter than 25 ms.*24.9 ms, source=<bytes>"):
        assert len(load_audio(encode(noise(399)))) == 399
    with pytest.warns(AudioWarning, match=r"shorter than 25 ms.*<array>"):
        audio_from_array(np.zeros(797), 32_000, 8_000)


def test_audio_without_samples_is_rejected(tmp_path):
    path = tmp_path / "empty.wav"
    path.write_bytes(encode(np.zeros(0)))
    with pytest.raises(AudioEmptyError, match=r"no samples.*empty\.wav"):
        load_audio(path)
    path.write_bytes(b"")
    with pytest.raises(AudioEmptyError, match=r"file is empty.*empty\.wav"):
        load_audio(path)
    with pytest.raises(AudioEmptyError, match=r"file is empty.*<bytes>"):
        load_audio(b"")
    for shape in [(0,), (0, 2), (2, 0)]:
        with pytest.raises(AudioEmptyError, match=r"must hold samples.*<array>"):
            audio_from_array(np.zeros(shape), RATE)
    with pytest.raises(AudioEmptyError, match=r"too short.*<array>"):
        audio_from_array(np.zeros(1), 44_100)


# --- Warnings and file information ---


def test_warnings_name_the_line_of_the_caller():
    data = encode(noise(100))
    for call in (lambda: load_audio(data), lambda: audio_from_array(noise(100), RATE)):
        with pytest.warns(AudioWarning) as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_audio_info_reads_the_header(tmp_path, no_warnings):
    path = tmp_path / "clip"
    path.write_bytes(encode(noise((22_050, 2)), 44_100, "FLAC", "PCM_24"))
    info = audio_info(path)
    assert info == AudioInfo(44_100, 2, 22_050, "FLAC", "PCM_24")
    assert info.duration_seconds == 0.5
    with pytest.raises(AudioNotFoundError):
        audio_info(tmp_path / "missing.wav")

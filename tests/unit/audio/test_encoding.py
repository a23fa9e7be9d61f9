"""Tests of 16-bit WAV and FLAC encoding."""

import numpy as np
import pytest

from ast_keras.audio import load_audio
from ast_keras.audio.encoding import flac_bytes, wav_bytes, write_wav

RATE = 16_000


@pytest.mark.parametrize("encode", [wav_bytes, flac_bytes])
def test_encoded_16_bit_samples_decode_to_the_same_bits(encode):
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 1_000)
    waveform = (samples / 32_768).astype("float32")
    np.testing.assert_array_equal(load_audio(encode(waveform, RATE)), waveform)


@pytest.mark.parametrize("encode", [wav_bytes, flac_bytes])
def test_encoding_clips_to_full_scale_and_rounds(encode):
    waveform = np.array([1.5, -1.5, 0.6 / 32_768, 0.0] * 100)
    decoded = load_audio(encode(waveform, RATE))
    np.testing.assert_array_equal(decoded[:4], [32_767 / 32_768, -1, 1 / 32_768, 0])


def test_write_wav_writes_wav_bytes(tmp_path):
    waveform = np.linspace(-1, 1, 500)
    write_wav(tmp_path / "ramp.wav", waveform, RATE)
    assert (tmp_path / "ramp.wav").read_bytes() == wav_bytes(waveform, RATE)


def test_flac_bytes_of_no_samples_are_empty():
    assert flac_bytes(np.zeros(0), RATE) == b""

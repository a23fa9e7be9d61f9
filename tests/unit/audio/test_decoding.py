"""Tests of decoding: formats, unreadable files, truncated files and wrong headers."""

import io
import os
import struct
import warnings

import numpy as np
import pytest
import soundfile

from ast_keras.audio import audio_from_array, audio_info, load_audio
from ast_keras.errors import (
    AudioDecodeError,
    AudioError,
    AudioNotFoundError,
    AudioWarning,
)
from tests.helpers.audio import RATE, decibels, encode, noise, sine

LOSSLESS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "PCM_24"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_S8"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
]
LOSSY = [
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AU", "ULAW"),
    ("WAV", "ALAW"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
]


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- Formats ---


@pytest.mark.parametrize(("container", "codec"), LOSSLESS)
def test_lossless_files_decode_exactly(container, codec, no_warnings):
    wave = noise(2_000)
    samples = load_audio(encode(wave, container=container, codec=codec))
    assert samples.dtype == np.float32
    assert samples.shape == (2_000,)
    # 8 bits have steps of 1/128, and the writer of WAV rounds down. More bits are exact.
    np.testing.assert_allclose(samples, wave, rtol=0, atol=1 / 128 if "8" in codec else 0)


@pytest.mark.parametrize(("container", "codec"), LOSSY)
def test_lossy_files_decode_approximately(container, codec, no_warnings):
    wave = sine(seconds=2)
    samples = load_audio(encode(wave, container=container, codec=codec))
    # Block codecs pad the end to a whole block, which has 1,017 samples for IMA ADPCM.
    assert 0 <= len(samples) - len(wave) < 1_017
    middle = slice(1_000, 30_000)
    # The largest error, that of GSM, is -29.6 dB on a pure tone; 10 dB (a factor of 3) margin.
    assert decibels(samples[middle] - wave[middle], wave[middle]) < -19


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "FLAC"])
@pytest.mark.parametrize("shape", [(3_000, 1), (3_000, 2)])
def test_pcm_equals_libsndfile_and_the_array_to_the_bit(container, shape):
    integers = (noise(shape) * 32_768).astype(np.int16)
    data = encode(integers, container=container)
    samples = load_audio(data)
    reference, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(samples, reference.mean(axis=1))
    np.testing.assert_array_equal(samples, audio_from_array(integers, RATE, channel_axis=1))


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_equals_tensorflow_io_to_the_bit(container, channels):
    tfio = pytest.importorskip("tensorflow_io", reason="tensorflow-io is not installed")
    data = encode(noise((3_000, channels)), container=container)
    decode = tfio.audio.decode_wav if container == "WAV" else tfio.audio.decode_flac
    try:
        decoded = decode(data, dtype="int16").numpy()
    except NotImplementedError:
        pytest.skip(reason="tensorflow-io's native library does not load under this TensorFlow")
    reference = (decoded / np.float32(32_768)).mean(axis=1, dtype=np.float32)
    np.testing.assert_array_equal(load_audio(data), reference)


@pytest.mark.parametrize(("container", "codec"), LOSSLESS + LOSSY)
def test_spans_equal_parts_of_the_whole_file(container, codec, tmp_path, no_warnings):
    wave = sine(seconds=3) + 0.1 * noise(3 * RATE)
    path = tmp_path / "clip"
    path.write_bytes(encode(wave, container=container, codec=codec))
    whole = load_audio(path)
    for start, duration in [(0, 0.1), (0.3, 0.5), (1.00003, 0.25), (2.9, 0.05), (2.9, None)]:
        part = load_audio(path, start_seconds=start, duration_seconds=duration)
        first = round(start * RATE)
        last = None if duration is None else round((start + duration) * RATE)
        np.testing.assert_array_equal(part, whole[first:last])


# --- Unreadable files ---


def test_load_audio_rejects_a_missing_file(tmp_path):
    path = tmp_path / "missing.wav"
    for kind in (AudioNotFoundError, FileNotFoundError, AudioError, ValueError):
        with pytest.raises(kind, match=r"No file at this path.*missing\.wav"):
            load_audio(path)
    with pytest.raises(AudioNotFoundError, match=r"tf\.io\.gfile.*gs://bucket/clip\.wav"):
        load_audio("gs://bucket/clip.wav")


def test_load_audio_rejects_paths_that_cannot_be_opened(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("not a directory")
    for path in (tmp_path, file / "clip.wav", tmp_path / ("n" * 5_000)):
        with pytest.raises(AudioDecodeError, match=r"readable file.*test_load_audio"):
            load_audio(path)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="every file is readable to root"
)
def test_load_audio_rejects_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encode(noise(1_000)))
    path.chmod(0)
    with pytest.raises(AudioDecodeError, match=r"ermission.*secret\.wav"):
        load_audio(path)


@pytest.mark.parametrize("name", ["notes.wav", "notes.flac", "notes.ogg", "notes.mp3", "notes.raw"])
def test_load_audio_rejects_text_by_any_name(name, tmp_path):
    path = tmp_path / name
    path.write_text("These are the notes of a day in the field.\n" * 100)
    with pytest.raises(AudioDecodeError, match=rf"cannot be decoded.*convert it.*{name}"):
        load_audio(path)
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*convert it.*<bytes>"):
        load_audio(path.read_bytes())


def test_load_audio_rejects_a_malformed_header():
    data = bytearray(encode(noise(1_000)))
    struct.pack_into("<HH", data, 20, 0x674F, 0)
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*<bytes>"):
        load_audio(data)


def test_load_audio_rejects_the_bytes_of_a_path(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(encode(noise(1_000)))
    with pytest.raises(AudioDecodeError, match="pass the path as str"):
        load_audio(os.fsencode(path))


@pytest.mark.parametrize("source", [np.zeros(1_000), io.BytesIO(b"RIFF"), None, 3])
def test_load_audio_rejects_other_sources(source):
    with pytest.raises(AudioError, match=rf"audio_from_array.*type {type(source).__name__}"):
        load_audio(source)


@pytest.mark.parametrize(("ending", "codec"), [("gsm", "GSM610"), ("au", "ULAW")])
def test_headerless_files_are_decoded_by_suffix_with_a_warning(ending, codec, tmp_path):
    path = tmp_path / f"digit.{ending}"
    wave = sine(8_000, seconds=1.2)
    soundfile.write(path, wave, 8_000, format="RAW", subtype=codec)
    with pytest.warns(
        AudioWarning, match=rf"no header: read as {codec} at 8000 Hz.*digit\.{ending}"
    ):
        samples = load_audio(path, 8_000)
    assert len(samples) == len(wave)
    # Errors on a pure tone: GSM -28.2 dB, u-law -36.5 dB; 10 dB (a factor of 3) margin.
    assert decibels(samples[160:] - wave[160:], wave[160:]) < -18
    with pytest.warns(AudioWarning, match="no header"):
        assert audio_info(path).codec == codec
    with pytest.raises(AudioDecodeError, match="<bytes>"):
        load_audio(path.read_bytes())


# --- Truncated and damaged files ---


@pytest.mark.parametrize("missing", [2, 1_000, 30_001])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"])
def test_truncated_pcm_returns_the_rest_and_warns(container, missing, tmp_path):
    wave = noise(20_000)
    path = tmp_path / "cut"
    path.write_bytes(encode(wave, container=container)[:-missing])
    with pytest.warns(AudioWarning, match=r"cut short: only \d+ of \d+ bytes.*again.*cut'"):
        samples = load_audio(path)
    np.testing.assert_array_equal(samples, wave[: 20_000 - (missing + 1) // 2])


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.9999])
def test_truncated_flac_returns_the_rest_and_warns(keep):
    wave = noise((40_000, 2))
    data = encode(wave, container="FLAC")
    with pytest.warns(AudioWarning, match=r"ends or is damaged after \d+ of 40000 frames"):
        samples = load_audio(data[: int(keep * len(data))])
    # The incomplete last block of 4,096 frames cannot be decoded.
    assert len(samples) > keep * 40_000 - 2 * 4_096
    np.testing.assert_array_equal(samples, wave[: len(samples)].mean(axis=1))


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_truncated_ogg_returns_the_rest_and_warns(codec):
    data = encode(noise(3 * RATE), container="OGG", codec=codec)
    whole = load_audio(data)
    for keep in (len(data) // 2, data.rindex(b"OggS"), len(data) - 10):
        with pytest.warns(AudioWarning, match="Ogg stream is cut short or damaged"):
            samples = load_audio(data[:keep])
        assert 0.2 * len(whole) < len(samples) < len(whole)
        np.testing.assert_array_equal(samples[:-960], whole[: len(samples) - 960])


def test_damaged_ogg_returns_the_samples_before_the_damage_and_warns():
    data = bytearray(encode(noise(3 * RATE), container="OGG", codec="VORBIS"))
    last_but_one = data.rindex(b"OggS", 0, data.rindex(b"OggS"))
    data[last_but_one + 100] ^= 0xFF
    with pytest.warns(AudioWarning, match=r"ends or is damaged after \d+ of 48000 frames"):
        assert 0.5 * 3 * RATE < len(load_audio(data)) < 3 * RATE


def test_truncated_mp3_returns_the_rest_and_warns():
    data = encode(noise(3 * RATE), container="MP3", codec="MPEG_LAYER_III")
    with pytest.warns(AudioWarning, match=r"cut short: 1\.\d+ of 3\.1 s are missing"):
        samples = load_audio(data[: len(data) // 2])
    assert 0.3 * 3 * RATE < len(samples) < 0.7 * 3 * RATE


@pytest.mark.parametrize("container", ["FLAC", "CAF"])
def test_load_audio_rejects_a_file_without_decodable_audio(container):
    with pytest.raises(AudioDecodeError, match=r"cannot be decoded.*<bytes>"):
        load_audio(encode(noise(20_000), container=container)[:200])


# --- Headers without a valid length ---


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_written_to_a_pipe_is_read(size, no_warnings):
    wave = noise(1_000)
    data = bytearray(encode(wave))
    struct.pack_into("<I", data, 4, size)
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    np.testing.assert_array_equal(load_audio(data), wave)


def test_flac_written_to_a_pipe_is_read(no_warnings):
    wave = noise(10_000)
    data = bytearray(encode(wave, container="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert audio_info(data).frames is None
    assert audio_info(data).duration_seconds is None
    np.testing.assert_array_equal(load_audio(data), wave)
    part = load_audio(data, start_seconds=0.25, duration_seconds=0.125)
    np.testing.assert_array_equal(part, wave[4_000:6_000])


def test_damaged_files_of_several_blocks_are_read():
    wave = np.tile(noise(2**16), 33)
    data = encode(wave, container="FLAC")
    with pytest.warns(AudioWarning, match="ends or is damaged after"):
        samples = load_audio(data[:-100])
    assert len(samples) > 2**21
    np.testing.assert_array_equal(samples, wave[: len(samples)])


def test_flac_with_an_impossible_length_warns():
    wave = noise(10_000)
    data = bytearray(encode(wave, container="FLAC"))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    with pytest.warns(AudioWarning, match="after 10000 of 68719476735 frames"):
        np.testing.assert_array_equal(load_audio(data), wave)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_mp3_of_constant_bit_rate_is_read_without_a_length_header(level, no_warnings):
    options = {"bitrate_mode": "CONSTANT", "compression_level": level}
    data = encode(noise(300_000), 44_100, "MP3", "MPEG_LAYER_III", **options)
    samples = load_audio(data[data.index(b"\xff\xfb", 4) :], 44_100)
    # The removed header also stated the padding: up to two MP3 frames remain.
    assert 0 <= len(samples) - 300_000 <= 2 * 1_152


def test_mp3_with_an_impossible_length_is_read_and_warns():
    data = bytearray(
        encode(noise(10_000), 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    )
    whole = load_audio(data)
    struct.pack_into(">I", data, data.index(b"Xing") + 8, 0x7FFFFFFF)
    with pytest.warns(AudioWarning, match="cut short"):
        np.testing.assert_array_equal(load_audio(data), whole)


def test_mp3_of_variable_bit_rate_is_read_whole_without_a_length_header(tmp_path, no_warnings):
    wave = np.concatenate([noise(4 * 44_100), np.zeros(12 * 44_100)])
    data = encode(
        wave, 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.3
    )
    path = tmp_path / "stream.mp3"
    path.write_bytes(data[data.index(b"\xff\xfb", 4) :])  # without the frame with the length
    assert abs(len(load_audio(path, 44_100)) - len(wave)) <= 2 * 1_152
    assert len(load_audio(data + b"TAG" + bytes(125))) == 16 * RATE
    load_audio(path, duration_seconds=1)

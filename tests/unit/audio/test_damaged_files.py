"""Tests of damaged files: whole, windowed and block-wise reads give all that can be decoded."""

import os
import struct
import warnings

import numpy as np
import pytest
import soundfile

from ast_keras.audio import audio_info, load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.data.clips import Clips
from ast_keras.errors import AudioDecodeError, AudioEmptyError, AudioWarning
from tests.helpers.audio import RATE, encode, noise, sine


def read(path, rate=RATE):
    """Returns the samples and the warnings, which are those of every way of reading."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = load_audio(path, rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = np.concatenate(list(sound_blocks(path, rate, block_seconds=0.3)))
        window = load_audio(path, rate, start_seconds=0.5, duration_seconds=0.25)
        np.testing.assert_array_equal(load_audio(path.read_bytes(), rate), whole)
    np.testing.assert_array_equal(blocks, whole)
    np.testing.assert_array_equal(window, whole[rate // 2 : 3 * rate // 4])
    return whole, " ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("same_serial", [True, False])
def test_chained_ogg_is_read_whole(codec, same_serial, tmp_path):
    first = encode(sine(seconds=1), container="OGG", codec=codec)
    second = first if same_serial else encode(sine(seconds=2), container="OGG", codec=codec)
    path = tmp_path / "radio.ogg"
    path.write_bytes(first + second)
    samples, note = read(path)
    expected = [load_audio(first), load_audio(second)]
    np.testing.assert_array_equal(samples, np.concatenate(expected))
    assert note == ""
    assert audio_info(path).duration_seconds == (2 if same_serial else 3)
    long = encode(sine(seconds=3) + 0.1 * noise(3 * RATE), container="OGG", codec=codec)
    path.write_bytes(first + long[:-1000])
    assert "cut short" in read(path)[1]


def test_chain_of_several_formats_has_the_first_ones(tmp_path):
    path = tmp_path / "radio.ogg"
    second = encode(np.stack([sine(48_000)] * 2, axis=1), 48_000, "OGG", "VORBIS")
    path.write_bytes(encode(sine(), container="OGG", codec="VORBIS") + second)
    samples, note = read(path)
    assert len(samples) == 2 * RATE
    assert "converted to 16000 Hz and 1 channel(s)" in note


LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"),
        ("WAVEX", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("AIFF", "PCM_16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stated", [0, 8000])
def test_header_that_states_too_little_is_corrected(container, codec, stated, tmp_path):
    data = bytearray(encode(noise(RATE), container=container, codec=codec))
    expected = load_audio(bytes(data))
    chunk = {"CAF": b"data\0", "AIFF": b"SSND", "AU": b".snd"}.get(container, b"data")
    form, extra = {"CAF": (">q", 4), "AIFF": (">I", 8), "AU": (">I", 0)}.get(container, ("<I", 0))
    offset = data.index(chunk) + (8 if container == "AU" else 4)
    struct.pack_into(form, data, offset, stated and stated + extra)
    path = tmp_path / "recorder.wav"
    path.write_bytes(data)
    samples, note = read(path)
    np.testing.assert_array_equal(samples, expected)
    assert f"states {stated} bytes of audio, but" in note
    assert "all 1 s are used" in note
    assert audio_info(path.read_bytes()).frames == RATE


@pytest.mark.filterwarnings("error")
def test_header_without_audio_is_empty(tmp_path):
    head = encode(noise(RATE))[:40]
    for rest in (b"", LIST):
        with pytest.raises(AudioEmptyError):
            load_audio(head + bytes(4) + rest)
    assert len(load_audio(encode(noise(RATE)) + LIST)) == RATE


def healthy_mp3():
    wave = sine(44_100, 3)
    return encode(wave, 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT")


def damaged_mp3(kind):
    data = bytearray(healthy_mp3())
    middle = len(data) // 2
    if kind == "zeros":
        data[middle : middle + 3000] = bytes(3000)
    elif kind == "several":
        for place in (middle // 2, middle, middle + middle // 2):
            data[place : place + 500] = np.random.default_rng(0).bytes(500)
    elif kind == "junk":
        data[:0] = np.random.default_rng(0).bytes(5000)
    else:
        del data[middle:]
    return bytes(data)


@pytest.mark.parametrize("kind", ["zeros", "several", "junk", "cut"])
def test_damaged_mp3_keeps_what_can_be_decoded(kind, tmp_path, capfd):
    path = tmp_path / "phone.mp3"
    path.write_bytes(damaged_mp3(kind))
    samples, note = read(path, 44_100)
    expected = load_audio(healthy_mp3(), 44_100)
    if kind == "cut":
        assert 0.45 * len(expected) < len(samples) < 0.55 * len(expected)
    else:
        assert len(samples) == len(expected)  # what follows keeps its time
        is_same = np.abs(samples - expected) < 1e-3
        assert is_same.mean() > 0.6
        np.testing.assert_allclose(samples[-4000:-1000], expected[-4000:-1000], atol=1e-4)
    assert "damaged or cut short" in note
    assert "phone.mp3" in note
    assert capfd.readouterr().err == ""


def test_damaged_flac_is_silent_where_damaged(tmp_path):
    wave = noise(60_000)
    data = bytearray(encode(wave, container="FLAC"))
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    samples, note = read(path)
    assert len(samples) == 60_000
    assert 0 < (samples != wave).sum() <= 2 * 4096
    assert "are silent" in note


def test_mp3_without_audio_names_the_file(tmp_path, capfd):
    path = tmp_path / "empty.mp3"
    for content in (b"ID3\4\0\0\0\0\2\0" + bytes(256), b"These are notes.\n" * 500):
        path.write_bytes(content)
        with pytest.raises(AudioDecodeError, match=r"empty\.mp3"):
            load_audio(path)
        with pytest.raises(AudioDecodeError, match=r"empty\.mp3"):
            list(sound_blocks(path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("right", "rule"), [(-1.0, "channel is inverted"), (0.0, "channel is silent")]
)
def test_defective_channel_warns_with_the_fix(right, rule, tmp_path):
    path = os.path.join(tmp_path, "field.wav")
    soundfile.write(path, np.stack([noise(RATE), right * noise(RATE)], axis=1), RATE)
    for load in (load_audio, lambda path: list(sound_blocks(path, block_seconds=0.3))):
        with pytest.warns(AudioWarning, match=rf"{rule}.*channel=0.*field\.wav"):
            load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = Clips([path], clip_samples=RATE, channel=0)[0]
    np.testing.assert_array_equal(clip, noise(RATE).astype(np.float32))

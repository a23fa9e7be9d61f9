"""Tests of `sound_blocks`: samples, errors and warnings equal those of `load_audio`."""

import warnings

import numpy as np
import pytest
import soundfile

from ast_keras.audio import load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioNotFoundError,
    AudioSampleError,
    AudioWarning,
)
from tests.helpers.audio import RATE


def noise(seconds, rate=RATE, channels=1):
    rng = np.random.default_rng(0)
    return rng.uniform(-0.3, 0.3, (round(seconds * rate), channels))


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_blocks_equal_the_whole_file(tmp_path, suffix, rate):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, noise(5.3, rate, channels=2), rate)
    blocks = list(sound_blocks(path, block_seconds=1.7))
    whole = load_audio(path)
    assert len(blocks) >= 3
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_one_channel_can_be_chosen(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, channels=2), RATE)
    second = np.concatenate(list(sound_blocks(tmp_path / "a.wav", channel=1, block_seconds=0.3)))
    np.testing.assert_array_equal(second, load_audio(tmp_path / "a.wav", channel=1))


def test_unusable_files_raise_the_errors_of_load_audio(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    samples = noise(3)
    samples[40_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    for name, error in {
        "gone.wav": AudioNotFoundError,
        "text.wav": AudioDecodeError,
        "empty.wav": AudioEmptyError,
        "none.wav": AudioEmptyError,
        "nan.wav": AudioSampleError,
    }.items():
        for read in (load_audio, lambda path: list(sound_blocks(path, block_seconds=1))):
            with pytest.raises(error, match=name):
                read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_truncated_file_gives_its_samples_and_a_warning(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, noise(10), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(AudioWarning, match=r"cut short|ends or is damaged"):
        blocks = np.concatenate(list(sound_blocks(path, block_seconds=1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(blocks, load_audio(path))
    assert 3 * RATE < len(blocks) < 6 * RATE


def test_loud_file_gives_one_warning(tmp_path):
    soundfile.write(tmp_path / "a.wav", 10 * noise(3), RATE, subtype="FLOAT")
    with pytest.warns(AudioWarning) as caught:
        list(sound_blocks(tmp_path / "a.wav", block_seconds=0.2))
    assert len(caught) == 1

"""One sound: every planted defect is found and no other; its log-mels agree with an oracle."""

import numpy as np
import pytest

from ast_keras.auditing.inspect_sound import (
    MAX_FRAMES,
    LogMelStatistics,
    inspect_sound,
    log_mel_function,
)
from tests.unit.auditing.sounds import direct, encoded, noise

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def log_mel():
    return log_mel_function()


GOOD = noise()
CLIPPED = np.clip(20 * GOOD, -1, 1)
BROKEN_FLOAT = np.where(np.arange(16000) == 70, np.nan, GOOD)


@pytest.mark.filterwarnings("ignore:The audio is shorter")
@pytest.mark.parametrize(
    ("source", "kind", "detail"),
    [
        (encoded(np.zeros(16000)), "silent", "digital silence"),
        (encoded(0.0003 * np.sin(np.arange(16000)), subtype="FLOAT"), "silent", "peak -70 dBFS"),
        (encoded(np.full(16000, 0.5)), "silent", "digital silence"),
        (encoded(np.stack([GOOD, -GOOD], 1)), "inverted_channel", "set data.channel=0"),
        (encoded(np.stack([GOOD, GOOD**2 - GOOD], 1)), "inverted_channel", "set data.channel=0"),
        (encoded(np.stack([0 * GOOD, GOOD], 1)), "dead_channel", "set data.channel=1"),
        (encoded(CLIPPED), "clipped", "in a row"),
        (encoded(CLIPPED, subtype="FLOAT"), "clipped", "in a row"),
        (encoded(CLIPPED, subtype="PCM_U8"), "clipped", "in a row"),
        (encoded(np.stack([GOOD, CLIPPED], 1)), "clipped", "in a row"),
        (encoded(GOOD + 0.1), "offset", "mean +0.1"),
        (encoded(GOOD[:300]), "too_short", "18.8 ms"),
        (encoded(4 * GOOD / np.abs(GOOD).max(), subtype="FLOAT"), "too_loud", "peak 4"),
        (encoded(BROKEN_FLOAT, subtype="FLOAT"), "invalid_samples", "must be finite"),
        (encoded(GOOD)[:20000], "damaged", "19956 of 32000 bytes"),
        (b"no sound at all", "unreadable", "cannot be decoded"),
        (b"", "unreadable", "file is empty"),
        ("no/such/file.wav", "unreadable", "No file at this path"),
    ],
)
def test_inspect_sound_names_a_defect(source, kind, detail):
    defects = inspect_sound(source).defects
    assert detail in defects[kind]
    # A constant is silence with an offset, and a sound that is too loud exceeds full scale.
    extra = {"too_loud": {"clipped"}, "silent": {"offset"}}.get(kind, set())
    assert set(defects) - extra == {kind}


@pytest.mark.parametrize(
    "source",
    [
        encoded(GOOD),
        encoded(GOOD, 44100),
        encoded(np.stack([GOOD, GOOD], 1), 48000, "FLAC", "PCM_24"),
        encoded(0.99 * GOOD / np.abs(GOOD).max(), format="OGG", subtype="VORBIS"),
        encoded(np.where(np.arange(16000) == 99, 1.0, GOOD)),  # a single sample at full scale
        encoded(np.where(np.arange(16000) % 2, 1.0, -1.0)),  # both limits, never in a row
    ],
)
def test_inspect_sound_finds_no_defect_in_a_good_sound(source):
    assert inspect_sound(source).defects == {}


def test_inspect_sound_describes_the_file(log_mel):
    stereo = encoded(np.stack([GOOD, 0 * GOOD], 1), 44100, "FLAC", "PCM_24")
    sound = inspect_sound(stereo, log_mel)
    assert (sound.sample_rate, sound.channels, sound.format) == (44100, 2, "FLAC PCM_24")
    assert sound.seconds == 16000 / 44100
    assert len(sound.frame_means) == (round(16000 * 16000 / 44100) - 400) // 160 + 1


def test_inspect_sound_decodes_the_first_minute_of_a_long_recording(log_mel):
    long = np.zeros(90 * 8000)
    long[-8000:] = np.nan  # an error if it were decoded
    sound = inspect_sound(encoded(long, 8000, subtype="FLOAT"), log_mel)
    assert sound.seconds == 90.0
    assert len(sound.frame_means) == MAX_FRAMES
    assert list(sound.defects) == ["silent"]


# --- Statistics ---


@pytest.mark.filterwarnings("ignore:The audio is shorter")
def test_statistics_equal_those_of_an_independent_filterbank(log_mel):
    waveforms = [noise(s, level=0.2 * s, seed=i) for i, s in enumerate((0.2, 0.5, 1.0, 0.02, 0.71))]
    statistics = LogMelStatistics()
    for waveform in waveforms:
        sound = inspect_sound(encoded(waveform, subtype="DOUBLE"), log_mel)
        statistics.add(sound.frame_means, sound.frame_squares)
    for num_frames in (30, 64, 128):
        padded, own = direct([w.astype(np.float32) for w in waveforms], num_frames)
        # The layer's float32 logarithms against float64: 2e-8 apart at most in these means.
        assert statistics.over(num_frames, padded=True) == pytest.approx(padded, abs=1e-7)
        assert statistics.over(num_frames, padded=False) == pytest.approx(own, abs=1e-7)


def test_statistics_do_not_subtract_large_sums():
    statistics, rows = LogMelStatistics(), 1e9 + RNG.standard_normal((50, 7, 128))
    for frames in rows:
        means = frames.mean(axis=1)
        statistics.add(means, np.square(frames - means[:, None]).sum(axis=1))
    mean, std = statistics.over(7, padded=False)
    # Squares near 1e18 are rounded to multiples of 128 in float64: sums of squares would fail.
    assert (mean - 1e9, std) == pytest.approx((np.mean(rows - 1e9), np.std(rows)), abs=1e-6)


def test_statistics_without_a_clip_are_nan():
    assert np.isnan(LogMelStatistics().over(128, padded=True)).all()

"""Tests of `audio.mel` against Kaldi's definition: windows, filters and frame counts."""

import numpy as np
import pytest

from ast_keras.audio import mel
from ast_keras.errors import ArgumentError
from tests.reference import kaldi_fbank


@pytest.mark.parametrize("name", ["hann", "hamming"])
def test_window_matches_the_definition(name):
    # Rounding of float64 between two formulas of the same cosine.
    np.testing.assert_allclose(mel.window(name, 400), kaldi_fbank.window(name, 400), atol=1e-15)


@pytest.mark.parametrize(
    ("bins", "fft_size", "rate", "low", "high"),
    [
        (128, 512, 16000, 20.0, 8000.0),
        (40, 512, 16000, 0.0, 7600.0),
        (64, 1024, 32000, 60.0, 16000.0),
    ],
)
def test_filters_match_the_definition(bins, fft_size, rate, low, high):
    expected = kaldi_fbank.filters(bins, fft_size, rate, low, high)
    # Rounding of float64: differences of mels up to 2840, divided by a spacing of at least 20.
    # Observed 7e-14.
    np.testing.assert_allclose(
        mel.mel_filterbank(bins, fft_size, rate, low, high), expected, rtol=0, atol=2e-13
    )


def test_no_filter_includes_the_nyquist_bin():
    assert not mel.mel_filterbank()[-1].any()


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)]
)
def test_num_frames_counts_complete_frames(samples, frames):
    assert mel.num_frames(samples) == frames


def test_durations_round_down_after_correcting_float_error():
    assert mel.seconds_to_samples(0.025, 16000) == 400
    assert mel.seconds_to_samples(0.01, 22050) == 220
    assert mel.seconds_to_samples(0.07, 100) == 7  # 7.000000000000001 before rounding


def test_mel_rejects_invalid_arguments():
    with pytest.raises(ArgumentError, match="window must be one of hann, hamming"):
        mel.window("hanning", 400)
    for low, high in ((-1.0, 8000.0), (4000.0, 300.0), (20.0, 9000.0)):
        with pytest.raises(ArgumentError, match="0 <= f_min_hz < f_max_hz"):
            mel.mel_filterbank(f_min_hz=low, f_max_hz=high)

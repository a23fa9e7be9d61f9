"""Windows hold every sample once or more; aggregates equal their definitions."""

import itertools

import numpy as np
import pytest

from ast_keras.audio.encoding import write_wav
from ast_keras.errors import InferenceError
from ast_keras.inference.windows import ScoreAggregator, cut_windows, iter_segments

LENGTHS = [1, 3, 10, 11, 12, 20, 21, 57]
SIZES = [(10, 10), (10, 5), (10, 1), (10, 7)]


@pytest.mark.parametrize(("window", "hop"), SIZES)
def test_windows_are_slices_that_hold_every_sample(window, hop):
    for length, block in itertools.product(LENGTHS, [1, 4, 100]):
        sound = np.arange(length, dtype="float32")
        blocks = [sound[i : i + block] for i in range(0, length, block)]
        windows = list(cut_windows(blocks, window, hop))
        included = set()
        for number, (start, samples) in enumerate(windows):
            assert start == number * hop
            np.testing.assert_array_equal(samples, sound[start : start + window])
            included |= set(range(start, start + len(samples)))
        assert included == set(range(length)), (length, block)
        # Only the last window reaches the end.
        assert all(start + window < length for start, _ in windows[:-1]), (length, block)


def test_a_short_rest_lengthens_the_last_window():
    sound = np.arange(23, dtype="float32")
    windows = cut_windows([sound], 10, 10, min_samples=4)
    assert [(start, len(samples)) for start, samples in windows] == [(0, 10), (10, 13)]


def test_a_rest_shorter_than_a_frame_of_the_model_lengthens_the_last_window(tmp_path):
    write_wav(tmp_path / "tremor.wav", np.zeros(2300), 1000)  # 2.3 s
    segments = iter_segments(str(tmp_path / "tremor.wav"), 1000, 1000, frame_seconds=0.5)
    assert [(start, len(samples)) for start, samples in segments] == [(0, 1000), (1000, 1300)]
    segments = iter_segments(str(tmp_path / "tremor.wav"), 1000, 1000, frame_seconds=0.3)
    assert [len(samples) for _, samples in segments] == [1000, 1000, 300]


def test_gap_between_windows_is_rejected():
    with pytest.raises(InferenceError, match="would be skipped"):
        list(cut_windows([np.zeros(9)], window=4, hop=5))


def test_aggregates_equal_their_definitions():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((11, 4)) * 30
    scores = rng.random((11, 4))
    weights = np.exp(logits - logits.max(axis=0))
    expected = {
        "max": scores.max(axis=0),
        "mean": scores.mean(axis=0),
        "attention": (weights * scores).sum(axis=0) / weights.sum(axis=0),
    }
    for kind, value in expected.items():
        aggregator = ScoreAggregator(kind)
        for part in (slice(0, 3), slice(3, 4), slice(4, 11)):
            aggregator.add(scores[part], logits[part])
        np.testing.assert_allclose(aggregator.scores(), value, rtol=1e-12)
    with pytest.raises(InferenceError, match="one of max, mean, attention"):
        ScoreAggregator("median")

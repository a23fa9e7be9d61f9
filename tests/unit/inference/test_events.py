"""Events equal those of a cell-by-cell search; boundaries lie midway between centres."""

import numpy as np
import pytest

from ast_keras.errors import InferenceError
from ast_keras.inference.events import find_events, window_boundaries


def events_cell_by_cell(scores, boundaries, high, low):
    """Returns events as (onset, offset, index)."""
    found = []
    for index in range(scores.shape[1]):
        start, reached = None, False
        for cell in range(len(scores) + 1):
            inside = cell < len(scores) and scores[cell, index] >= low
            if inside and start is None:
                start, reached = cell, False
            if inside:
                reached = reached or scores[cell, index] >= high
            if not inside and start is not None:
                if reached:
                    found.append((boundaries[start], boundaries[cell], index))
                start = None
    return sorted(found, key=lambda event: (event[0], event[2]))


def test_events_equal_those_found_cell_by_cell():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores = rng.random((int(rng.integers(1, 40)), 3))
        boundaries = np.cumsum(rng.random(len(scores) + 1))
        high = rng.uniform(0.3, 0.9)
        low = high * rng.uniform(0.3, 1.0)
        found = find_events(scores, boundaries, high, low)
        expected = events_cell_by_cell(scores, boundaries, high, low)
        assert [(e.onset, e.offset, e.index) for e in found] == expected, seed
        for event in found:
            inside = (boundaries[:-1] >= event.onset) & (boundaries[:-1] < event.offset)
            assert event.score == scores[inside, event.index].max()


def test_hysteresis_makes_one_event_of_a_fluctuating_score():
    scores = np.array([[0.1], [0.6], [0.45], [0.55], [0.1]])
    assert len(find_events(scores, np.arange(6.0), 0.5, 0.5)) == 2
    assert len(find_events(scores, np.arange(6.0), 0.5, 0.4)) == 1


def test_short_events_are_dropped_and_short_gaps_closed():
    scores = np.array([[0.9], [0.0], [0.9], [0.9], [0.0], [0.0], [0.9]])
    found = find_events(scores, np.arange(8.0), max_gap_seconds=1.0, min_seconds=2.0)
    assert [(e.onset, e.offset) for e in found] == [(0.0, 4.0)]


@pytest.mark.parametrize(("high", "low"), [(0.5, 0.6), (1.5, 0.5), (0.5, -0.1), (np.nan, 0.1)])
def test_thresholds_out_of_order_are_rejected(high, low):
    with pytest.raises(InferenceError, match="0 <= threshold_off <= threshold <= 1"):
        find_events(np.zeros((3, 1)), np.arange(4.0), high, low)


def test_boundaries_lie_midway_between_the_centres_of_windows():
    boundaries = window_boundaries(np.array([0.0, 5.0, 10.0]), np.array([10.0, 15.0, 20.0]))
    assert boundaries.tolist() == [0.0, 7.5, 12.5, 20.0]
    assert window_boundaries(np.array([0.0]), np.array([3.0])).tolist() == [0.0, 3.0]

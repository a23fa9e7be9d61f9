"""Orders and draws as pure functions of (seed, epoch, position), and sampling weights."""

import collections
import concurrent.futures
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from ast_keras.data import sampling
from ast_keras.data.packed import PackedTargets
from ast_keras.data.sampling import InOrder, Shuffled, Weighted, clip_weights

BLOCK = 4096


def zipf_targets(count, classes, seed=0):
    """Returns labels with frequencies as unequal as AudioSet's; some examples have none."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1)
    frequency /= frequency.sum()
    return [
        tuple(sorted(set(rng.choice(classes, rng.poisson(2), p=frequency).tolist())))
        for _ in range(count)
    ]


def plain_weights(targets):
    """Returns the weights by the authors' rule, example by example."""
    counts = collections.Counter(label for labels in targets for label in labels)
    return [sum(1000.0 / (counts[label] + 0.01) for label in labels) for labels in targets]


@pytest.mark.parametrize("pack", [False, True])
def test_clip_weights_are_those_of_the_authors_rule(pack):
    targets = zipf_targets(3000, 50)
    assert () in targets
    weights = clip_weights(PackedTargets.pack(targets) if pack else targets, num_classes=50)
    # Sums of at most a dozen float64 numbers, each rounded once.
    np.testing.assert_allclose(weights, plain_weights(targets), rtol=1e-14)
    assert weights.dtype == np.float64


def test_clip_weights_do_not_depend_on_unused_classes():
    targets = [(3,), (0, 3), (5,)]
    for classes in (6, 527):
        np.testing.assert_allclose(clip_weights(targets, classes), plain_weights(targets))


def chi_square(draws, weights):
    """Returns the probability of counts that differ from the weights at least as much."""
    weights = np.asarray(weights)
    drawn = weights > 0
    counts = np.bincount(draws, minlength=len(weights))
    assert not counts[~drawn].any()
    expected = weights[drawn] / weights.sum() * len(draws)
    assert expected.min() > 5  # for smaller counts the statistic is not distributed as chi-square
    statistic = ((counts[drawn] - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, drawn.sum() - 1)


def test_draws_follow_the_weights():
    targets = zipf_targets(1000, 20)
    weights = plain_weights(targets)
    drawing = Weighted(clip_weights(targets, 20), seed=3)
    draws = np.concatenate([drawing.order(epoch) for epoch in range(300)])
    assert len(draws) == 300_000
    # The seed is fixed, so this passes or fails always; both tails would be suspicious.
    assert 0.01 < chi_square(draws, weights) < 0.99
    # The test detects label counts to the power of -0.9 instead of -1.
    assert chi_square(draws, np.asarray(weights) ** 0.9) < 1e-6
    # The draws of one epoch are independent of each other: pairs follow the product.
    assert 0.01 < pair_chi_square(draws[:-1], draws[1:]) < 0.99


def pair_chi_square(first, second):
    """Returns the probability of the pairs' counts if the two are independent, in ten groups."""
    table = np.zeros((10, 10))
    np.add.at(table, (first % 10, second % 10), 1)
    return stats.chi2_contingency(table).pvalue


def test_epochs_blocks_and_seeds_draw_differently():
    weights = np.ones(3 * BLOCK)
    orders = [Weighted(weights, seed).order(epoch) for seed in (1, 2) for epoch in (0, 1)]
    blocks = [
        order[start : start + BLOCK] for order in orders for start in range(0, 3 * BLOCK, BLOCK)
    ]
    assert len({block.tobytes() for block in blocks}) == 12


def test_draws_do_not_depend_on_order_and_thread():
    weights = np.random.default_rng(2).random(2 * BLOCK + 100)
    orders = [Weighted(weights, seed=5).order(epoch) for epoch in range(3)]
    assert [len(order) for order in orders] == [len(weights)] * 3
    places = np.random.default_rng(3).integers(0, len(weights), 3000).tolist()
    requested = [(index % 3, place) for index, place in enumerate([0, BLOCK - 1, BLOCK, *places])]
    drawing = Weighted(weights, seed=5)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda at: drawing.index(*at), requested))
    assert drawn == [orders[epoch][place] for epoch, place in requested]
    with pytest.raises(IndexError):
        drawing.index(0, len(weights))


def test_drawing_an_epoch_takes_bounded_memory():
    drawing = Weighted(np.ones(100 * BLOCK), seed=1)
    tracemalloc.start()
    for epoch in range(2):
        for place in range(0, 100 * BLOCK, BLOCK):
            drawing.index(epoch, place)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Five blocks of 8 bytes a draw, and two more while one is drawn; an epoch takes 3.3 MB.
    assert peak < 2 * 7 * 8 * BLOCK


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 2), (1 - 2.0**-53, 3)])
def test_the_outermost_draws_are_examples_with_a_weight(monkeypatch, draw, expected):
    class Outermost:
        def random(self, count):
            return np.full(count, draw)

    monkeypatch.setattr(sampling, "generator", lambda *args: Outermost())
    for weight in [1.0, 0.5, 2.0**-900, *np.random.default_rng(0).random(200)]:
        drawing = Weighted([0.0, 0.0, weight, weight / 3, 0.0, 0.0], seed=0)
        assert drawing.index(0, 5) == expected


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_weighted_rejects_unusable_weights(weights):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Weighted(weights, seed=0)


def test_shuffled_order_is_that_of_earlier_versions():
    # A run that was started with an earlier version resumes with the same order.
    for seed, epoch in ((7, 0), (7, 3), (2**31 - 1, 1)):
        bits = np.random.Philox(key=[seed, 1], counter=[0, 0, epoch, 0])
        expected = np.random.Generator(bits).permutation(100)
        shuffled = Shuffled(100, seed)
        np.testing.assert_array_equal(shuffled.order(epoch), expected)
        assert [shuffled.index(epoch, place) for place in range(100)] == expected.tolist()


def test_in_order_is_the_order_of_the_split():
    assert [InOrder(4).index(9, place) for place in range(4)] == InOrder(4).order(2).tolist()

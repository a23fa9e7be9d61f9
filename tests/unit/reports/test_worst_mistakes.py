"""Selection of the worst mistakes, against plain Python."""

import math

import numpy as np

from ast_keras.reports.worst_mistakes import worst_mistakes


def test_worst_mistakes_are_the_wrong_predictions_with_the_highest_scores():
    rng = np.random.default_rng(2)
    scores = rng.dirichlet(np.ones(5), 200)
    targets = np.eye(5)[rng.integers(5, size=200)]
    expected = sorted(
        (
            (row, max(scores[row]))
            for row in range(200)
            if targets[row, list(scores[row]).index(max(scores[row]))] == 0
        ),
        key=lambda item: -item[1],
    )
    assert worst_mistakes(scores, targets, False, 12) == expected[:12]
    assert worst_mistakes(scores, targets, False, 500) == expected


def test_worst_mistakes_of_several_labels_have_the_highest_loss():
    rng = np.random.default_rng(3)
    scores, targets = rng.uniform(size=(50, 4)), rng.integers(0, 2, (50, 4))
    losses = [
        -sum(math.log(s if t else 1 - s) for s, t in zip(*row, strict=True)) / 4
        for row in zip(scores, targets, strict=True)
    ]
    found = worst_mistakes(scores, targets, True, 7)
    assert [index for index, _ in found] == sorted(range(50), key=lambda i: -losses[i])[:7]
    # Sums in another order: a few last places of float64.
    np.testing.assert_allclose([loss for _, loss in found], sorted(losses)[:-8:-1], rtol=1e-14)


def test_worst_mistakes_have_a_finite_loss_for_scores_of_zero_and_one():
    ((index, loss),) = worst_mistakes([[0.0, 1.0]], [[1, 0]], True, 3)
    assert index == 0
    assert math.isfinite(loss)

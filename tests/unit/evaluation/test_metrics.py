"""Metrics against scikit-learn, against values computed by hand, and on invalid input."""

import dataclasses
import math

import numpy as np
import pytest

from ast_keras.evaluation.metrics import d_prime, evaluate_predictions

SCORES = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
TARGETS = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["distinct", "ties", "many_ties"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_evaluate_predictions_equals_scikit_learn(decimals, dtype):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    targets = rng.random((400, 9)) < np.linspace(0.01, 0.9, 9)
    scores = (rng.standard_normal(targets.shape) + targets).astype(dtype)
    scores = scores if decimals is None else scores.round(decimals)
    evaluation = evaluate_predictions(scores, targets, multi_label=True)
    pairs = list(zip(targets.T, scores.T, strict=True))
    # Float64 sums of at most 400 terms below 1, in another order: seen 2.3e-16.
    tolerance = {"rtol": 0, "atol": 7e-16}
    np.testing.assert_allclose(
        evaluation.average_precision,
        [sklearn_metrics.average_precision_score(*pair) for pair in pairs],
        **tolerance,
    )
    np.testing.assert_allclose(
        evaluation.auc, [sklearn_metrics.roc_auc_score(*pair) for pair in pairs], **tolerance
    )


def test_evaluate_predictions_equals_scikit_learn_on_single_labels():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    classes = rng.integers(0, 6, 300)
    targets = np.eye(6)[classes]
    scores = rng.standard_normal(targets.shape) + targets
    evaluation = evaluate_predictions(scores, targets, multi_label=False)
    predicted = scores.argmax(axis=1)
    expected = sklearn_metrics.confusion_matrix(classes, predicted)
    np.testing.assert_array_equal(evaluation.confusion_matrix, expected)
    assert evaluation.accuracy == sklearn_metrics.accuracy_score(classes, predicted)
    assert evaluation.num_examples == 300
    np.testing.assert_array_equal(evaluation.num_positives, np.bincount(classes))


def test_evaluate_predictions_gives_the_values_computed_by_hand():
    evaluation = evaluate_predictions(SCORES, TARGETS, multi_label=False)
    # Class 0 ranks its examples 1, 0, 1, 0; class 1 ranks them 1, 0, 1, 0 as well.
    expected = (1 + 2 / 3) / 2
    np.testing.assert_array_equal(evaluation.average_precision, [expected, expected])
    np.testing.assert_array_equal(evaluation.auc, [0.75, 0.75])
    np.testing.assert_array_equal(evaluation.confusion_matrix, [[2, 0], [1, 1]])
    assert evaluation.summary() == {
        "accuracy": 0.75,
        "mean_average_precision": expected,
        "mean_auc": 0.75,
        "d_prime": d_prime(0.75),
    }


def test_evaluate_predictions_gives_all_equal_scores_the_chance_level():
    evaluation = evaluate_predictions(np.zeros((4, 1)), [[1], [0], [0], [0]], multi_label=True)
    assert (evaluation.mean_average_precision, evaluation.mean_auc) == (0.25, 0.5)
    assert evaluation.d_prime == 0.0


def test_evaluate_predictions_excludes_classes_without_positives_or_negatives():
    scores = np.column_stack([SCORES, SCORES])
    targets = np.column_stack([TARGETS, np.zeros(4), np.ones(4)])
    evaluation = evaluate_predictions(scores, targets, multi_label=True)
    two_classes = evaluate_predictions(SCORES, TARGETS, multi_label=True)
    assert evaluation.num_excluded_classes == 2
    assert two_classes.num_excluded_classes == 0
    np.testing.assert_array_equal(np.isnan(evaluation.auc), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(evaluation.average_precision), np.isnan(evaluation.auc))
    np.testing.assert_array_equal(evaluation.num_positives, [2, 2, 0, 4])
    assert evaluation.mean_average_precision == two_classes.mean_average_precision
    assert evaluation.mean_auc == two_classes.mean_auc


def test_evaluate_predictions_without_a_defined_class_gives_nan():
    evaluation = evaluate_predictions(SCORES, np.ones((4, 2)), multi_label=True)
    assert evaluation.num_excluded_classes == 2
    for value in (evaluation.mean_average_precision, evaluation.mean_auc, evaluation.d_prime):
        assert math.isnan(value)


def test_evaluate_predictions_counts_any_label_of_the_example_as_accurate():
    targets = [[1, 1], [0, 1], [0, 0], [0, 1]]
    evaluation = evaluate_predictions(SCORES, targets, multi_label=True)
    assert evaluation.accuracy == 0.5
    assert evaluation.confusion_matrix is None


def test_evaluate_predictions_depends_on_the_order_of_scores_only():
    logits = np.random.default_rng(5).standard_normal((50, 3))
    targets = np.arange(150).reshape(50, 3) % 7 < 3
    first = evaluate_predictions(logits, targets, multi_label=True)
    second = evaluate_predictions(1 / (1 + np.exp(-logits)), targets, multi_label=True)
    assert (np.diff([first.thresholds, second.thresholds], axis=0) != 0).all()
    for field in dataclasses.fields(first):
        if field.name == "thresholds":
            continue
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_evaluate_predictions_leaves_its_input_unchanged():
    scores, targets = SCORES.copy(), TARGETS.copy()
    evaluate_predictions(scores, targets, multi_label=False)
    np.testing.assert_array_equal(scores, SCORES)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_evaluate_predictions_rejects_scores_that_are_not_finite(value):
    scores = SCORES.copy()
    scores[2, 1] = value
    with pytest.raises(ValueError, match=rf"finite.*scores\[2, 1\]={value}"):
        evaluate_predictions(scores, TARGETS, multi_label=False)


@pytest.mark.parametrize(
    ("scores", "targets", "multi_label", "message"),
    [
        (SCORES, TARGETS[:3], True, "same shape"),
        (SCORES[0], TARGETS, True, "scores must be"),
        (SCORES, TARGETS[0], True, "targets must be"),
        (np.empty((0, 2)), np.empty((0, 2)), True, "not empty"),
        (SCORES, TARGETS * 0.5, True, "0 or 1"),
        (SCORES, np.where(TARGETS, np.nan, 0), True, "0 or 1"),
        (SCORES, np.ones((4, 2)), False, "2 labels at example 0"),
        (SCORES, TARGETS * [1, 0], False, "0 labels at example 2"),
    ],
)
def test_evaluate_predictions_rejects_bad_input(scores, targets, multi_label, message):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(scores, targets, multi_label)


@pytest.mark.parametrize(
    ("auc", "published", "half_a_digit"),
    [(0.97856, 2.86366, 5e-6), (0.974766, 2.766179, 5e-7), (0.973247, 2.730574, 5e-7)],
)
def test_d_prime_matches_the_published_pairs(auc, published, half_a_digit):
    # The areas are printed rounded, and the slope of d' is at most 28 there.
    assert d_prime(auc) == pytest.approx(published, abs=28 * half_a_digit)


def test_d_prime_of_chance_and_of_the_ends():
    assert d_prime(0.5) == 0.0
    assert (d_prime(1.0), d_prime(0.0)) == (math.inf, -math.inf)
    assert math.isnan(d_prime(math.nan))


@pytest.mark.parametrize("auc", [-0.1, 1.1])
def test_d_prime_rejects_an_area_outside_the_unit_interval(auc):
    with pytest.raises(ValueError, match="lies in"):
        d_prime(auc)


# --- Precision, recall, F1 and thresholds ---


def f1_at(scores, positive, threshold):
    """Returns F1 by counting, without the shortcuts of the implementation."""
    reported = scores >= threshold
    right = int((reported & positive).sum())
    return 2 * right / (int(reported.sum()) + int(positive.sum()))


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["distinct", "ties", "many_ties"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threshold_has_the_highest_f1_of_all_thresholds(decimals, dtype):
    rng = np.random.default_rng(5)
    targets = rng.random((60, 12)) < np.linspace(0.02, 1.0, 12)
    targets[0] = True
    scores = rng.random(targets.shape) / 2 + targets * rng.random(targets.shape) / 2
    scores = (scores if decimals is None else scores.round(decimals)).astype(dtype)
    evaluation = evaluate_predictions(scores, targets, multi_label=True)
    for index in range(12):
        own, positive = scores[:, index], targets[:, index]
        best = max(f1_at(own, positive, threshold) for threshold in own)
        threshold = evaluation.thresholds[index]
        assert evaluation.f1[index] == f1_at(own, positive, threshold) == best
        # Of equal maxima the one that reports least, half-way to the next lower score.
        least = max(t for t in own if f1_at(own, positive, t) == best)
        lower = own[own < least]
        expected = (float(least) + float(lower.max())) / 2 if len(lower) else float(least)
        assert threshold == pytest.approx(expected, abs=1e-15)


def test_given_thresholds_decide_precision_recall_and_f1():
    scores = [[0.9, 0.2], [0.6, 0.3], [0.4, 0.4], [0.1, 0.5]]
    targets = [[1, 0], [0, 0], [1, 1], [0, 0]]
    evaluation = evaluate_predictions(scores, targets, True, thresholds=[0.5, 0.4])
    assert evaluation.thresholds.tolist() == [0.5, 0.4]
    assert evaluation.precision.tolist() == [0.5, 0.5]
    assert evaluation.recall.tolist() == [0.5, 1.0]
    assert evaluation.f1.tolist() == [0.5, 2 / 3]
    nothing = evaluate_predictions(scores, targets, True, thresholds=[1.0, 1.0])
    assert np.isnan(nothing.precision).all()
    assert nothing.f1.tolist() == nothing.recall.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="one threshold for each of 2 classes"):
        evaluate_predictions(scores, targets, True, thresholds=[0.5])


def test_single_labels_report_the_class_with_the_highest_score():
    evaluation = evaluate_predictions(SCORES, TARGETS, multi_label=False)
    assert evaluation.precision.tolist() == [2 / 3, 1.0]
    assert evaluation.recall.tolist() == [1.0, 0.5]
    assert evaluation.f1.tolist() == [0.8, 2 / 3]
    # One class against the rest: the best run of scores ends at 0.6, and at 0.3.
    assert evaluation.thresholds.tolist() == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("num_examples", [1, 3])
def test_threshold_without_positives_or_without_negatives(num_examples):
    scores = np.full((num_examples, 2), 0.25)
    targets = np.tile([0, 1], (num_examples, 1))
    evaluation = evaluate_predictions(scores, targets, multi_label=True)
    for values in (evaluation.precision, evaluation.recall, evaluation.f1, evaluation.thresholds):
        assert math.isnan(values[0])
    assert (evaluation.f1[1], evaluation.thresholds[1]) == (1.0, 0.25)

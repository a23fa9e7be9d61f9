"""Text tables."""

import math

import pytest

from ast_keras.errors import ArgumentError
from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.reports.tables import class_table, format_table, score_table


def test_format_table_aligns_columns_and_formats_numbers():
    rows = [["class", "n", "AP"], ["dog", 12345, 0.5], ["siren", None, math.nan]]
    assert format_table(rows, indent="  ").splitlines() == [
        "  class       n      AP",
        "  dog    12,345  0.5000",
        "  siren       -       -",
    ]
    assert format_table([["a", "b"], ["long", "c"]], align="><") == "   a  b\nlong  c"
    assert format_table([]) == ""


@pytest.mark.parametrize(("rows", "align"), [([["a"], ["b", "c"]], ""), ([["a", "b"]], "<")])
def test_format_table_rejects_rows_of_different_lengths(rows, align):
    with pytest.raises(ArgumentError, match="must have the same length"):
        format_table(rows, align)


def test_class_table_has_the_scores_of_each_class():
    scores, targets = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], [[1, 0], [0, 1], [0, 1]]
    labels = LabelSet(("dog", "rain"))
    header = ["class", "examples", "precision", "recall", "F1", "AP", "AUC", "threshold"]
    single = class_table(evaluate_predictions(scores, targets, False), labels).splitlines()
    assert single[0].split() == header
    assert single[2].split() == [
        "rain",
        "2",
        "1.0000",
        "0.5000",
        "0.6667",
        "1.0000",
        "1.0000",
        "0.2500",
    ]
    several = class_table(evaluate_predictions(scores, targets, True), labels).splitlines()
    assert several[0].split() == header
    assert several[2].split() == [
        "rain",
        "2",
        "1.0000",
        "1.0000",
        "1.0000",
        "1.0000",
        "1.0000",
        "0.2500",
    ]
    absent = class_table(evaluate_predictions([[0.9, 0.1]], [[1, 0]], False), labels)
    assert absent.splitlines()[2].split() == ["rain", "0", *"------"]


def test_score_table_has_an_epoch_only_if_a_row_has_one():
    scores = {"accuracy": 0.9, "mean_average_precision": None, "mean_auc": 0.97, "d_prime": 2.7}
    lines = score_table([("best", {**scores, "epoch": 3}), ("test", scores)]).splitlines()
    assert lines[0].split() == ["epoch", "accuracy", "mAP", "AUC", "d-prime"]
    assert lines[1].split() == ["best", "3", "0.9000", "-", "0.9700", "2.7000"]
    assert lines[2].split() == ["test", "0.9000", "-", "0.9700", "2.7000"]

"""The table of all predictions of a split."""

import csv

import numpy as np

from ast_keras.data.dataset import Split
from ast_keras.data.segment import Segment
from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.reports.predictions import write_predictions

LABELS = LabelSet(("dog, small", "file"))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_listed_with_labels_and_exact_scores(tmp_path):
    split = Split(sources=["a.wav", "bad.wav", "b.wav"], targets=[(0,), (1,), (1,)])
    scores = np.array([[0.9, 0.1], [1 / 3, 2 / 3]], "float32")
    evaluation = evaluate_predictions(scores, [[1, 0], [0, 1]], multi_label=False)
    path = tmp_path / "new" / "p.csv"
    write_predictions(path, split, LABELS, [0, 2], scores, evaluation)
    rows = rows_of(path)
    assert list(rows[0]) == ["file", "labels", "predicted", "score:dog, small", "score:file"]
    assert [row["file"] for row in rows] == ["a.wav", "bad.wav", "b.wav"]
    assert [row["labels"] for row in rows] == ["dog, small", "file", "file"]
    assert [row["predicted"] for row in rows] == ["dog, small", "", "file"]
    read = np.array([[row["score:dog, small"], row["score:file"]] for row in rows])
    np.testing.assert_array_equal(read[[0, 2]].astype("float32"), scores)
    assert read[1].tolist() == ["", ""]  # could not be read
    assert [p.name for p in path.parent.iterdir()] == ["p.csv"]


def test_segments_and_several_labels(tmp_path):
    sources = [Segment("a.wav", 0.0, 1.5), Segment("a.wav", 1.5), "b.wav"]
    split = Split(sources=sources, targets=[(0, 1), (), (1,)])
    scores = np.array([[0.9, 0.8], [0.2, 0.1], [0.6, 0.7]])
    targets = [[1, 1], [0, 0], [0, 1]]
    evaluation = evaluate_predictions(scores, targets, True, thresholds=[0.5, 0.75])
    write_predictions(tmp_path / "p.csv", split, LABELS, [0, 1, 2], scores, evaluation)
    rows = rows_of(tmp_path / "p.csv")
    spans = [(row["file"], row["start"], row["end"]) for row in rows]
    assert spans == [("a.wav", "0", "1.5"), ("a.wav", "1.5", ""), ("b.wav", "", "")]
    assert [row["labels"] for row in rows] == ["dog, small;file", "", "file"]
    assert [row["predicted"] for row in rows] == ["dog, small;file", "", "dog, small"]

"""Figures: what they show, and that their files appear whole or not at all."""

import itertools
import math
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.reports import figures

pytest.importorskip("matplotlib")

ROWS = [
    {"epoch": 1, "train_loss": 2.0, "accuracy": 0.5, "learning_rate": 1e-4, "d_prime": 1.5},
    {"epoch": 2, "train_loss": 1.0, "accuracy": None, "learning_rate": 1e-5, "eval_loss": 1.2},
    {"epoch": 3, "train_loss": math.nan, "accuracy": 0.75, "learning_rate": 1e-6, "d_prime": 2.0},
]
NAMES = ["dog", "rain", "siren"]
COUNTS = np.array([[8, 1, 1], [0, 5, 0], [0, 0, 0]])


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def lines_of(figure):
    return {
        axes.get_title(): {line.get_label(): line for line in axes.lines} for axes in figure.axes
    }


def test_learning_curves_sort_the_keys_into_panels():
    panels = lines_of(figures._learning_curves(ROWS, "Run 1"))
    assert {name: set(lines) for name, lines in panels.items()} == {
        "Loss": {"train loss", "eval loss"},
        "Metrics": {"accuracy"},
        "Other metrics": {"d'"},
        "Learning rate": {"learning rate"},
    }
    assert list(panels) == ["Loss", "Metrics", "Other metrics", "Learning rate"]


def test_learning_curves_show_the_values_and_leave_gaps():
    panels = lines_of(figures._learning_curves(ROWS, "Run 1"))
    expected = {
        ("Loss", "train loss"): [2.0, 1.0, math.nan],
        ("Loss", "eval loss"): [math.nan, 1.2, math.nan],
        ("Metrics", "accuracy"): [0.5, math.nan, 0.75],
        ("Learning rate", "learning rate"): [1e-4, 1e-5, 1e-6],
    }
    for (panel, label), values in expected.items():
        np.testing.assert_array_equal(panels[panel][label].get_ydata(), values)
        np.testing.assert_array_equal(panels[panel][label].get_xdata(), [1, 2, 3])


def test_learning_curves_scale_the_learning_rate_by_its_range():
    wide = figures._learning_curves(ROWS, "Run 1").axes[-1]
    narrow = figures._learning_curves(ROWS[:1], "Run 1").axes[-1]
    assert (wide.get_yscale(), narrow.get_yscale()) == ("log", "linear")


def test_learning_curves_survive_a_rate_of_zero():
    rows = [{"epoch": epoch, "learning_rate": 0.0} for epoch in (1, 2)]
    (axes,) = figures._learning_curves(rows, "Run 1").axes
    assert axes.get_yscale() == "linear"


def test_learning_curves_take_the_summary_of_an_evaluation(tmp_path):
    evaluation = evaluate_predictions([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 1]], False)
    path = tmp_path / "curves.png"
    figures.draw_learning_curves([{"epoch": 1, **evaluation.summary()}], path)  # d' is infinite
    assert png_size(path)[0] > 300


FOLDS = {
    "1": [{"epoch": 1, "accuracy": 0.2}, {"epoch": 2, "accuracy": 0.6}],
    "3": [{"epoch": 1, "accuracy": 0.4}, {"epoch": 2, "accuracy": math.nan}],
}


def test_fold_curves_draw_each_fold_and_their_mean():
    (axes,) = figures._fold_curves(FOLDS, "accuracy", 2.0, "Folds").axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines[:-1]}
    expected = {"fold 1": [0.2, 0.6], "fold 3": [0.4, math.nan], "mean": [0.3, math.nan]}
    assert lines.keys() == expected.keys()
    for name, values in expected.items():
        # One sum of two numbers, rounded.
        np.testing.assert_allclose(lines[name], values, rtol=1e-15)
    assert list(axes.lines[-1].get_xdata()) == [2.0, 2.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(expected)


@pytest.mark.parametrize("folds", [{}, {"1": []}, {**FOLDS, "2": FOLDS["1"][:1]}])
def test_fold_curves_reject_folds_of_other_lengths(folds, tmp_path):
    with pytest.raises(ValueError, match="folds must have the same epochs"):
        figures.draw_fold_curves(folds, "accuracy", tmp_path / "figure.png")


def test_confusion_matrix_colours_the_share_of_the_true_class():
    axes, colorbar = figures._confusion_matrix(COUNTS, NAMES, "Test").axes
    shares = np.ma.filled(axes.images[0].get_array(), math.nan)
    np.testing.assert_array_equal(shares, [[0.8, 0.1, 0.1], [0, 1, 0], [math.nan] * 3])
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert "15 examples" in axes.get_title()
    assert colorbar.get_ylabel() == "Share of the true class"


def test_confusion_matrix_prints_its_counts():
    axes = figures._confusion_matrix(COUNTS * 1000, NAMES, "Test").axes[0]
    printed = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert printed == {  # by column and row; light on dark
        (0, 0): ("8,000", "white"),
        (1, 0): ("1,000", "black"),
        (2, 0): ("1,000", "black"),
        (1, 1): ("5,000", "white"),
    }


@pytest.mark.parametrize(
    ("num_classes", "num_labels", "has_counts"),
    [(1, 1, True), (10, 10, True), (20, 20, True), (50, 50, False), (527, 59, False)],
)
def test_confusion_matrix_adapts_to_the_number_of_classes(
    num_classes, num_labels, has_counts, tmp_path
):
    names = [f"class {index}" for index in range(num_classes)]
    figure = figures._confusion_matrix(np.eye(num_classes, dtype=int), names, "Test")
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == len(axes.get_xticklabels()) == num_labels
    assert bool(axes.texts) is has_counts
    figure.draw_without_rendering()
    # Labels of neighbouring classes must not touch.
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))


def test_spectrogram_shows_time_to_the_right_and_frequency_upwards():
    log_mel = np.arange(12.0).reshape(4, 3)  # [frames, mel]
    axes = figures._spectrogram(log_mel, 0.01, "Dog").axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), log_mel.T)
    assert image.get_extent() == [0.0, 0.04, 0.0, 3.0]
    assert image.origin == "lower"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Time (s)", "Mel bin")


def draw(kind, path):
    if kind == "curves":
        figures.draw_learning_curves(ROWS, path)
    elif kind == "confusion":
        figures.draw_confusion_matrix(COUNTS, NAMES, path)
    else:
        figures.draw_spectrogram(np.zeros((20, 8)), path)


KINDS = ("curves", "confusion", "spectrogram")


@pytest.mark.parametrize("kind", KINDS)
def test_draw_writes_one_picture_and_nothing_else(kind, tmp_path):
    path = tmp_path / "new" / "figure.png"
    draw(kind, path)
    assert min(png_size(path)) > 300
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_draw_takes_its_format_from_the_suffix(suffix, start, tmp_path):
    draw("confusion", str(tmp_path / f"figure{suffix}"))
    assert (tmp_path / f"figure{suffix}").read_bytes().startswith(start)


def test_draw_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        draw("curves", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_draw_works_from_threads_at_once(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(draw, KINDS * 2, paths))
    contents = [path.read_bytes() for path in paths]
    assert contents[:3] == contents[3:]


def test_draw_leaves_pyplot_alone(tmp_path):
    code = (
        "import sys; from ast_keras.reports import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"figures.draw_confusion_matrix([[1]], ['dog'], {str(tmp_path / 'figure.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_draw_says_how_to_install_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for kind in KINDS:
        with pytest.raises(ImportError, match="pip install matplotlib"):
            draw(kind, tmp_path / "figure.png")


@pytest.mark.parametrize("rows", [[], [{"train_loss": 1.0}], [{"epoch": 1}]])
def test_learning_curves_reject_rows_without_content(rows, tmp_path):
    with pytest.raises(ValueError, match="rows must hold"):
        figures.draw_learning_curves(rows, tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("matrix", "names"),
    [(COUNTS, NAMES[:2]), (COUNTS[:2], NAMES[:2]), ([], []), (-COUNTS, NAMES)],
    ids=["names", "not_square", "empty", "negative"],
)
def test_confusion_matrix_rejects_bad_input(matrix, names, tmp_path):
    with pytest.raises(ValueError, match="matrix must"):
        figures.draw_confusion_matrix(matrix, names, tmp_path / "figure.png")


@pytest.mark.parametrize("log_mel", [np.zeros(5), np.zeros((0, 4)), np.full((3, 4), np.nan)])
def test_spectrogram_rejects_bad_input(log_mel, tmp_path):
    with pytest.raises(ValueError, match="log_mel must"):
        figures.draw_spectrogram(log_mel, tmp_path / "figure.png")

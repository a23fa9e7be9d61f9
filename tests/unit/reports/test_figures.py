"""Figures: what the drawn pictures show, and that files appear whole or not at all."""

import itertools
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ast_keras.audio.mel import mel_filterbank
from ast_keras.errors import ArgumentError
from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.reports import figures

matplotlib = pytest.importorskip("matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure

ROWS = [
    {"epoch": 1, "train_loss": 2.0, "accuracy": 0.5, "learning_rate": 1e-4, "d_prime": 1.5},
    {"epoch": 2, "train_loss": 1.0, "accuracy": None, "learning_rate": 1e-5, "eval_loss": 1.2},
    {"epoch": 3, "train_loss": math.nan, "accuracy": 0.75, "learning_rate": 1e-6, "d_prime": 2.0},
]
FOLDS = {
    "1": [{"epoch": 1, "accuracy": 0.2}, {"epoch": 2, "accuracy": 0.6}],
    "3": [{"epoch": 1, "accuracy": 0.4}, {"epoch": 2, "accuracy": math.nan}],
}
NAMES = ["dog", "rain", "siren"]
COUNTS = np.array([[8, 1, 1], [0, 5, 0], [0, 0, 0]])


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function that draws an SVG and returns its texts; the figure is in `.figure`."""
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text stays text
    saved = []
    original = Figure.savefig

    def savefig(figure, *args, **kwargs):
        saved.append(figure)
        return original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(function, *args, **kwargs):
        function(*args, path=tmp_path / "figure.svg", **kwargs)
        draw.figure = saved[-1]
        return re.findall(r"<text[^>]*>([^<]+)</text>", (tmp_path / "figure.svg").read_text())

    return draw


def test_learning_curves_sort_keys_into_panels_and_leave_gaps(drawn):
    drawn(figures.draw_learning_curves, ROWS)
    panels = {axes.get_title(): axes for axes in drawn.figure.axes}
    assert list(panels) == ["Loss", "Metrics", "Other metrics", "Learning rate"]
    expected = {
        ("Loss", "train loss"): [2.0, 1.0, math.nan],
        ("Loss", "eval loss"): [math.nan, 1.2, math.nan],
        ("Metrics", "accuracy"): [0.5, math.nan, 0.75],
        ("Other metrics", "d'"): [1.5, math.nan, 2.0],
        ("Learning rate", "learning rate"): [1e-4, 1e-5, 1e-6],
    }
    lines = {(t, line.get_label()): line for t, axes in panels.items() for line in axes.lines}
    assert lines.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(lines[key].get_ydata(), values)
        np.testing.assert_array_equal(lines[key].get_xdata(), [1, 2, 3])
    assert panels["Learning rate"].get_yscale() == "log"
    drawn(figures.draw_learning_curves, [{"epoch": e, "learning_rate": 0.0} for e in (1, 2)])
    assert drawn.figure.axes[0].get_yscale() == "linear"
    evaluation = evaluate_predictions([[0.9, 0.1], [0.2, 0.8]], [[1, 0], [0, 1]], False)
    assert "d'" in drawn(figures.draw_learning_curves, [{"epoch": 1, **evaluation.summary()}])


def test_fold_curves_show_each_fold_their_mean_and_the_marked_epoch(drawn):
    texts = drawn(figures.draw_fold_curves, FOLDS, "accuracy", marked_epoch=2.0)
    (axes,) = drawn.figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines[:-1]}
    expected = {"fold 1": [0.2, 0.6], "fold 3": [0.4, math.nan], "mean": [0.3, math.nan]}
    assert lines.keys() == expected.keys()
    for name, values in expected.items():
        # One sum of two numbers, rounded.
        np.testing.assert_allclose(lines[name], values, rtol=1e-15)
        assert name in texts
    assert list(axes.lines[-1].get_xdata()) == [2.0, 2.0]
    drawn(figures.draw_fold_curves, {**FOLDS, "2": FOLDS["1"][:1]}, "accuracy")  # ended early
    lines = {line.get_label(): line.get_ydata() for line in drawn.figure.axes[0].lines}
    np.testing.assert_array_equal(lines["fold 2"], [0.2, math.nan])


def test_confusion_matrix_shows_fractions_counts_and_names(drawn):
    texts = drawn(figures.draw_confusion_matrix, COUNTS * 1000, NAMES)
    for text in (*NAMES, "8,000", "1,000", "5,000", "Fraction of the true class"):
        assert text in texts
    assert "0" not in texts  # empty cells hold no count
    assert any("15,000 examples" in text for text in texts)
    fractions = np.ma.filled(drawn.figure.axes[0].images[0].get_array(), math.nan)
    np.testing.assert_array_equal(fractions, [[0.8, 0.1, 0.1], [0, 1, 0], [math.nan] * 3])


@pytest.mark.parametrize(("num_classes", "num_labels"), [(1, 1), (20, 20), (527, 59)])
def test_confusion_matrix_adapts_to_the_number_of_classes(num_classes, num_labels, drawn):
    names = [f"class {index}" for index in range(num_classes)]
    texts = drawn(figures.draw_confusion_matrix, np.eye(num_classes, dtype=int), names)
    assert sum(text.startswith("class ") for text in texts) == 2 * num_labels
    assert ("1" in texts) is (num_classes <= 20)  # the counts
    boxes = [label.get_window_extent() for label in drawn.figure.axes[0].get_yticklabels()]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 > below.y1, "labels touch"


def test_spectrogram_has_time_frequency_and_the_padding(drawn):
    log_mel = np.random.default_rng(1).normal(size=(100, 64))
    texts = drawn(
        figures.draw_spectrogram, log_mel, mel_range_hz=(20.0, 8000.0), num_valid_frames=40
    )
    axes = drawn.figure.axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), log_mel.T)
    assert image.get_extent() == [0.0, 1.0, 0.0, 64.0]
    assert image.origin == "lower"
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.4, 0.4]]
    ticks = ["100", "300", "1000", "2000", "4000", "8000"]
    assert [text for text in texts if text in ticks] == ticks
    filters = mel_filterbank(num_mel_bins=64, fft_size=4096)
    for place, hertz in list(zip(axes.get_yticks(), ticks, strict=True))[2:5]:
        peak = filters[round(int(hertz) * 4096 / 16000)].argmax()
        # The tick lies in the bin whose filter is the strongest at this frequency, or on its edge.
        assert abs(place - (peak + 0.5)) <= 0.55
    texts = drawn(figures.draw_spectrogram, np.zeros((50, 8)), num_valid_frames=0)  # all padding
    assert {"Mel bin", "Time (s)"} <= set(texts)


BAD = [
    (figures.draw_learning_curves, ([],), "rows must hold"),
    (figures.draw_learning_curves, ([{"train_loss": 1.0}],), "rows must hold"),
    (figures.draw_learning_curves, ([{"epoch": 1}],), "rows must hold"),
    (figures.draw_fold_curves, ({}, "accuracy"), "folds must start with the same epochs"),
    (figures.draw_fold_curves, ({"1": []}, "accuracy"), "folds must start with the same epochs"),
    (figures.draw_fold_curves, ({**FOLDS, "2": FOLDS["1"][1:]}, "accuracy"), "same epochs"),
    (figures.draw_confusion_matrix, (COUNTS, NAMES[:2]), "matrix must"),
    (figures.draw_confusion_matrix, (COUNTS[:2], NAMES[:2]), "matrix must"),
    (figures.draw_confusion_matrix, ([], []), "matrix must"),
    (figures.draw_confusion_matrix, (-COUNTS, NAMES), "matrix must"),
    (figures.draw_spectrogram, (np.zeros(5),), "log_mel must"),
    (figures.draw_spectrogram, (np.zeros((0, 4)),), "log_mel must"),
    (figures.draw_spectrogram, (np.full((3, 4), np.nan),), "log_mel must"),
]


@pytest.mark.parametrize(("function", "args", "message"), BAD)
def test_figures_reject_bad_input(function, args, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        function(*args, path=tmp_path / "figure.png")


def test_files_appear_whole_from_any_thread_and_in_the_format_of_the_suffix(tmp_path, monkeypatch):
    paths = [tmp_path / "new" / f"{index}.png" for index in range(4)]
    with ThreadPoolExecutor(2) as pool:
        for path in paths:
            pool.submit(figures.draw_confusion_matrix, COUNTS, NAMES, path)
    assert sorted((tmp_path / "new").iterdir()) == paths
    contents = {path.read_bytes() for path in paths}
    assert len(contents) == 1
    assert contents.pop().startswith(b"\x89PNG\r\n\x1a\n")
    figures.draw_confusion_matrix(COUNTS, NAMES, tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        figures.draw_learning_curves(ROWS, tmp_path / "figure.pdf")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_figures_need_no_pyplot_and_report_a_missing_matplotlib(tmp_path):
    code = (
        "import sys; from ast_keras.reports import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"figures.draw_confusion_matrix([[1]], ['dog'], {str(tmp_path / 'figure.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "sys.modules['matplotlib.figure'] = None\n"
        "try: figures.draw_confusion_matrix([[1]], ['dog'], 'figure.png')\n"
        "except ImportError as error: assert 'pip install matplotlib' in str(error)\n"
        "else: raise AssertionError"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr

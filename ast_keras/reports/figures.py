"""Figures of a training run and of its results, drawn with matplotlib and without a display."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ast_keras.errors import ArgumentError
from ast_keras.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart under every common form of colour blindness.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PANELS = ("Loss", "Metrics", "Other metrics", "Learning rate")
_ABBREVIATIONS = {"mean_average_precision": "mAP", "auc": "AUC", "d_prime": "d'"}
_MAX_CLASSES_WITH_COUNTS = 20
_MAX_CLASS_LABELS = 60

FloatArray = npt.NDArray[np.float64]
PathLike = str | os.PathLike[str]
Row = Mapping[str, float | None]


def draw_learning_curves(rows: Sequence[Row], path: PathLike, title: str = "Training") -> None:
    """Draws losses, metrics and the learning rate by epoch, side by side.

    Keys that contain `loss` share the first panel, metrics between 0 and 1 the second, other
    metrics such as d' the third, and `learning_rate` has the last one to itself. Values that are
    missing, None or not finite leave a gap. Like every function here it replaces the file in one
    move, so that a reader never sees half a picture, and it may be called from any thread.

    Args:
        rows: One mapping per epoch with `epoch` and any of `train_loss`, `eval_loss`,
            `learning_rate` and metrics such as those of `Evaluation.summary`.
        path: File to write; its suffix chooses the format (`.png`, `.pdf`, `.svg`).
        title: Heading of the figure.

    Raises:
        ValueError: If there are no rows, a row lacks `epoch`, or there is nothing else to draw.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> rows = [{"epoch": 1, "train_loss": 2.1, "accuracy": 0.4, "learning_rate": 1e-5},
        ...         {"epoch": 2, "train_loss": 1.3, "accuracy": 0.6, "learning_rate": 5e-6}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_learning_curves(rows, f"{folder}/curves.png")
    """
    _save(_learning_curves(rows, title), path)


def draw_fold_curves(
    folds: Mapping[str, Sequence[Row]],
    metric: str,
    path: PathLike,
    marked_epoch: float | None = None,
    title: str = "Folds",
) -> None:
    """Draws one metric by epoch for each fold, thin, and their mean, thick.

    Args:
        folds: Of each fold by its name one mapping per epoch, with `epoch` and the metric.
        metric: Which value to draw.
        path: File to write; its suffix chooses the format.
        marked_epoch: Epoch to mark with a line; None for none.
        title: Heading of the figure.

    Raises:
        ValueError: If there is no fold, or the folds have different epochs.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> rows = [{"epoch": 1, "accuracy": 0.4}, {"epoch": 2, "accuracy": 0.6}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_fold_curves({"1": rows, "2": rows}, "accuracy", f"{folder}/folds.png")
    """
    _save(_fold_curves(folds, metric, marked_epoch, title), path)


def draw_confusion_matrix(
    matrix: npt.ArrayLike,
    names: Sequence[str],
    path: PathLike,
    title: str = "Confusion matrix",
) -> None:
    """Draws a confusion matrix, coloured by the share of each true class.

    The colour follows the square root of the share, so that a few confusions remain visible. Up to
    20 classes the counts are printed in the cells; beyond 60 only every so many classes are named.
    Classes without an example stay white.

    Args:
        matrix: Number of examples by true class (row) and predicted class (column),
            `[classes, classes]`.
        names: Name of each class.
        path: File to write; its suffix chooses the format.
        title: Heading of the figure.

    Raises:
        ValueError: If the matrix is not square, has a negative count, or does not fit the names.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_confusion_matrix([[9, 1], [2, 8]], ["dog", "rain"], f"{folder}/matrix.png")
    """
    _save(_confusion_matrix(matrix, names, title), path)


def draw_spectrogram(
    log_mel: npt.ArrayLike,
    path: PathLike,
    frame_shift_seconds: float = 0.01,
    title: str = "Log-mel spectrogram",
) -> None:
    """Draws one log-mel spectrogram, time to the right and frequency upwards.

    Args:
        log_mel: `[frames, mel]`, natural logarithm of power, normalised or not.
        path: File to write; its suffix chooses the format.
        frame_shift_seconds: Time between two frames.
        title: Heading of the figure.

    Raises:
        ValueError: If `log_mel` is not two-dimensional, is empty or is nowhere finite.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_spectrogram(np.zeros((1024, 128)), f"{folder}/log_mel.png")
    """
    _save(_spectrogram(log_mel, frame_shift_seconds, title), path)


def _learning_curves(rows: Sequence[Row], title: str) -> "Figure":
    if not rows or any(row.get("epoch") is None for row in rows):
        raise ArgumentError(
            f"rows must hold one mapping with `epoch` per epoch. Received: {rows!r}"
        )
    panels: dict[str, dict[str, FloatArray]] = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "epoch"):
        values = _series(rows, key)
        panels.setdefault(_panel(key, values), {})[key] = values
    if not panels:
        raise ArgumentError(f"rows must hold something beside `epoch` to draw. Received: {rows!r}")
    figure = _new_figure(4.6 * len(panels), 3.8)
    figure.suptitle(title, fontweight="bold")
    names = [name for name in _PANELS if name in panels]
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), position)
        _draw_lines(axes, _series(rows, "epoch"), panels[name])
        axes.set_title(name)
        if name == "Learning rate":
            _scale_learning_rate(axes, panels[name]["learning_rate"])
        elif name == "Metrics":
            axes.set_ylim(0, 1.02)
    return figure


def _fold_curves(
    folds: Mapping[str, Sequence[Row]], metric: str, marked_epoch: float | None, title: str
) -> "Figure":
    epochs = [_series(rows, "epoch").tolist() for rows in folds.values()]
    if not epochs or not epochs[0] or any(other != epochs[0] for other in epochs):
        raise ArgumentError(f"folds must have the same epochs. Received: epochs={epochs}")
    lines = {f"fold {name}": _series(rows, metric) for name, rows in folds.items()}
    lines["mean"] = np.mean(list(lines.values()), axis=0)
    figure = _new_figure(8.0, 4.2)
    axes = figure.add_subplot()
    _draw_lines(axes, np.array(epochs[0]), lines)
    for line in axes.lines[:-1]:
        line.set(linewidth=0.9, markersize=2.5)
    axes.lines[-1].set(linewidth=3.0, markersize=0, color="black")
    if marked_epoch is not None:
        axes.axvline(marked_epoch, color="0.5", linestyle="--", zorder=0)
    axes.legend(frameon=False, fontsize=9)
    axes.set_ylabel(_label(metric))
    axes.set_title(title, fontweight="bold")
    return figure


def _panel(key: str, values: FloatArray) -> str:
    if key == "learning_rate":
        return "Learning rate"
    if "loss" in key:
        return "Loss"
    outside = (values < 0) | (values > 1)  # a gap, NaN, is neither
    return "Other metrics" if outside.any() else "Metrics"


def _series(rows: Sequence[Row], key: str) -> FloatArray:
    values = [row.get(key) for row in rows]
    array = np.array([math.nan if value is None else float(value) for value in values])
    return np.where(np.isfinite(array), array, math.nan)


def _draw_lines(axes: "Axes", epochs: FloatArray, lines: Mapping[str, FloatArray]) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (key, values) in enumerate(lines.items()):
        axes.plot(
            epochs,
            values,
            color=_COLORS[index % len(_COLORS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            linewidth=1.6,
            label=_label(key),
        )
    axes.set_xlabel("Epoch")
    axes.set_xlim(float(epochs.min()) - 0.5, float(epochs.max()) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1 or "learning_rate" not in lines:
        axes.legend(frameon=False, fontsize=9)


def _label(key: str) -> str:
    for name, abbreviation in _ABBREVIATIONS.items():
        key = key.replace(name, abbreviation)
    return key.replace("_", " ")


def _scale_learning_rate(axes: "Axes", values: FloatArray) -> None:
    positive = values[values > 0]
    if len(positive) and positive.max() >= 10 * positive.min():
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set_ylim(bottom=0)


def _confusion_matrix(matrix: npt.ArrayLike, names: Sequence[str], title: str) -> "Figure":
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] != len(names):
        raise ArgumentError(
            "matrix must be square with one row per name. "
            f"Received: matrix.shape={counts.shape}, len(names)={len(names)}"
        )
    if not len(names) or (counts < 0).any():
        raise ArgumentError(f"matrix must hold counts of at least one class. Received: {matrix!r}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), math.nan)
    side = min(3.5 + 0.2 * len(names), 15.0) if len(names) > 20 else 3.5 + 0.3 * len(names)
    figure = _new_figure(side + 0.9, side)
    from matplotlib.colors import PowerNorm  # after _new_figure, which explains its absence

    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
    figure.colorbar(image, ax=axes, label="Share of the true class", fraction=0.03, pad=0.02)
    axes.set_title(f"{title}  ({int(counts.sum()):,} examples)", fontweight="bold")
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    _name_classes(axes, names)
    if len(names) <= _MAX_CLASSES_WITH_COUNTS:
        _print_counts(axes, counts, shares)
    return figure


def _name_classes(axes: "Axes", names: Sequence[str]) -> None:
    every = math.ceil(len(names) / _MAX_CLASS_LABELS)
    ticks = list(range(0, len(names), every))
    labels = [names[tick] for tick in ticks]
    size = 10 if len(names) <= _MAX_CLASSES_WITH_COUNTS else 9
    axes.set_xticks(ticks, labels, rotation=90 if len(names) > 12 else 45, fontsize=size)
    if len(names) <= 12:
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels, fontsize=size)
    if every == 1:  # lines between the cells lead the eye to a name
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.5)
        axes.tick_params(which="minor", length=0)


def _print_counts(axes: "Axes", counts: npt.NDArray[Any], shares: FloatArray) -> None:
    for row, column in np.argwhere(counts > 0):
        color = "white" if shares[row, column] > 0.3 else "black"
        text = f"{int(counts[row, column]):,}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)


def _spectrogram(log_mel: npt.ArrayLike, frame_shift_seconds: float, title: str) -> "Figure":
    values = np.asarray(log_mel, np.float64)
    if values.ndim != 2 or not np.isfinite(values).any():
        raise ArgumentError(
            f"log_mel must be [frames, mel] with finite values. Received: shape={values.shape}"
        )
    figure = _new_figure(9.0, 3.4)
    axes = figure.add_subplot()
    extent = (0.0, len(values) * frame_shift_seconds, 0.0, float(values.shape[1]))
    image = axes.imshow(
        values.T, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="none"
    )
    figure.colorbar(image, ax=axes, label="Log power", pad=0.02)
    axes.set_title(title, fontweight="bold")
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Mel bin")
    return figure


def _new_figure(width_inches: float, height_inches: float) -> "Figure":
    try:
        # pyplot keeps global state and picks a display: a bare Figure does neither.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width_inches, height_inches), dpi=120, layout="constrained")


def _save(figure: "Figure", path: PathLike) -> None:
    with replacing(path) as part:
        figure.savefig(part)

"""Figures of training and evaluation, drawn with matplotlib and without a display.

Every `draw_` function replaces its file in one step, so that a reader never sees half a picture,
and may be called from any thread. The suffix of the path chooses the format (`.png`, `.pdf`,
`.svg`).
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ast_keras.audio.mel import hertz_to_mel
from ast_keras.errors import ArgumentError
from ast_keras.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Okabe and Ito's palette, whose colours differ under every common form of colour blindness.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PANELS = ("Loss", "Metrics", "Other metrics", "Learning rate")
_ABBREVIATIONS = {"mean_average_precision": "mAP", "auc": "AUC", "d_prime": "d'"}
_MAX_CLASSES_WITH_COUNTS = 20
_MAX_CLASS_LABELS = 60
_TICKS_HZ = (1, 3, 10, 30, 100, 300, *(1000 * 2**power for power in range(9)))

FloatArray = npt.NDArray[np.float64]
PathLike = str | os.PathLike[str]
Row = Mapping[str, float | None]


def draw_learning_curves(rows: Sequence[Row], path: PathLike, title: str = "Training") -> None:
    """Draws losses, metrics and the learning rate by epoch, side by side.

    The first panel shows the keys that contain `loss`, the second the metrics between 0 and 1, the
    third other metrics such as d', the last one `learning_rate`. Values that are missing, None or
    not finite leave a gap.

    Args:
        rows: One mapping for each epoch, with `epoch` and any of `train_loss`, `eval_loss`,
            `learning_rate` and metrics such as those of `Evaluation.summary`.
        path: Path of the file.
        title: Heading of the figure.

    Raises:
        ArgumentError: If there are no rows, a row lacks `epoch`, or there is nothing else to draw.
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
    """Draws one metric by epoch: a thin line for each fold, a thick line for the mean.

    Args:
        folds: For each fold, by name, one mapping for each epoch with `epoch` and the metric. The
            mean is drawn for the epochs of all folds.
        metric: Key of the value to draw.
        path: Path of the file.
        marked_epoch: Epoch to mark with a vertical line; None draws no line.
        title: Heading of the figure.

    Raises:
        ArgumentError: If there is no fold, or the folds do not start with the same epochs.
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
    """Draws a confusion matrix, coloured by the fraction of each true class.

    The colour follows the square root of the fraction, so that a few confusions remain visible. Up
    to 20 classes, the counts are printed in the cells; beyond 60 classes, only every n-th class is
    named, at most 60. Classes without an example stay white.

    Args:
        matrix: Number of examples by true class (row) and predicted class (column),
            `[classes, classes]`.
        names: Name of each class.
        path: Path of the file.
        title: Heading of the figure.

    Raises:
        ArgumentError: If the matrix is not square, has a negative count, or does not fit the names.
        ImportError: If matplotlib is not installed.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_confusion_matrix([[9, 1], [2, 8]], ["dog", "rain"], f"{folder}/matrix.png")
    """
    _save(_confusion_matrix(matrix, names, title), path)


def draw_spectrogram(
    log_mel: npt.ArrayLike,
    path: PathLike | IO[bytes],
    frame_step_seconds: float = 0.01,
    title: str = "Log-mel spectrogram",
    mel_range_hz: tuple[float, float] | None = None,
    num_valid_frames: int | None = None,
) -> None:
    """Draws one log-mel spectrogram, time to the right and frequency upwards.

    Args:
        log_mel: Spectrogram `[frames, mel]`, natural logarithm of power, normalised or not.
        path: Path of the file, or a binary stream that receives a PNG.
        frame_step_seconds: Time between two frames.
        title: Heading of the figure. An empty one is left out.
        mel_range_hz: Lower and upper edge of the filterbank in Hz, for a frequency axis in Hz.
            None labels the axis by mel bins.
        num_valid_frames: Number of frames before the padding, whose start is marked by a dashed
            line. None draws no line.

    Raises:
        ArgumentError: If `log_mel` is not two-dimensional, is empty or is nowhere finite.
        ImportError: If matplotlib is not installed.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw_spectrogram(np.zeros((1024, 128)), f"{folder}/log_mel.png")
    """
    values = np.asarray(log_mel, np.float64)
    if values.ndim != 2 or not np.isfinite(values).any():
        raise ArgumentError(
            f"log_mel must be [frames, mel] with finite values. Received: shape={values.shape}"
        )
    figure = new_figure(9.0, 3.0, layout=None)  # fixed positions are drawn in half the time
    axes = figure.add_axes((0.08, 0.17, 0.80, 0.71))
    image = plot_spectrogram(axes, values, frame_step_seconds, mel_range_hz, num_valid_frames)
    figure.colorbar(image, cax=figure.add_axes((0.895, 0.17, 0.015, 0.71)), label="Log power")
    axes.set_title(title, fontweight="bold")
    axes.set_xlabel("Time (s)")
    _save(figure, path)


def plot_spectrogram(
    axes: "Axes",
    log_mel: FloatArray,
    frame_step_seconds: float,
    mel_range_hz: tuple[float, float] | None = None,
    num_valid_frames: int | None = None,
    **settings: Any,
) -> "AxesImage":
    """Plots a log-mel spectrogram, or another array of its shape, into matplotlib axes.

    Args:
        axes: The matplotlib axes.
        log_mel: Spectrogram `[frames, mel]`.
        frame_step_seconds: Time between two frames.
        mel_range_hz: Lower and upper edge of the filterbank in Hz, for a frequency axis in Hz.
            None labels the axis by mel bins.
        num_valid_frames: Number of frames before the padding, whose start is marked by a dashed
            line. None draws no line.
        **settings: Arguments of `Axes.imshow`. By default the colours span the first to the 99.9th
            percentile of the valid frames.

    Returns:
        The image, for a colour bar.
    """
    num_frames, num_bins = log_mel.shape
    valid = log_mel[:num_valid_frames] if num_valid_frames else log_mel
    low, high = np.nanpercentile(np.where(np.isfinite(valid), valid, math.nan), (1.0, 99.9))
    settings = {"cmap": "magma", "vmin": low, "vmax": max(high, low + 1e-6), **settings}
    seconds = num_frames * frame_step_seconds
    image = axes.imshow(
        log_mel.T,
        origin="lower",
        aspect="auto",
        extent=(0.0, seconds, 0.0, float(num_bins)),
        interpolation="none",
        **settings,
    )
    if num_valid_frames is not None and num_valid_frames < num_frames:
        start = num_valid_frames * frame_step_seconds
        axes.axvline(start, color="white", linestyle="--", linewidth=1.0)
    if mel_range_hz is None:
        axes.set_ylabel("Mel bin")
    else:
        axes.set_ylabel("Hz")
        ticks = _frequency_ticks(num_bins, mel_range_hz)
        axes.set_yticks([place for place, _ in ticks], [str(hertz) for _, hertz in ticks])
    return image


def _frequency_ticks(num_bins: int, mel_range_hz: tuple[float, float]) -> list[tuple[float, int]]:
    """Returns the place of each tick, in bins from the lower edge, and its frequency in Hz."""
    low, high = (float(mel) for mel in hertz_to_mel(mel_range_hz))
    spacing = (high - low) / (num_bins + 1)
    ticks = []
    above = math.inf
    for hertz in reversed(_TICKS_HZ):
        # The middle of a bin, half a bin above its edge, is where its filter peaks.
        place = (float(hertz_to_mel(hertz)) - low) / spacing - 0.5
        # The filterbank ends half a bin above the last one. Labels must not overlap.
        if 0 <= place <= num_bins + 0.51 and above - place > num_bins / 24:
            above = min(place, float(num_bins))
            ticks.append((above, hertz))
    return ticks[::-1]


def _learning_curves(rows: Sequence[Row], title: str) -> "Figure":
    if not rows or any(row.get("epoch") is None for row in rows):
        raise ArgumentError(
            f"rows must hold one mapping with `epoch` for each epoch. Received: {rows!r}"
        )
    panels: dict[str, dict[str, FloatArray]] = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "epoch"):
        values = _series(rows, key)
        panels.setdefault(_panel(key, values), {})[key] = values
    if not panels:
        raise ArgumentError(f"rows must hold a value to draw besides `epoch`. Received: {rows!r}")
    figure = new_figure(4.6 * len(panels), 3.8)
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
    longest: list[float] = max(epochs, key=len, default=[])
    if not all(epochs) or any(other != longest[: len(other)] for other in epochs) or not longest:
        raise ArgumentError(f"folds must start with the same epochs. Received: epochs={epochs}")
    lines = {
        f"fold {name}": _series([*rows, *[{}] * (len(longest) - len(rows))], metric)
        for name, rows in folds.items()
    }
    lines["mean"] = np.mean(list(lines.values()), axis=0)
    figure = new_figure(8.0, 4.2)
    axes = figure.add_subplot()
    _draw_lines(axes, np.array(longest), lines)
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
    outside = (values < 0) | (values > 1)  # False for NaN, a gap
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
    fractions = np.where(totals > 0, counts / np.maximum(totals, 1), math.nan)
    side = min(3.5 + 0.2 * len(names), 15.0) if len(names) > 20 else 3.5 + 0.3 * len(names)
    figure = new_figure(side + 0.9, side)
    from matplotlib.colors import PowerNorm  # after _new_figure, which explains its absence

    axes = figure.add_subplot()
    image = axes.imshow(fractions, cmap="Blues", norm=PowerNorm(0.5, vmin=0.0, vmax=1.0))
    figure.colorbar(image, ax=axes, label="Fraction of the true class", fraction=0.03, pad=0.02)
    axes.set_title(f"{title}  ({int(counts.sum()):,} examples)", fontweight="bold")
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    _name_classes(axes, names)
    if len(names) <= _MAX_CLASSES_WITH_COUNTS:
        _print_counts(axes, counts, fractions)
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
    if every == 1:  # lines between the cells connect a cell with its names
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.5)
        axes.tick_params(which="minor", length=0)


def _print_counts(axes: "Axes", counts: npt.NDArray[Any], fractions: FloatArray) -> None:
    for row, column in np.argwhere(counts > 0):
        color = "white" if fractions[row, column] > 0.3 else "black"
        text = f"{int(counts[row, column]):,}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)


def new_figure(
    width_inches: float, height_inches: float, layout: Literal["constrained"] | None = "constrained"
) -> "Figure":
    """Returns an empty matplotlib figure that needs no display.

    Args:
        width_inches: Width at 120 dots per inch.
        height_inches: Height at 120 dots per inch.
        layout: Layout engine; None for axes with fixed positions.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        # pyplot would keep global state and choose a display; a bare Figure does neither.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width_inches, height_inches), dpi=120, layout=layout)


def _save(figure: "Figure", path: PathLike | IO[bytes]) -> None:
    if not isinstance(path, str | os.PathLike):
        figure.savefig(path, format="png")
        return
    with replacing(path) as part:
        figure.savefig(part)

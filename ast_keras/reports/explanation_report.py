"""Pictures and page of an explanation: where in a sound the evidence for a class is."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.encoding import flac_bytes
from ast_keras.errors import ArgumentError
from ast_keras.files import write_text
from ast_keras.reports import figures, html
from ast_keras.reports.sound import Sound

__all__ = ["Sound", "evidence_picture", "smoothed", "write_evidence_page"]

Array = npt.NDArray[Any]

# Position of the axes as fractions of the picture's width; the page's cursor uses them as well.
_LEFT, _WIDTH = 0.08, 0.90


def evidence_picture(sound: Sound, evidence: Array, title: str) -> bytes:
    """Returns a PNG with waveform, spectrogram and evidence on one time axis.

    Evidence with negative values is drawn in red (for the class) and blue (against it).

    Args:
        sound: The sound that was classified.
        evidence: Evidence for a class `[frames, mel]`, with the shape of `sound.log_mel`.
        title: Heading of the picture.

    Raises:
        ArgumentError: If evidence and spectrogram differ in shape.
        ImportError: If matplotlib is not installed.
    """
    if evidence.shape != sound.log_mel.shape:
        raise ArgumentError(
            "evidence and sound.log_mel must have the same shape. "
            f"Received: evidence.shape={evidence.shape}, log_mel.shape={sound.log_mel.shape}"
        )
    figure = figures.new_figure(10.0, 6.4, layout=None)
    figure.suptitle(title, fontweight="bold", x=_LEFT, ha="left")
    wave = figure.add_axes((_LEFT, 0.77, _WIDTH, 0.14))
    wave.plot(*_envelope(sound.waveform, sound.sample_rate), color="#0072B2", linewidth=0.6)
    wave.set_ylabel("Waveform")
    upper = figure.add_axes((_LEFT, 0.43, _WIDTH, 0.31))
    lower = figure.add_axes((_LEFT, 0.09, _WIDTH, 0.31))
    scale = sound.frame_step_seconds, sound.mel_range_hz
    figures.plot_spectrogram(upper, sound.log_mel, *scale)
    figures.plot_spectrogram(lower, sound.log_mel, *scale, cmap="gray")
    peak = float(np.abs(evidence).max()) or 1.0
    signed = bool((evidence < 0).any())
    strength = np.clip(np.abs(evidence) / peak, 0, 1) ** 0.7
    figures.plot_spectrogram(
        lower,
        evidence,
        *scale,
        cmap="seismic" if signed else "inferno",
        vmin=-peak if signed else 0.0,
        vmax=peak,
        alpha=0.85 * strength.T,
    )
    lower.set_xlabel("Time (s)")
    for axes in (wave, upper):
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    for axes in (wave, upper, lower):
        axes.set_xlim(0, sound.seconds)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def smoothed(values: Array, width: int) -> Array:
    """Returns the mean over a square around each value, with zeros outside the array.

    Args:
        values: Array `[frames, mel]`.
        width: Side of the square, an odd number.

    Example:

    >>> (9 * smoothed(np.eye(3, dtype="float32"), 3)[1]).round().tolist()
    [2.0, 3.0, 2.0]
    """
    padded = np.pad(values, width // 2)
    squares = np.lib.stride_tricks.sliding_window_view(padded, (width, width))
    means: Array = squares.mean(axis=(2, 3), dtype=np.float32)
    return means


def _envelope(waveform: Array, sample_rate: int) -> tuple[Array, Array]:
    """Returns times and values to draw: minimum and maximum of each of about 4000 parts."""
    step = max(1, len(waveform) // 4000)
    parts = waveform[: len(waveform) // step * step].reshape(-1, step)
    values = np.stack([parts.min(axis=1), parts.max(axis=1)], axis=1).ravel()
    return np.repeat(np.arange(len(parts)) * step / sample_rate, 2), values


def write_evidence_page(
    sound: Sound,
    pictures: Sequence[tuple[str, bytes]],
    scores: Sequence[tuple[str, float]],
    method: str,
    path: str | os.PathLike[str],
) -> None:
    """Writes a self-contained page with the sound, its scores and the pictures.

    A cursor moves over the pictures while the sound plays; a click on a picture plays from there.

    Args:
        sound: The sound that was classified.
        pictures: Title and PNG for each class, from `evidence_picture`.
        scores: The most likely classes with their scores.
        method: One sentence that describes the evidence.
        path: Path of the HTML file.
    """
    page = html.render(
        "explanation_report.html",
        title=sound.name,
        sound=sound,
        method=method,
        scores=html.Table(["class", "score"], scores, bars=["score"]),
        flac=flac_bytes(sound.waveform, sound.sample_rate),
        pictures=pictures,
        left=_LEFT,
        width=_WIDTH,
    )
    write_text(path, page)

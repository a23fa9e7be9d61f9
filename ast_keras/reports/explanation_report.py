"""Evidence for a class over a sound, to look at and to listen to: pictures and a page."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.mel import hertz_to_mel
from ast_keras.errors import ArgumentError
from ast_keras.files import write_text
from ast_keras.reports import html
from ast_keras.reports.worst_mistakes import encode_flac

Array = npt.NDArray[Any]

# Where the axes lie in a picture, as shares of it: the page's cursor moves along them.
_LEFT, _WIDTH = 0.08, 0.90
_HERTZ = (100, 300, 1000, 3000, 8000)
_CURSOR = """
<script>
const player = document.querySelector("audio");
const lines = [...document.querySelectorAll(".cursor")];
function follow() {
  for (const line of lines) {
    const share = Math.min(player.currentTime / Number(line.dataset.seconds), 1);
    line.style.left = 100 * (Number(line.dataset.left) + Number(line.dataset.width) * share) + "%";
  }
  requestAnimationFrame(follow);
}
if (player) {
  follow();
  for (const line of lines) {
    line.parentElement.addEventListener("click", (event) => {
      const box = line.parentElement.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width - Number(line.dataset.left);
      const seconds = share / Number(line.dataset.width) * Number(line.dataset.seconds);
      player.currentTime = Math.max(0, Math.min(seconds, player.duration || 0));
    });
  }
}
</script>
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """A sound as a model hears it.

    Args:
      name: Of the sound.
      waveform: float32 `[samples]`.
      sample_rate: In Hz.
      log_mel: `[frames, mel]`, natural logarithm of power.
      frame_step_seconds: Time between two frames.
      mel_range_hz: Edges of the filterbank.
    """

    name: str
    waveform: Array
    sample_rate: int
    log_mel: Array
    frame_step_seconds: float
    mel_range_hz: tuple[float, float]

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.waveform) / self.sample_rate


def evidence_picture(sound: Sound, evidence: Array, title: str) -> bytes:
    """Returns a PNG: waveform, spectrogram, and the evidence over it, on one axis of time.

    Where evidence may speak against a class, too, what does is blue; red speaks for it.

    Args:
      sound: What was heard.
      evidence: `[frames, mel]`, of the frames of `sound.log_mel`.
      title: Heading.

    Raises:
      ValueError: If evidence and spectrogram differ in shape.
      ImportError: If matplotlib is not installed.
    """
    if evidence.shape != sound.log_mel.shape:
        raise ArgumentError(
            "Evidence and spectrogram must be of one shape. "
            f"Received: {evidence.shape}, {sound.log_mel.shape}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(10.0, 6.4), dpi=120)
    figure.suptitle(title, fontweight="bold", x=_LEFT, ha="left")
    wave = figure.add_axes((_LEFT, 0.77, _WIDTH, 0.14))
    wave.plot(*_envelope(sound.waveform, sound.sample_rate), color="#0072B2", linewidth=0.6)
    wave.set_ylabel("Waveform")
    spectrum = figure.add_axes((_LEFT, 0.43, _WIDTH, 0.31))
    _show(spectrum, sound, sound.log_mel, cmap="magma")
    below = figure.add_axes((_LEFT, 0.09, _WIDTH, 0.31))
    _show(below, sound, sound.log_mel, cmap="gray")
    peak = float(np.abs(evidence).max()) or 1.0
    signed = bool((evidence < 0).any())
    strength = np.clip(np.abs(evidence) / peak, 0, 1) ** 0.7
    _show(
        below, sound, evidence, cmap="seismic" if signed else "inferno",
        vmin=-peak if signed else 0.0, vmax=peak, alpha=0.85 * strength.T,
    )  # fmt: skip
    below.set_xlabel("Time (s)")
    for axes in (wave, spectrum):
        axes.tick_params(labelbottom=False)
    for axes in (wave, spectrum, below):
        axes.set_xlim(0, sound.seconds)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def smoothed(values: Array, width: int) -> Array:
    """Returns the mean over a square of so many frames and bins, an odd number, about each.

    Example:

    >>> (9 * smoothed(np.eye(3, dtype="float32"), 3)[1]).round().tolist()
    [2.0, 3.0, 2.0]
    """
    around = np.pad(values, width // 2)
    squares = np.lib.stride_tricks.sliding_window_view(around, (width, width))
    means: Array = squares.mean(axis=(2, 3), dtype=np.float32)
    return means


def _envelope(waveform: Array, sample_rate: int) -> tuple[Array, Array]:
    """Returns times and values to draw: the extremes of many samples are enough for a pixel."""
    step = max(1, len(waveform) // 4000)
    parts = waveform[: len(waveform) // step * step].reshape(-1, step)
    values = np.stack([parts.min(axis=1), parts.max(axis=1)], axis=1).ravel()
    return np.repeat(np.arange(len(parts)) * step / sample_rate, 2), values


def _show(axes: Any, sound: Sound, values: Array, **settings: Any) -> None:
    frames, bins = values.shape
    extent = (0.0, frames * sound.frame_step_seconds, 0.0, float(bins))
    axes.imshow(
        values.T, origin="lower", aspect="auto", extent=extent, interpolation="none", **settings
    )
    low, high = hertz_to_mel(sound.mel_range_hz)
    places = [(hertz, (float(hertz_to_mel(hertz)) - low) / (high - low) * bins) for hertz in _HERTZ]
    shown = [(hertz, place) for hertz, place in places if 0 <= place <= bins]
    axes.set_yticks([place for _, place in shown], [f"{hertz}" for hertz, _ in shown])
    axes.set_ylabel("Hz")


def write_evidence_page(
    sound: Sound,
    pictures: Sequence[tuple[str, bytes]],
    scores: Sequence[tuple[str, float]],
    method: str,
    path: str | os.PathLike[str],
) -> None:
    """Writes a page with the sound to play and a cursor that moves over the pictures.

    Everything is in the one file; a click on a picture plays from there.

    Args:
      sound: What was heard.
      pictures: Title and PNG of each class, from `evidence_picture`.
      scores: The most likely classes with their scores.
      method: What the evidence is, in a sentence.
      path: File to write.
    """
    parts = [
        html.paragraph(f"{sound.seconds:.2f} s, heard at {sound.sample_rate} Hz. {method}"),
        html.table(["class", "score"], scores, bars=["score"]),
        html.player(encode_flac(sound.waveform, sound.sample_rate), sound.name),
    ]
    for title, png in pictures:
        line = (
            f'<i class="cursor" data-seconds="{sound.seconds}" data-left="{_LEFT}" '
            f'data-width="{_WIDTH}" style="position:absolute;top:8%;bottom:8%;width:2px;'
            f'left:{100 * _LEFT}%;background:#d00;pointer-events:none"></i>'
        )
        box = f'<div style="position:relative">{html.picture(png, title)}{line}</div>'
        parts.append(html.section(title, box))
    write_text(path, html.page(sound.name, [*parts, _CURSOR]))

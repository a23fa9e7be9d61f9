"""Pieces of a self-contained HTML page: tables that sort, pictures, players, spectrograms.

Everything is inside the file. The page's own policy forbids the browser to fetch anything, and
whatever comes from data (labels, file names) is escaped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.mel import hertz_to_mel

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --bar: #3b9bdc88 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: .2rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { margin: 0 0 .3rem; font-size: 1rem; font-weight: 600 }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none }
.figures li { background: var(--soft); border-radius: .5rem; padding: .5rem 1rem }
.figures strong { display: block; font-size: 1.6rem }
.wide { overflow-x: auto; max-height: 40rem } img { max-width: 100%; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; font-weight: normal }
thead th { position: sticky; top: 0; background: Canvas; font-weight: 600 !important }
th button { all: unset; cursor: pointer } th button:focus-visible { outline: 2px solid }
[aria-sort=ascending] button::after { content: " \\25b2" }
[aria-sort=descending] button::after { content: " \\25bc" }
td .bar { display: inline-block; height: .8em; width: 6rem; margin-right: .6rem; background:
  linear-gradient(to right, var(--bar) var(--share), var(--soft) var(--share)) }
article { margin: 1.2rem 0; padding: .8rem; background: var(--soft); border-radius: .5rem }
article p { margin: 0 0 .4rem; overflow-wrap: anywhere } audio { width: 100%; margin-top: .4rem }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: currentColor }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft) }
pre { padding: .8rem; border-radius: .5rem }
"""
# Headings become buttons; what has no number is last in either direction.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.value;
      const text = row => row.cells[column].textContent;
      body.append(...[...body.rows].sort((a, b) =>
        value(a) === undefined && value(b) === undefined
          ? (column ? 0 : up * text(a).localeCompare(text(b)))
          : (value(a) === undefined) - (value(b) === undefined) || up * (value(a) - value(b))));
    });
  });
}
"""
_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)

Cell = str | int | float | None


def page(title: str, parts: Iterable[str]) -> str:
    """Returns a whole HTML page with a heading and the parts below it."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(part for part in parts if part) + "\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Returns a section of a page with its heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def article(title: str, *parts: str) -> str:
    """Returns a part of a section that stands for itself, with its heading."""
    return f"<article>\n<h3>{escape(title)}</h3>\n" + "\n".join(parts) + "\n</article>"


def paragraph(text: str) -> str:
    """Returns a paragraph of plain text.

    Example:

    >>> paragraph("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"


def figures(numbers: Iterable[tuple[str, str]]) -> str:
    """Returns headline numbers, each with what it is."""
    items = (f"<li><strong>{escape(n)}</strong>{escape(name)}</li>\n" for name, n in numbers)
    return f'<ul class="figures">\n{"".join(items)}</ul>'


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    sortable: bool = False,
    bars: Sequence[str] = (),
) -> str:
    """Returns a table; numbers have four digits, and a bar in the columns that are named so.

    Args:
      columns: The headings.
      rows: Cells: text, whole numbers, scores, or None for what does not exist.
      sortable: Whether a click on a heading sorts the rows.
      bars: Columns of shares between 0 and 1.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = []
    for row in rows:
        cells = (_cell(v, c in bars) for v, c in zip(row, columns, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>\n")
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="wide" tabindex="0">\n<table{kind}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n</div>"
    )


def _cell(value: Cell, bar: bool) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    if value is None or not math.isfinite(value):
        return "<td>-</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    share = f'<span class="bar" style="--share: {100 * value:.1f}%"></span>' if bar else ""
    return f'<td data-value="{value!r}">{share}{text}</td>'


def folded(summary: str, content: str) -> str:
    """Returns content that a click on its summary shows."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{content}\n</details>"


def code(text: str) -> str:
    """Returns text to be copied."""
    return f"<pre><code>{escape(text)}</code></pre>"


def links(targets: Iterable[tuple[str, str]]) -> str:
    """Returns a list of links to files beside the page: their paths and what to call them."""
    items = (f'<li><a href="{escape(path)}">{escape(name)}</a></li>\n' for path, name in targets)
    return f"<ul>\n{''.join(items)}</ul>"


def picture(png: bytes, alternative: str) -> str:
    """Returns a PNG inside the page, with the words that stand for it."""
    return f'<img src="{_data("image/png", png)}" alt="{escape(alternative)}">'


def player(flac: bytes, name: str) -> str:
    """Returns a player of a FLAC file inside the page; nothing if there is no sound."""
    if not flac:
        return paragraph("No sound: the file is empty.")
    label = escape(f"Sound of {name}")
    return f'<audio controls src="{_data("audio/flac", flac)}" aria-label="{label}"></audio>'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def spectrogram(
    log_mel: npt.NDArray[Any],
    num_valid_frames: int,
    *,
    name: str,
    frame_step_seconds: float,
    f_min_hz: float,
    f_max_hz: float,
) -> str:
    """Returns a log-mel spectrogram with its axes, one pixel for each frame and bin.

    Args:
      log_mel: `[frames, mel]`, natural logarithm of power.
      num_heard: Frames before the padding, which sets in at a dashed line.
      name: Of the sound.
      frame_step_seconds: Time between two frames.
      f_min_hz: Lower edge of the filterbank, on Kaldi's mel scale.
      f_max_hz: Upper edge of the filterbank.
    """
    frames, bins = log_mel.shape
    left, top, width, height = 64, 6, 800, 180
    png, low, high = _coloured(log_mel, num_valid_frames)
    lines = []
    for seconds in _ticks(frames * frame_step_seconds):
        x = left + width * seconds / (frames * frame_step_seconds)
        lines.append(_tick(x, top + height + 18, f"{seconds:g}", "middle", (0, -17)))
    mels = hertz_to_mel([f_min_hz, f_max_hz])
    spacing = float(mels[1] - mels[0]) / (bins + 1)
    for hertz in (100, 300, 1000, 2000, 4000, 8000, 16000):
        # A bin's pixel is centred where its filter peaks.
        place = (float(hertz_to_mel(hertz) - mels[0]) / spacing - 0.5) / bins
        if 0 <= place <= 1 + 0.51 / bins:  # the filterbank's end lies half a pixel outside
            y = top + height * (1 - min(place, 1.0))
            lines.append(_tick(left - 6, y + 4, f"{hertz}", "end", (2, -4)))
    if num_valid_frames < frames:
        x = left + width * num_valid_frames / frames
        lines.append(
            f'<path d="M{x:.1f} {top}v{height}" stroke="#fff" stroke-dasharray="4"></path>'
        )
    text = (
        f"{name}: log-mel spectrogram, {num_valid_frames * frame_step_seconds:.2f} s of sound in "
        f"{frames * frame_step_seconds:.2f} s; colours from {low:.1f} to {high:.1f} (log power)"
    )
    return (
        f'<svg viewBox="0 0 {left + width + 12} {top + height + 38}" role="img">\n'
        f"<title>{escape(text)}</title>\n"
        f'<image x="{left}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="{_data("image/png", png)}"></image>\n{"".join(lines)}'
        f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">seconds</text>'
        f'<text x="12" y="{top + height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + height / 2})">Hz</text>\n</svg>'
    )


def _tick(x: float, y: float, text: str, anchor: str, dash: tuple[int, int]) -> str:
    across = "h4" if dash[0] else "v4"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
        f'<path d="M{x + dash[0]:.1f} {y + dash[1]:.1f}{across}" stroke="currentColor"></path>\n'
    )


def _ticks(seconds: float) -> list[float]:
    step = next((s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if seconds / s <= 11), 10.0)
    return [round(step * i, 1) for i in range(int(seconds / step + 1e-6) + 1)]


def _coloured(log_mel: npt.NDArray[Any], num_valid_frames: int) -> tuple[bytes, float, float]:
    """Returns a PNG of a pixel for each value, time to the right, and the range of its colours."""
    from matplotlib import colormaps  # the pages need no figures otherwise
    from PIL import Image

    frames, bins = log_mel.shape
    heard = log_mel[:num_valid_frames] if num_valid_frames else log_mel
    low, high = np.percentile(heard, (1.0, 99.9))
    levels = np.clip((log_mel.T[::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
    pixels = np.round(255 * levels).astype(np.uint8)
    image = Image.frombytes("P", (frames, bins), pixels.tobytes())
    colors = (255 * colormaps["magma"](np.arange(256))[:, :3]).round().astype(np.uint8)
    image.putpalette(colors.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue(), float(low), float(high)

"""What a person sees while a model trains."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_EVERY_SECONDS = 5.0


class Progress:
    """Writes a line for each epoch, and between them where the training is and how long it takes.

    On a terminal the line between epochs is written over; in a log there is one every few seconds.

    Args:
      stream: Where to write; None for standard output.
      quiet: Whether to write nothing.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._quiet = quiet

    def start(
        self,
        name: str,
        sizes: str,
        first_step: int,
        last_step: int,
        steps_per_epoch: int,
        batch_size: int,
        metric: str,
    ) -> None:
        """Says what will be trained, and remembers the lengths for the time left."""
        self._started_at, self._first_step = time.monotonic(), first_step
        self._last_step, self._steps_per_epoch = last_step, steps_per_epoch
        self._batch_size, self._metric = batch_size, metric
        self._shown_at = 0.0  # the first step is shown, however soon it follows another run
        self._line(f"{name}: {sizes}")

    def resumed(self, path: str, step: int) -> None:
        """Says from where a stopped run goes on."""
        self._line(f"going on at step {step}, from {path}")

    def update(self, step: int, loss: float, learning_rate: float) -> None:
        """Shows a step, at most every few seconds."""
        now = time.monotonic()
        if now - self._shown_at < _EVERY_SECONDS:
            return
        self._shown_at = now
        epoch, in_epoch = divmod(step - 1, self._steps_per_epoch)
        done, elapsed = step - self._first_step, now - self._started_at
        self._line(
            f"epoch {epoch + 1:3d}/{self._last_step // self._steps_per_epoch}"
            f"  step {in_epoch + 1}/{self._steps_per_epoch}"
            f"  loss {loss:.4f}  rate {learning_rate:.2e}"
            f"  {done * self._batch_size / elapsed:.1f} examples/s"
            f"  {_clock(elapsed / done * (self._last_step - step))} left",
            passing=True,
        )

    def epoch(self, row: dict[str, float], best: dict[str, float]) -> None:
        """Shows a finished epoch."""
        mark = "  *best" if best is row else ""
        self._line(
            f"epoch {row['epoch']:3d}/{self._last_step // self._steps_per_epoch}"
            f"  loss {row['train_loss']:.4f}  rate {row['learning_rate']:.2e}"
            f"  {self._metric} {row[self._metric]:.4f}{mark}"
        )

    def say(self, text: str) -> None:
        """Shows a line of the run's own."""
        self._line(text)

    def _line(self, text: str, passing: bool = False) -> None:
        if self._quiet:
            return
        if self._stream.isatty():
            text = f"\r\033[K{text}" + ("" if passing else "\n")
        else:
            text += "\n"
        self._stream.write(text)
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"

"""Progress of a training run on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import tqdm

from ast_keras.progress import LOG_SECONDS


class Progress:
    """Prints a line for each epoch and, during an epoch, the current step and the time left.

    On a terminal the current step is a bar that is updated in place. In a log it is a line every
    ten seconds.

    Args:
        stream: Where to write. None for standard output.
        quiet: Whether to write nothing.

    Example:

    >>> progress = Progress()
    >>> progress.start("esc10", num_epochs=2, steps_per_epoch=4, batch_size=16)
    esc10
    >>> progress.epoch({"epoch": 1, "train_loss": 1.5, "learning_rate": 1e-3, "accuracy": 0.7},
    ...                metric="accuracy", is_best=True)
    epoch   1/2  loss 1.5000  rate 1.00e-03  accuracy 0.7000  *best
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._quiet = quiet
        self._bar: Any = None

    def start(
        self,
        headline: str,
        *,
        num_epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        first_step: int = 0,
    ) -> None:
        """Prints what is trained, and starts the clock.

        Args:
            headline: Description of the run.
            num_epochs: Number of epochs of the run.
            steps_per_epoch: Number of steps in an epoch.
            batch_size: Number of examples in a step.
            first_step: Number of steps that were trained before, for a resumed run.
        """
        self.stop()
        self.log(headline)
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch
        self._batch_size, self._first_step = batch_size, first_step
        self._last_step = num_epochs * steps_per_epoch
        self._started_at = time.monotonic()
        self._logged_at = 0.0  # the first step is always shown
        if self._stream.isatty() and not self._quiet:
            self._bar = tqdm.tqdm(
                file=self._stream,
                total=self._last_step,
                initial=first_step,
                leave=False,
                dynamic_ncols=True,
                bar_format="{desc} {bar} {remaining} left",
            )

    def stop(self) -> None:
        """Removes the bar from a terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def resumed(self, path: str, step: int) -> None:
        """Prints where a stopped run continues.

        Args:
            path: The checkpoint that was restored.
            step: Number of steps trained so far.
        """
        self.log(f"going on at step {step}, from {path}")

    def update(self, step: int, loss: float, learning_rate: float) -> None:
        """Shows the current step.

        Args:
            step: Number of steps trained so far.
            loss: Mean training loss of the epoch so far.
            learning_rate: Learning rate of the last step.
        """
        now = time.monotonic()
        if self._quiet or (self._bar is None and now - self._logged_at < LOG_SECONDS):
            return
        self._logged_at = now
        epoch, in_epoch = divmod(step - 1, self._steps_per_epoch)
        done, elapsed = step - self._first_step, now - self._started_at
        text = (
            f"epoch {epoch + 1:3d}/{self._num_epochs}"
            f"  step {in_epoch + 1}/{self._steps_per_epoch}"
            f"  loss {loss:.4f}  rate {learning_rate:.2e}"
            f"  {done * self._batch_size / elapsed:.1f} examples/s"
        )
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            left = tqdm.tqdm.format_interval(elapsed / done * (self._last_step - step))
            self.log(f"{text}  {left} left")

    def epoch(self, row: Mapping[str, float], *, metric: str, is_best: bool) -> None:
        """Prints the result of an epoch.

        Args:
            row: The epoch's number, training loss, learning rate and scores.
            metric: Name of the score to print.
            is_best: Whether this is the best epoch so far.
        """
        mark = "  *best" if is_best else ""
        self.log(
            f"epoch {row['epoch']:3d}/{self._num_epochs}"
            f"  loss {row['train_loss']:.4f}  rate {row['learning_rate']:.2e}"
            f"  {metric} {row[metric]:.4f}{mark}"
        )

    def log(self, text: str) -> None:
        """Prints a line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)  # above the bar
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

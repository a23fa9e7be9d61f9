"""Progress of a long task on standard error: a bar on a terminal, a line every 10 s in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

import tqdm

LOG_SECONDS = 10.0  # between two lines of a log


class ProgressBar:
    """Shows how much of a task is done, the time left and the speed, on standard error.

    On a terminal this is a bar. Where standard error is a file or a
    pipe, it is a line every ten seconds; a shorter task writes nothing.

    Args:
        total: Size of the task in units; None if it is unknown.
        unit: Name of the unit, for example " sounds" or "B".
        initial: How much was done before.
        unit_scale: Whether to print large numbers with a prefix such as k or M.
        delay_seconds: Time until the bar appears on a terminal, in seconds.
        leave: Whether the finished bar stays on the terminal.
        quiet: Whether to show nothing.

    Example:

    >>> with ProgressBar(total=2, unit=" files") as bar:
    ...     bar.update()
    ...     bar.update(text="b.wav")
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        initial: int = 0,
        unit_scale: bool = False,
        delay_seconds: float = 0.0,
        leave: bool = False,
        quiet: bool = False,
    ) -> None:
        self._settings = {
            "total": total, "unit": unit, "initial": initial, "unit_scale": unit_scale
        }  # fmt: skip
        self._count = initial
        self._delay_seconds, self._leave, self._quiet = delay_seconds, leave, quiet
        self._began = self._logged_at = time.monotonic()
        # The bar is created when it is first displayed: tqdm redraws every bar that exists.
        self._bar: Any = None
        self.update(0)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, count: int = 1, text: str = "") -> None:
        """Adds to what is done.

        Args:
            count: Number of units.
            text: Description of the current position.
        """
        self._count += count
        now = time.monotonic()
        elapsed = now - self._began
        if self._quiet:
            return
        if not sys.stderr.isatty():
            if now - self._logged_at >= LOG_SECONDS:
                self._logged_at = now
                line = tqdm.tqdm.format_meter(
                    self._count, elapsed=elapsed, ncols=0, postfix=text, **self._settings
                )
                print(line.strip(), file=sys.stderr, flush=True)
            return
        if self._bar is None and elapsed >= self._delay_seconds:
            self._bar = tqdm.tqdm(
                **(self._settings | {"initial": self._count}),
                miniters=0, leave=self._leave, dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip
            # The time left and the speed count from the beginning of the task.
            self._bar.initial = self._settings["initial"]
            self._bar.start_t -= elapsed
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._count - self._bar.n)

    def close(self) -> None:
        """Removes the bar from the terminal unless it should stay."""
        if self._bar is not None:
            self._bar.close()


def print_line(text: str) -> None:
    """Prints a line on standard error, above the bar if one is displayed.

    Args:
        text: The line.
    """
    tqdm.tqdm.write(text, file=sys.stderr)

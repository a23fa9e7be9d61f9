"""Progress of a batch command on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

_DELAY_SECONDS = 5.0  # short commands show no progress
_LOG_SECONDS = 10.0  # between two lines if standard error is not a terminal


class FileProgress:
    """Shows how many files are finished, the current position, and the speed.

    Args:
        num_files: Number of files to process.
        sample_rate: Rate in Hz of the samples that `watch` sees.
    """

    def __init__(self, num_files: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._began, self._finished_seconds = time.monotonic(), 0.0
        self._bar = tqdm.tqdm(
            total=num_files,
            unit="file",
            delay=_DELAY_SECONDS,
            mininterval=0.5 if sys.stderr.isatty() else _LOG_SECONDS,
            miniters=0,
            leave=False,
            file=sys.stderr,
        )

    def watch(self, path: str, segments: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yields the segments of a file, and shows the position in it.

        Args:
            path: Path of the file.
            segments: Index of the first sample and samples of each segment.
        """
        seconds = 0.0
        for start, samples in segments:
            yield start, samples
            seconds = (start + len(samples)) / self.sample_rate
            speed = (self._finished_seconds + seconds) / (time.monotonic() - self._began)
            text = f"{path} at {seconds:.0f} s; {speed:.0f} times real time"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(0)
        self._finished_seconds += seconds

    def finish_file(self) -> None:
        """Counts a file as finished."""
        self._bar.update(1)

    def close(self) -> None:
        """Removes the progress bar."""
        self._bar.close()


def print_error(error: Exception) -> None:
    """Prints an error as one line on standard error, without breaking a progress bar."""
    tqdm.tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)

"""Progress of a batch command on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from ast_keras.progress import ProgressBar, print_line

_DELAY_SECONDS = 5.0  # short commands show no progress


class FileProgress:
    """Shows how many files are finished, the current position, and the speed.

    Args:
        num_files: Number of files to process.
        sample_rate: Rate in Hz of the samples that `watch` sees.
    """

    def __init__(self, num_files: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._began, self._finished_seconds = time.monotonic(), 0.0
        self._bar = ProgressBar(num_files, " files", delay_seconds=_DELAY_SECONDS)

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
            self._bar.update(0, text)
        self._finished_seconds += seconds

    def finish_file(self) -> None:
        """Counts a file as finished, whether it was processed or could not be."""
        self._bar.update()

    def close(self) -> None:
        """Removes the progress bar."""
        self._bar.close()


def print_error(error: Exception) -> None:
    """Prints an error as one line on standard error, above the bar if one is displayed."""
    print_line(f"error: {' '.join(str(error).split())}")

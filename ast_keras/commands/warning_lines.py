"""Warnings and log messages of a command: one line each, without the line of source."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging

from ast_keras.progress import print_line


@contextlib.contextmanager
def warning_lines() -> Iterator[None]:
    """Prints warnings and log messages as single lines on standard error inside the block.

    A line that was printed before is not repeated: a file is read in every epoch. `FutureWarning`s
    are left out, as Python does with `DeprecationWarning`s: they address the developers of a
    library. The options and the environment variable of Python that choose warnings are respected.

    Example:

    >>> with warning_lines():
    ...     warnings.warn("dog.wav is cut short")
    """
    handler, absl_logger = _LineHandler(), absl_logging.get_absl_logger()
    propagates, printed = absl_logger.propagate, set[str]()

    def show(message: Any, *args: Any, **kwargs: Any) -> None:
        line = f"warning: {_one_line(message)}"
        if line not in printed:
            printed.add(line)
            print_line(line)

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = show
        absl_logger.addHandler(handler)
        absl_logger.propagate = False
        try:
            yield
        finally:
            absl_logger.propagate = propagates
            absl_logger.removeHandler(handler)


class _LineHandler(logging.Handler):
    """Prints log records without time, process and place, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(_one_line(record.getMessage()))


def _one_line(message: object) -> str:
    return " ".join(str(message).split())

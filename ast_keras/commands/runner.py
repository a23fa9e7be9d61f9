"""What the command lines share: a mistake of the user ends in one line, not in a traceback."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import logging

_LINGER_SECONDS = 2.0
_EXTRAS = ("matplotlib", "official", "orbit")
PACKAGE = str(pathlib.Path(__file__).resolve().parents[1])


class Interrupted(Exception):
    """Raised between two steps after SIGTERM or SIGINT asked to stop, when all is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Signals:
    """Remembers SIGTERM and SIGINT until the program is where it can stop without loss.

    Attributes:
      number: The signal that came last; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Remembers signals inside; asked a second time, the program stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return

        def remember(number: int, _: object) -> None:
            self.number = number
            signal.signal(number, old[signal.Signals(number)])

        old = {n: signal.signal(n, remember) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def run_command(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a command's main function and returns its exit status, 1 after an error.

    Errors that a user can mend (all of ours are ValueErrors, OSErrors or a `TrainingError`) are
    printed as one line on standard error; anything else is a defect and keeps its traceback.
    """
    # TensorFlow's and Orbit's notes would bury the command's own lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Read when TensorFlow is loaded. It is off on processors without AVX-512, where it helps most:
    # with it, memory is kept from one operation to the next instead of being cleared by the kernel.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.set_verbosity(logging.WARNING)
    try:
        return main(argv)
    except Interrupted as stop:
        print(f"Stopped by {stop}; saved. The same command goes on from there.")
        return 128 + stop.signal_number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(f"error: {error.name} is missing: pip install 'ast-keras[train]'", file=sys.stderr)
        return 1
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def leave(status: int) -> NoReturn:
    """Ends the process with this status; one of several workers (`TF_CONFIG`) without cleaning up.

    Python would delete TensorFlow's objects one by one, which takes seconds to minutes. Other
    workers meanwhile take this one for lost.
    """
    if "TF_CONFIG" not in os.environ:
        sys.exit(status)
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    if status != 1:
        # The others may still be receiving what this one said last, that all stop.
        time.sleep(_LINGER_SECONDS)
    os._exit(status)


def _is_users(error: BaseException) -> bool:
    if isinstance(error, OSError) or type(error).__module__.startswith("ast_keras."):
        return True
    # A ValueError of ours names a rule that an argument broke; one from elsewhere is a defect.
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and frames[-1].filename.startswith(PACKAGE)

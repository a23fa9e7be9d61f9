"""Stopping a run where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):
    """Raised between two steps after SIGTERM or SIGINT asked to stop, when all is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class SignalGuard:
    """Remembers SIGTERM and SIGINT until the program is where it can stop without loss.

    Attributes:
      number: The signal that came last; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
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

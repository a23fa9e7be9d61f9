"""Stopping at a safe point after SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):
    """Raised between two training steps after SIGTERM or SIGINT, once the state is saved.

    Args:
        signal_number: Number of the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class SignalGuard:
    """Records SIGTERM and SIGINT until the program reaches a point where it can stop.

    Attributes:
        number: Number of the last signal; 0 if none was received.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Records the first signal inside the block; a second one stops the program at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows only the main thread to install signal handlers
            return

        def record(number: int, _: object) -> None:
            self.number = number
            signal.signal(number, previous[signal.Signals(number)])

        previous = {n: signal.signal(n, record) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

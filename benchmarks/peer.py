"""Measured processes that answer requests, so that several can take turns.

A process is started with `python -m MODULE ARGUMENT...`, in this environment or in another one. It
calls `serve`, which answers each line of JSON on standard input with one line of JSON on standard
output. The first answer comes before any request, when the process is ready or has failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class PeerError(Exception):
    """Raised when the process of a peer cannot do what it was asked for; gives the reason."""


class Peer:
    """A process that answers requests.

    Args:
        python: Interpreter of the environment in which the process runs.
        module: Module that calls `serve` when it is run.
        *arguments: Command-line arguments of the module.
    """

    def __init__(self, python: str, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [python, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Waits for the first answer.

        Raises:
            PeerError: If the process could not prepare, for example because a package is missing.
        """
        self._answer()

    def ask(self, request: Any) -> Any:
        """Sends a request and returns the answer.

        Args:
            request: Anything that JSON can hold.

        Raises:
            PeerError: If the process failed.
        """
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["value"]


def serve(prepare: Callable[[], Callable[[Any], Any]]) -> None:
    """Answers the requests of a `Peer` until it closes.

    Args:
        prepare: Function that does the slow preparation, imports included, and returns the function
            from a request to its answer. An exception of either ends the process; the peer is told
            its message.
    """
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        handle = prepare()
        send(value="ready")
        for line in sys.stdin:
            send(value=handle(json.loads(line)))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        send(error=f"{type(error).__name__}: {reason}")

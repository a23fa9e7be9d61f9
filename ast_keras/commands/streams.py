"""Sources of a live stream: the microphone, or a file in real time."""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.blocks import sound_blocks
from ast_keras.errors import CommandError

Array = npt.NDArray[np.float32]

_PIECE_SECONDS = 0.1
_QUEUE_PIECES = 100  # microphone samples that wait while the model is busy: 10 s


def file_stream(path: str, rate: int, fast: bool) -> Iterator[Array]:
    """Yields the samples of a file in short pieces, in real time.

    Args:
        path: Path of the file.
        rate: Rate of the samples in Hz.
        fast: Whether to yield the pieces without delay instead.

    Raises:
        AudioError: If the file cannot be read.
    """
    num_samples, began = 0, time.monotonic()
    for piece in sound_blocks(path, rate, block_seconds=_PIECE_SECONDS):
        num_samples += len(piece)
        if not fast:
            time.sleep(max(0.0, num_samples / rate - (time.monotonic() - began)))
        yield piece


def microphone_stream(rate: int) -> Iterator[Array]:
    """Yields the samples of the microphone in short pieces, without end.

    Samples are lost, with a message on standard error, if they are not taken for ten seconds.

    Args:
        rate: Rate of the samples in Hz.

    Raises:
        CommandError: If sounddevice or PortAudio is not installed.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise CommandError(
            f"The microphone needs sounddevice: pip install sounddevice. Received: {error}"
        ) from None
    waiting: queue.Queue[Array] = queue.Queue(_QUEUE_PIECES)

    def enqueue(samples: Array, frames: int, clock: Any, status: Any) -> None:
        try:
            waiting.put_nowait(samples[:, 0].copy())
        except queue.Full:
            print("warning: the model is too slow: samples were lost", file=sys.stderr)

    size = round(_PIECE_SECONDS * rate)
    with sounddevice.InputStream(rate, size, channels=1, dtype="float32", callback=enqueue):
        print("Listening; Ctrl+C stops.", file=sys.stderr)
        while True:
            yield waiting.get()

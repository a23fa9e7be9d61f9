"""Hears a stream and names its sounds every hop: `python -m ast_keras.listen --model DIR`.

From the microphone, for which `pip install sounddevice`, or with `--file FILE` from a file, played
in its own time or, with `--fast`, as fast as it goes. A line for every result: its time, and the
classes whose score is at least `--threshold`, or the best one in brackets. Ctrl+C ends it.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import app, flags

from ast_keras.audio.blocks import sound_blocks
from ast_keras.commands.flags import show_audio_warnings
from ast_keras.commands.runner import run_command
from ast_keras.errors import CommandError
from ast_keras.training.interruption import SignalGuard

Array = npt.NDArray[np.float32]

_PIECE_SECONDS = 0.1
_WAITING_PIECES = 100  # that a slow model may lag behind the microphone


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if options.model is None or len(argv) > 1:
        raise CommandError("Say with what to listen: --model DIR, and --file FILE for a file")
    show_audio_warnings()
    from ast_keras.inference.streaming import StreamingClassifier
    from ast_keras.presets.loading import from_preset

    given = {} if options.padding is None else {"padding": options.padding}
    model = from_preset(options.model, **given)
    stream = StreamingClassifier(model, options.window_seconds, options.hop_seconds)
    rate = stream.sample_rate
    pieces = _file(options.file, rate, options.fast) if options.file else _microphone(rate)
    heard, signals = 0, SignalGuard()
    with signals.deferred():  # an exception in the midst of TensorFlow may be lost
        for piece in pieces:
            heard += len(piece)
            for result in stream.push(piece):
                _print(result, model)
            if signals.number:
                break
        for result in stream.flush():
            _print(result, model)
    print(f"Heard {heard / rate:.1f} s.", file=sys.stderr)
    return 0


def _print(result: Any, model: Any) -> None:
    options, names = flags.FLAGS, model.labels.names if model.labels else None
    order = np.argsort(-result.scores, kind="stable")[: options.top]
    words = [
        f"{result.scores[i]:.2f} {names[i] if names else f'class {i}'}"
        for i in order
        if result.scores[i] >= options.threshold
    ]
    best = order[0]
    line = ", ".join(words) or f"({result.scores[best]:.2f} {names[best] if names else best})"
    print(f"{result.start_seconds:9.1f} {result.end_seconds:9.1f}  {line}", flush=True)


def _file(path: str, rate: int, fast: bool) -> Iterator[Array]:
    """Yields a file's samples piece by piece, each when its time has come."""
    heard, began = 0, time.monotonic()
    for piece in sound_blocks(path, rate, block_seconds=_PIECE_SECONDS):
        heard += len(piece)
        if not fast:
            time.sleep(max(0.0, heard / rate - (time.monotonic() - began)))
        yield piece


def _microphone(rate: int) -> Iterator[Array]:
    """Yields what the microphone hears, piece by piece, without end."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise CommandError(
            f"The microphone needs sounddevice: pip install sounddevice. Received: {error}"
        ) from None
    waiting: queue.Queue[Array] = queue.Queue(_WAITING_PIECES)

    def remember(samples: Array, frames: int, clock: Any, status: Any) -> None:
        try:
            waiting.put_nowait(samples[:, 0].copy())
        except queue.Full:
            print("warning: the model is too slow: sound was lost", file=sys.stderr)

    size = round(_PIECE_SECONDS * rate)
    with sounddevice.InputStream(rate, size, channels=1, dtype="float32", callback=remember):
        print("Listening; Ctrl+C ends it.", file=sys.stderr)
        while True:
            yield waiting.get()


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("model", None, "Folder of a saved model (WORKDIR/model of a run).")
    flags.DEFINE_string("file", None, "Listen to this file instead of the microphone.")
    flags.DEFINE_bool("fast", False, "Do not wait for the file's own time.")
    flags.DEFINE_float("window_seconds", None, "Sound that a result is about.")
    flags.DEFINE_float("hop_seconds", None, "Time from one result to the next.")
    flags.DEFINE_enum("padding", None, ["original", "masked"], "Of the model; default: its own.")
    flags.DEFINE_float("threshold", 0.3, "Scores that are worth a line.")
    flags.DEFINE_integer("top", 3, "At most so many classes in a line.", lower_bound=1)
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

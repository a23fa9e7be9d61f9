"""Classifies a live stream: `python -m ast_keras.listen --model DIR`.

The stream is the microphone (`pip install sounddevice`) or, with `--file FILE`, a file that is read
in real time; `--fast` reads it as fast as the model allows. Every hop prints one line: start and
end in seconds, then the classes whose score is at least `--threshold`, or the best class in
parentheses. Ctrl+C ends the command.
"""

from __future__ import annotations

import dataclasses
import queue
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import flags

from ast_keras.audio.blocks import sound_blocks
from ast_keras.commands.flags import CommandOptions, flag, model_flag, padding_flag
from ast_keras.commands.inputs import load_model, show_audio_warnings
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError
from ast_keras.training.interruption import SignalGuard

Array = npt.NDArray[np.float32]

_PIECE_SECONDS = 0.1
_QUEUE_PIECES = 100  # microphone samples that wait while the model is busy: 10 s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Flags of the command."""

    usage = "python -m ast_keras.listen --model DIR [--file FILE]"
    model: str = model_flag()
    padding: str | None = padding_flag()
    file: str | None = flag(flags.DEFINE_string, None, "Sound file instead of the microphone.")
    fast: bool = flag(flags.DEFINE_bool, False, "Read the file faster than real time.")
    window_seconds: float | None = flag(
        flags.DEFINE_float, None, "Seconds that one result covers. Default: the model's length."
    )
    hop_seconds: float | None = flag(
        flags.DEFINE_float, None, "Seconds between results. Default: 1."
    )
    threshold: float = flag(flags.DEFINE_float, 0.3, "Lowest score that is printed.")
    top: int = flag(flags.DEFINE_integer, 3, "Most classes in a line.", lower_bound=1)


def main(options: Options) -> int:
    show_audio_warnings()
    from ast_keras.inference.streaming import StreamingClassifier

    model = load_model(options.model, options.padding)
    stream = StreamingClassifier(model, options.window_seconds, options.hop_seconds)
    rate = stream.sample_rate
    pieces = _file(options.file, rate, options.fast) if options.file else _microphone(rate)
    num_samples, signals = 0, SignalGuard()
    with signals.deferred():  # an exception raised inside TensorFlow's calls can get lost
        for piece in pieces:
            num_samples += len(piece)
            for result in stream.push(piece):
                _print(result, model, options)
            if signals.number:
                break
        for result in stream.flush():
            _print(result, model, options)
    print(f"Processed {num_samples / rate:.1f} s.", file=sys.stderr)
    return 0


def _print(result: Any, model: Any, options: Options) -> None:
    names = model.labels.names if model.labels else None
    order = np.argsort(-result.scores, kind="stable")[: options.top]
    entries = [
        f"{result.scores[i]:.2f} {names[i] if names else f'class {i}'}"
        for i in order
        if result.scores[i] >= options.threshold
    ]
    best = order[0]
    line = ", ".join(entries) or f"({result.scores[best]:.2f} {names[best] if names else best})"
    print(f"{result.start_seconds:9.1f} {result.end_seconds:9.1f}  {line}", flush=True)


def _file(path: str, rate: int, fast: bool) -> Iterator[Array]:
    """Yields the samples of a file in short pieces; in real time unless `fast`."""
    num_samples, began = 0, time.monotonic()
    for piece in sound_blocks(path, rate, block_seconds=_PIECE_SECONDS):
        num_samples += len(piece)
        if not fast:
            time.sleep(max(0.0, num_samples / rate - (time.monotonic() - began)))
        yield piece


def _microphone(rate: int) -> Iterator[Array]:
    """Yields the samples of the microphone in short pieces, without end."""
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


def run() -> None:
    """Runs the command; the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

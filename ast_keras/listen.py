"""Classifies a live stream: `python -m ast_keras.listen --model DIR`.

The stream is the microphone (`pip install sounddevice`) or, with `--file FILE`, a file that is read
in real time; `--fast` reads it as fast as the model allows. Every hop prints one line: start and
end in seconds, then the classes whose score is at least `--threshold` (by default the thresholds
stored with the model, or 0.3), or the best class in parentheses. Ctrl+C ends the command.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, model_flag, padding_flag
from ast_keras.commands.inputs import load_model, stored_thresholds
from ast_keras.commands.runner import run_app
from ast_keras.commands.streams import file_stream, microphone_stream
from ast_keras.training.interruption import SignalGuard


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
    threshold: float | None = flag(
        flags.DEFINE_float, None,
        "Lowest score that is printed. Default: the thresholds stored with the model, or 0.3.",
    )  # fmt: skip
    top: int = flag(flags.DEFINE_integer, 3, "Most classes in a line.", lower_bound=1)


def main(options: Options) -> int:
    from ast_keras.inference.streaming import StreamingClassifier

    model = load_model(options.model, options.padding)
    thresholds = stored_thresholds(model, options.threshold)
    if thresholds is None:
        thresholds = [0.3 if options.threshold is None else options.threshold] * model.num_classes
    stream = StreamingClassifier(model, options.window_seconds, options.hop_seconds)
    rate = stream.sample_rate
    if options.file:
        pieces = file_stream(options.file, rate, options.fast)
    else:
        pieces = microphone_stream(rate)
    num_samples, signals = 0, SignalGuard()
    with signals.deferred():  # an exception raised inside TensorFlow's calls can get lost
        for piece in pieces:
            num_samples += len(piece)
            for result in stream.push(piece):
                _print(result, model, thresholds, options.top)
            if signals.number:
                break
        for result in stream.flush():
            _print(result, model, thresholds, options.top)
    print(f"Processed {num_samples / rate:.1f} s.", file=sys.stderr)
    return 0


def _print(result: Any, model: Any, thresholds: list[float], top: int) -> None:
    names = model.labels.names if model.labels else None
    order = np.argsort(-result.scores, kind="stable")
    entries = [
        f"{result.scores[i]:.2f} {names[i] if names else f'class {i}'}"
        for i in order
        if result.scores[i] >= thresholds[i]
    ]
    best = order[0]
    line = (
        ", ".join(entries[:top]) or f"({result.scores[best]:.2f} {names[best] if names else best})"
    )
    print(f"{result.start_seconds:9.1f} {result.end_seconds:9.1f}  {line}", flush=True)


def run() -> None:
    """Runs the command; the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

"""Every TFLite format beside ONNX Runtime, in one run: `python -m export.benchmark`.

    python -m export.benchmark --peer_python OTHER/bin/python [--sizes ast_tiny,ast_base]

Random weights: time, memory and size do not depend on them. The agreement does: it says how far a
format is from the model's own answers, not what it costs a trained one. ONNX Runtime runs the
transformers port with the same weights, in float32 and with its dynamic int8, on spectrograms that
are made beforehand: our files hold the filterbank, and its time is in theirs. Every file runs in a
process of its own, and the files take turns. torch, transformers, onnx and onnxruntime need not be
in TensorFlow's environment: `--peer_python` names an interpreter that has them.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import ExportError
from ast_keras.files import write_json

FORMATS = ("none", "float16", "int8", "int4")
PEERS = ("onnx_float32", "onnx_int8")
_PEER = pathlib.Path(__file__).with_name("onnx_peer.py")


@dataclasses.dataclass
class Row:
    """One file: what it weighs, and what was measured in every round."""

    file: pathlib.Path
    seconds: list[float] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)
    agreement: float = math.nan
    error: float = math.nan

    def to_dict(self) -> dict[str, float | list[float]]:
        return {
            "size_mb": self.file.stat().st_size / 1e6,
            "seconds": statistics.median(self.seconds),
            "fastest": min(self.seconds),
            "slowest": max(self.seconds),
            "peak_memory_mb": max(self.memory) / 1e6,
            "agreement": self.agreement,
            "max_error": self.error,
        }


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise ExportError(f"Unexpected argument. Received: {argv[1]!r}")
    results = {}
    for size in flags.FLAGS.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure_size(size, pathlib.Path(scratch))
            results[size] = {name: row.to_dict() for name, row in rows.items()}
        print(table(size, results[size]), flush=True)
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, results)
    return 0


def measure_size(size: str, scratch: pathlib.Path) -> dict[str, Row]:
    """Makes all files of one size of model, and runs them in turns."""
    from ast_keras import export_weights, from_preset
    from ast_keras.export.reference_clips import comparison_clips, keras_scores
    from ast_keras.export.serving_module import default_num_samples

    model = from_preset(size, num_classes=527, score_activation="sigmoid")
    # Logits of a random head are almost equal; these differ as a trained one's do.
    model.head.kernel.assign(40 * model.head.kernel)
    clips, _ = comparison_clips(model, default_num_samples(model), num_clips=flags.FLAGS.clips)
    expected = keras_scores(model, clips)
    rows = {name: Row(write_tflite(model, name, scratch)) for name in FORMATS}
    spectrograms = scratch / "spectrograms.npy"
    np.save(spectrograms, np.concatenate([model.frontend(clip[None]) for clip in clips]))
    if flags.FLAGS.peer_python:
        export_weights(model, scratch / "transformers", to="transformers")
        del model
        ask_peer("make", scratch / "transformers", scratch)
        rows |= {name: Row(scratch / f"{name}.onnx") for name in PEERS}
    for _ in range(flags.FLAGS.rounds):
        for name, row in rows.items():
            run_once(name, row, clips, spectrograms, expected)
    return rows


def write_tflite(model, quantize, scratch):
    """Writes a file, whatever it loses: that is what is measured."""
    from ast_keras.export.acceptance import Tolerance
    from ast_keras.export.tflite import export_tflite

    file = scratch / f"{quantize}.tflite"
    export_tflite(
        model, file, quantize=quantize, num_clips=1, bounds=Tolerance(0.0, math.inf, math.inf)
    )
    return file


def run_once(name, row, clips, spectrograms, expected):
    from ast_keras.export.isolated_run import measure

    threads = flags.FLAGS.threads
    if name in PEERS:
        result = spectrograms.with_name("result.npz")
        ask_peer("run", row.file, spectrograms, result, threads)
        with np.load(result) as file:
            logits, seconds, memory = file["logits"], file["seconds"], int(file["peak"])
        scores = 1 / (1 + np.exp(-logits))
        row.seconds.append(float(np.median(seconds[1:])))
        row.memory.append(memory)
    else:
        measured = measure("tflite", row.file, clips, threads)
        scores = measured.scores
        row.seconds.append(measured.latency_seconds)
        row.memory.append(measured.peak_memory_bytes)
    row.agreement = float((scores.argmax(1) == expected.argmax(1)).mean())
    row.error = float(np.abs(scores - expected).max())


def ask_peer(*arguments):
    command = [flags.FLAGS.peer_python, str(_PEER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ExportError(
            "The peer needs torch, transformers, onnx and onnxruntime: give --peer_python an "
            f"interpreter that has them. Received: {flags.FLAGS.peer_python}: {reason}"
        )


def table(size, rows):
    """Returns one size's results as lines, times as ratios to ONNX Runtime's int8 if it ran."""
    yardstick = rows.get("onnx_int8")
    lines = [f"{size:<14}{'MB':>8}{'s/clip':>9}{'peak MB':>9}{'agree':>8}{'error':>10}{'speed':>8}"]
    for name, row in rows.items():
        speed = f"{yardstick['seconds'] / row['seconds']:.2f}" if yardstick else "-"
        lines.append(
            f"{name:<14}{row['size_mb']:8.1f}{row['seconds']:9.3f}{row['peak_memory_mb']:9.0f}"
            f"{row['agreement']:8.3f}{row['max_error']:10.1e}{speed:>8}"
        )
    if yardstick:
        lines.append("speed: how many times as fast as onnx_int8")
    return "\n".join(lines) + "\n"


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_list("sizes", ["ast_tiny", "ast_base"], "Sizes of models.")
    flags.DEFINE_string("peer_python", None, "Interpreter with torch, transformers, onnxruntime.")
    flags.DEFINE_integer("clips", 6, "Clips of ten seconds in a round.", lower_bound=2)
    flags.DEFINE_integer("rounds", 3, "How often every file is run.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of every runtime.", lower_bound=1)
    flags.DEFINE_string("output", None, "Also write the numbers to this JSON file.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

"""Size, speed and memory of every TFLite format, and of ONNX Runtime for comparison.

    python -m benchmarks.tflite --peer_python OTHER/bin/python [--sizes ast_tiny ast_base]

The weights are random: time, memory and size do not depend on them. The agreement is that of each
format with the model's own scores, and says nothing about a trained model. ONNX Runtime runs the
transformers model with the same weights, in float32 and in its dynamic int8, on spectrograms that
are computed beforehand; the TFLite files contain the filterbank, and their time includes it. Every
file runs in a process of its own, and the files take turns. `--peer_python` names an interpreter
with torch, transformers, onnx and onnxruntime; without it ONNX Runtime is left out.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import sys
import tempfile

import numpy as np

from benchmarks.peer import Peer, PeerError

FORMATS = ("none", "float16", "int8", "int4")
ONNX_FORMATS = ("onnx_float32", "onnx_int8")


@dataclasses.dataclass
class Row:
    """Measurements of one file.

    Attributes:
        file: The file.
        seconds: Median time of a clip in each round, in seconds.
        memory: Peak memory of the process in each round, in bytes.
        agreement: Fraction of clips with the same best class as the model's.
        error: Largest difference of a score.
    """

    file: pathlib.Path
    seconds: list[float] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)
    agreement: float = math.nan
    error: float = math.nan

    def to_dict(self):
        return {
            "size_mb": self.file.stat().st_size / 1e6,
            "seconds": statistics.median(self.seconds),
            "fastest": min(self.seconds),
            "slowest": max(self.seconds),
            "peak_memory_mb": max(self.memory) / 1e6,
            "agreement": self.agreement,
            "max_error": self.error,
        }


def measure_size(size, folder, options):
    """Writes all files of one model size and runs them in turns.

    Args:
        size: Preset of the model.
        folder: Scratch folder.
        options: The command line.

    Returns:
        `Row`s by format.
    """
    from ast_keras import export_weights, from_preset
    from ast_keras.export.reference_clips import comparison_clips, keras_scores

    model = from_preset(size, num_classes=527, score_activation="sigmoid")
    # The logits of a random head are almost equal; scaled, they differ like those of a trained one.
    model.head.kernel.assign(40 * model.head.kernel)
    clips, _ = comparison_clips(model, model.default_num_samples, num_clips=options.clips)
    expected = keras_scores(model, clips)
    rows = {name: Row(write_tflite(model, name, folder)) for name in FORMATS}
    spectrograms = folder / "spectrograms.npy"
    np.save(spectrograms, np.concatenate([model.frontend(clip[None]) for clip in clips]))
    if options.peer_python:
        export_weights(model, folder / "transformers", to="transformers")
        del model
        request = {"export": str(folder / "transformers"), "to": str(folder)}
        ask_onnx(options.peer_python, request)
        rows |= {name: Row(folder / f"{name}.onnx") for name in ONNX_FORMATS}
    for _ in range(options.rounds):
        for name, row in rows.items():
            if name in ONNX_FORMATS:
                run_onnx(row, spectrograms, expected, options)
            else:
                run_tflite(row, clips, expected, options)
    return rows


def write_tflite(model, quantize, folder):
    """Writes a TFLite file without a limit on its errors, which are measured afterwards."""
    from ast_keras.export.acceptance import Tolerance
    from ast_keras.export.tflite import export_tflite

    file = folder / f"{quantize}.tflite"
    unlimited = Tolerance(0.0, math.inf, math.inf)
    export_tflite(model, file, quantize=quantize, num_clips=1, bounds=unlimited)
    return file


def run_tflite(row, clips, expected, options):
    from ast_keras.export.isolated_run import measure

    measured = measure("tflite", row.file, clips, options.threads)
    add(row, measured.scores, measured.latency_seconds, measured.peak_memory_bytes, expected)


def run_onnx(row, spectrograms, expected, options):
    result = spectrograms.with_name("result.npz")
    request = {"run": str(row.file), "spectrograms": str(spectrograms), "result": str(result)}
    ask_onnx(options.peer_python, {**request, "threads": options.threads})
    with np.load(result) as file:
        scores = 1 / (1 + np.exp(-file["logits"]))
        add(row, scores, float(np.median(file["seconds"][1:])), int(file["peak"]), expected)


def add(row, scores, seconds, memory, expected):
    """Adds one round to a row."""
    row.seconds.append(seconds)
    row.memory.append(memory)
    row.agreement = float((scores.argmax(1) == expected.argmax(1)).mean())
    row.error = float(np.abs(scores - expected).max())


def ask_onnx(python, request):
    """Runs one request in a new process, whose peak memory is then that of this request."""
    try:
        with Peer(python, "benchmarks.onnx_peer") as peer:
            peer.wait_until_ready()
            peer.ask(request)
    except PeerError as error:
        sys.exit(
            "ONNX Runtime needs torch, transformers, onnx and onnxruntime: give --peer_python an "
            f"interpreter that has them. Received: {python}: {error}"
        )


def table(size, rows):
    """Returns the results of one model size as text; speed is relative to ONNX Runtime's int8."""
    reference = rows.get("onnx_int8")
    lines = [f"{size:<14}{'MB':>8}{'s/clip':>9}{'peak MB':>9}{'agree':>8}{'error':>10}{'speed':>8}"]
    for name, row in rows.items():
        speed = f"{reference['seconds'] / row['seconds']:.2f}" if reference else "-"
        lines.append(
            f"{name:<14}{row['size_mb']:8.1f}{row['seconds']:9.3f}{row['peak_memory_mb']:9.0f}"
            f"{row['agreement']:8.3f}{row['max_error']:10.1e}{speed:>8}"
        )
    if reference:
        lines.append("speed: time of onnx_int8 divided by the time of the format")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["ast_tiny", "ast_base"])
    parser.add_argument("--peer_python", help="interpreter with torch, transformers, onnxruntime")
    parser.add_argument("--clips", type=int, default=6, help="clips of 10 s in a round, 2 or more")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every file")
    parser.add_argument("--threads", type=int, default=2, help="threads of every runtime")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.clips < 2 or min(options.rounds, options.threads) < 1:
        parser.error("--clips must be at least 2, --rounds and --threads at least 1")
    results = {}
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure_size(size, pathlib.Path(folder), options)
            results[size] = {name: row.to_dict() for name, row in rows.items()}
        print(table(size, results[size]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

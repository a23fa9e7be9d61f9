"""Runs an exported file in a process of its own: scores, time and memory without its maker's.

python -m ast_keras.export.isolated_run tflite FILE CLIPS.npz RESULT.npz THREADS
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ast_keras.errors import ExportError

_PARENT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a file did with the clips, one after the other.

    Attributes:
      scores: `[clips, classes]`.
      latency_seconds: Median time for one clip, the first one left out.
      peak_memory_bytes: Most memory that the process had, libraries included.
    """

    scores: npt.NDArray[np.float32]
    latency_seconds: float
    peak_memory_bytes: int


def measure(
    kind: str,
    path: str | os.PathLike[str],
    clips: npt.NDArray[np.float32],
    num_threads: int = 2,
    lengths: npt.NDArray[np.int32] | None = None,
) -> Measurement:
    """Runs every clip through the file, in a new process.

    Args:
      kind: "tflite" or "saved_model".
      path: The file or folder.
      clips: `[clips, samples]`.
      num_threads: For the operators.
      lengths: Samples of each clip, `[clips]`, for a TFLite file that takes them.

    Raises:
      ExportError: If the file cannot be run, with the reason's last line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, result = pathlib.Path(scratch, "clips.npz"), pathlib.Path(scratch, "result.npz")
        np.savez(given, clips=clips, **({} if lengths is None else {"lengths": lengths}))
        command = [sys.executable, "-m", __name__, kind, path, given, result, num_threads]
        # The package is found where this module was, however the caller's Python finds it.
        paths = [str(_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ExportError(f"The exported file does not run: {reason} Received: {path}")
        with np.load(result) as file:
            return Measurement(
                scores=file["scores"],
                latency_seconds=float(np.median(file["seconds"][1:] if len(clips) > 1 else 0)),
                peak_memory_bytes=int(file["peak"]),
            )


def operators(content: bytes | bytearray) -> dict[str, int]:
    """Returns how often each operator occurs in a TFLite model, custom ones by their own name."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    counts: collections.Counter[str] = collections.Counter()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names.get(code.builtinCode, "?")
            counts[code.customCode.decode() if name == "CUSTOM" else name] += 1
    return dict(counts.most_common())


def _load_tflite(path: str, num_threads: int) -> Callable[..., npt.NDArray[np.float32]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=num_threads)
    runner = interpreter.get_signature_runner()
    return lambda **inputs: runner(**inputs)["scores"]


def _load_saved_model(path: str, num_threads: int) -> Callable[..., npt.NDArray[np.float32]]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    served = tf.saved_model.load(path)
    function = served.signatures["serving_default"]
    return lambda waveform, **_: function(waveform=tf.constant(waveform))["scores"].numpy()


_LOADERS = {"tflite": _load_tflite, "saved_model": _load_saved_model}


def _main(kind: str, path: str, given: str, result: str, num_threads: str) -> None:
    run = _LOADERS[kind](path, int(num_threads))
    scores, seconds = [], []
    with np.load(given) as file:
        clips, lengths = file["clips"], file.get("lengths")
    for index, clip in enumerate(clips):
        inputs = {"waveform": np.ascontiguousarray(clip[None])}
        if lengths is not None:
            inputs["length"] = lengths[index : index + 1]
        start = time.perf_counter()
        scores.append(run(**inputs)[0])
        seconds.append(time.perf_counter() - start)
    np.savez(result, scores=np.array(scores), seconds=seconds, peak=_peak_memory())


def _peak_memory() -> int:
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:  # not Linux: in kilobytes, or in bytes on a Mac
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Not the resource usage: Linux counts what the parent had when it started this process.
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    _main(*sys.argv[1:])

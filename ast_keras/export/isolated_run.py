"""Running an exported file in a new process: its scores, latency and peak memory.

The process holds neither the model nor the exporter, so its memory is that of a client.

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

_PACKAGE_PARENT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Result of running a file on clips, one clip at a time.

    Attributes:
        scores: float32 `[clips, classes]`.
        latency_seconds: Median time of one clip in seconds, without the first clip.
        peak_memory_bytes: Peak memory of the process in bytes, libraries included.
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
    """Runs a file on every clip in a new process.

    Args:
        kind: "tflite" or "saved_model".
        path: The TFLite file or the folder of the SavedModel.
        clips: float32 `[clips, samples]` in [-1, 1].
        num_threads: Number of threads of an operator.
        lengths: int32 `[clips]`, the valid samples of each clip, for a TFLite file with an input
            `length`; None for files without.

    Raises:
        ExportError: If the file does not run, with the last line of the process's errors.
    """
    with tempfile.TemporaryDirectory() as scratch:
        inputs, result = pathlib.Path(scratch, "clips.npz"), pathlib.Path(scratch, "result.npz")
        np.savez(inputs, clips=clips, **({} if lengths is None else {"lengths": lengths}))
        command = [sys.executable, "-m", __name__, kind, path, inputs, result, num_threads]
        # The new process may not share the search path by which this one found the package.
        search_path = [str(_PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(search_path), "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
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
    """Returns the number of occurrences of each operator in a TFLite model.

    Args:
        content: The bytes of the file.

    Returns:
        Counts by operator name, the most frequent first; custom operators under their own name.
    """
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


def peak_memory() -> int:
    """Returns the peak memory of this process in bytes, libraries included."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux: kilobytes, or bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # On Linux ru_maxrss starts at the memory of the parent process when this one was forked.
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# --- In the new process ---


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


def _main(kind: str, path: str, inputs: str, result: str, num_threads: str) -> None:
    run = _LOADERS[kind](path, int(num_threads))
    scores, seconds = [], []
    with np.load(inputs) as file:
        clips, lengths = file["clips"], file.get("lengths")
    for index, clip in enumerate(clips):
        arguments = {"waveform": np.ascontiguousarray(clip[None])}
        if lengths is not None:
            arguments["length"] = lengths[index : index + 1]
        start = time.perf_counter()
        scores.append(run(**arguments)[0])
        seconds.append(time.perf_counter() - start)
    np.savez(result, scores=np.array(scores), seconds=seconds, peak=peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])

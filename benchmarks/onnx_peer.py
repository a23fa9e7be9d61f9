"""The other side of `export.benchmark`: the transformers port in ONNX Runtime.

Runs in an environment of its own and imports nothing of this project.

    python onnx_peer.py make FOLDER OUTPUT_FOLDER
    python onnx_peer.py run FILE.onnx SPECTROGRAMS.npy RESULT.npz THREADS
"""

import pathlib
import resource
import sys
import time

import numpy as np


def make(folder, output):
    """Writes onnx_float32.onnx and onnx_int8.onnx of the model that transformers reads."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import ASTForAudioClassification

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = ASTForAudioClassification.from_pretrained(folder).eval()

        def forward(self, spectrogram):
            return self.model(spectrogram).logits

    model = Logits()
    config = model.model.config
    exact = pathlib.Path(output, "onnx_float32.onnx")
    torch.onnx.export(
        model,
        (torch.zeros(1, config.max_length, config.num_mel_bins),),
        exact,
        input_names=["input_values"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )
    smaller = pathlib.Path(output, "onnx_int8.onnx")
    quantize_dynamic(exact, smaller, weight_type=QuantType.QInt8)


def run(file, spectrograms, result, threads):
    """Runs every spectrogram by itself; keeps logits, times and the process's peak memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    logits, seconds = [], []
    for spectrogram in np.load(spectrograms):
        start = time.perf_counter()
        (answer,) = session.run(["logits"], {"input_values": spectrogram[None]})
        seconds.append(time.perf_counter() - start)
        logits.append(answer[0])
    np.savez(result, logits=np.array(logits), seconds=seconds, peak=peak_memory())


def peak_memory():
    """Returns the most memory that this process had, in bytes."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](*sys.argv[2:])

"""ONNX Runtime as the peer of `benchmarks.tflite`, with the transformers model.

It runs in an environment with torch, transformers, onnx and onnxruntime, as a `Peer` that takes
requests of two kinds:

    {"export": FOLDER, "to": OUTPUT_FOLDER}
    {"run": FILE, "spectrograms": FILE.npy, "result": FILE.npz, "threads": 2}
"""

import pathlib
import time

import numpy as np

from ast_keras.export.isolated_run import peak_memory
from benchmarks.peer import serve


def export(folder, output):
    """Writes a transformers model as onnx_float32.onnx and onnx_int8.onnx.

    Args:
        folder: Folder that `ASTForAudioClassification.from_pretrained` reads.
        output: Folder of the two files.
    """
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
    quantize_dynamic(exact, pathlib.Path(output, "onnx_int8.onnx"), weight_type=QuantType.QInt8)


def run(file, spectrograms, result, threads):
    """Runs spectrograms one at a time; writes logits, seconds and the process's peak memory.

    Args:
        file: ONNX model.
        spectrograms: NumPy file, float32 `[clips, frames, mel]`.
        result: NumPy archive to write.
        threads: Number of threads of an operator.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    logits, seconds = [], []
    for spectrogram in np.load(spectrograms):
        start = time.perf_counter()
        (output,) = session.run(["logits"], {"input_values": spectrogram[None]})
        seconds.append(time.perf_counter() - start)
        logits.append(output[0])
    np.savez(result, logits=np.array(logits), seconds=seconds, peak=peak_memory())


def answer(request):
    if "export" in request:
        export(request["export"], request["to"])
    else:
        run(request["run"], request["spectrograms"], request["result"], request["threads"])
    return "done"


if __name__ == "__main__":
    serve(lambda: answer)

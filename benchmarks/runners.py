"""The implementations that are measured, each in a process of its own.

    python -m benchmarks.runners RUNNER CASE_JSON FOLDER

The process is a `benchmarks.peer.Peer`: for the request "go" it answers the seconds of one call,
for "memory" its peak memory in bytes. A runner that cannot run here answers the reason. Runners
other than ours do not import TensorFlow: they run in an environment with PyTorch, transformers and
ONNX Runtime.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np

from ast_keras.export.isolated_run import peak_memory
from benchmarks.peer import serve

CLASSES = 527
SIZES = {  # embed_dim, heads, mlp_dim, blocks
    "tiny": (192, 3, 768, 12),
    "base": (768, 12, 3072, 12),
}
RATE, FRAMES_PER_SECOND = 16_000, 100


class Unsupported(Exception):
    """Raised when a runner has no implementation of a case."""


def num_frames(case):
    """Returns the frames of a clip; 10 s are padded to 1,024 frames as in the released models."""
    return 1024 if case["seconds"] == 10 else FRAMES_PER_SECOND * case["seconds"] - 2


def num_tokens(case):
    return 2 + 12 * ((num_frames(case) - 16) // 10 + 1)


def spectrograms(case):
    shape = (case["batch"], num_frames(case), 128)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def mixed_seconds(case):
    """Returns lengths between 1 and 10 s, for a batch of recordings."""
    return np.random.default_rng(1).uniform(1, 10, case["batch"]).round(1)


# --- Ours ---


def start_tensorflow(threads=2):
    """Imports TensorFlow with the settings of our commands.

    Args:
        threads: Number of threads of an operation.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    return tf


def ours(case, folder, precision="float32", compiled=False, options=None):
    tf = start_tensorflow(case["threads"])
    import ast_keras

    if case["kind"] == "frontend":
        filterbank = tf.function(ast_keras.LogMelFilterbank())
        batch = tf.constant(waveforms(case))
        return lambda: filterbank(batch).numpy()
    model = ast_keras.from_preset(
        f"ast_{case['size']}",
        num_classes=CLASSES,
        num_frames=num_frames(case),
        frontend=None,
        dtype="mixed_bfloat16" if precision == "bfloat16" else "float32",
        padding="masked" if case["kind"] == "mixed" else "original",
        **(options or {}),
    )
    if case["kind"] == "training":
        return our_step(model, case, compiled)
    forward = tf.function(
        lambda inputs, lengths=None: model(inputs, training=False, lengths=lengths),
        jit_compile=compiled,
        reduce_retracing=True,
    )
    if case["kind"] == "mixed":
        return lambda: [forward(*batch).numpy() for batch in our_batches(case)]
    batch = tf.constant(spectrograms(case))
    return lambda: forward(batch).numpy()


def our_step(model, case, compiled):
    import ast_keras

    optimizer = ast_keras.AdamL2(1e-5, beta_1=0.9, l2=0.0)  # the optimizer of the port's step
    return training_step(model, optimizer, spectrograms(case), compiled)


def training_step(model, optimizer, inputs, compiled=False):
    """Returns a function that runs one training step of a Keras model and waits for it."""
    import keras
    import tensorflow as tf

    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inputs, classes = tf.constant(inputs), tf.range(len(inputs))

    @tf.function(jit_compile=compiled)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(classes, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return lambda: step().numpy()


def our_batches(case):
    """Yields batches of clips of similar length, padded to their longest clip, as in training."""
    frames = np.sort(FRAMES_PER_SECOND * mixed_seconds(case)).astype("int32")
    for part in np.array_split(frames, max(1, case["batch"] // 4)):
        longest = -(-part.max() // 50) * 50  # few lengths, so that few graphs are traced
        yield np.zeros((len(part), longest, 128), "float32"), part


# --- The transformers port under PyTorch ---


def port_model(case):
    """Returns the transformers model of the case's size, with random weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    width, heads, hidden, blocks = SIZES[case["size"]]
    config = transformers.ASTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=hidden,
        num_hidden_layers=blocks,
        max_length=num_frames(case),
        num_labels=CLASSES,
        attn_implementation="sdpa",
    )
    return transformers.ASTForAudioClassification(config)


def port(case, folder, precision="float32", compiled=False):
    import torch

    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    if case["kind"] == "frontend":
        from tests.reference.torchaudio_fbank import load

        fbank, batch = load(), waveforms(case)
        return lambda: [fbank(waveform) for waveform in batch]
    model = port_model(case)
    half = precision == "bfloat16"
    if case["kind"] == "training":
        return port_step(model, case, half, compiled)
    model = model.eval().to(torch.bfloat16 if half else torch.float32)
    forward = torch.compile(model) if compiled else model
    # The port takes no lengths: every clip is padded to the longest possible one.
    batch = torch.from_numpy(spectrograms(case)).to(model.dtype)

    def call():
        with torch.inference_mode():
            return forward(batch).logits.float().numpy()

    return call


def port_step(model, case, half, compiled):
    import torch

    model.train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    batch = torch.from_numpy(spectrograms(case))
    classes = torch.arange(case["batch"])

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = forward(batch).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), classes)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# --- ONNX Runtime, with the port's graph ---


def onnx(case, folder, file="float32"):
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if case["kind"] != "forward":
        raise Unsupported("ONNX Runtime has no training")
    exact = pathlib.Path(folder, f"{case['size']}_{case['seconds']}_{case['batch']}.onnx")
    if not exact.exists():
        model = port_model(case).eval()

        class Logits(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, spectrogram):
                return self.model(spectrogram).logits

        torch.onnx.export(
            Logits(),
            (torch.from_numpy(spectrograms(case)),),
            exact,
            input_names=["spectrogram"],
            opset_version=17,
            dynamo=False,
        )
        quantize_dynamic(exact, exact.with_suffix(".int8"), weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case["threads"]
    path = exact if file == "float32" else exact.with_suffix(".int8")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = spectrograms(case)
    return lambda: session.run(None, {"spectrogram": batch})


# --- The lower bound: the matrix products alone ---


def products_alone(case, folder):
    """Runs the matrix products of the published network one after the other, and nothing else.

    They are computed in float32 by TensorFlow. Products that our classifier's last block does not
    need are included.
    """
    if case["kind"] not in ("forward", "training"):
        raise Unsupported("the products are those of batches with one length")
    tf = start_tensorflow(case["threads"])
    width, heads, hidden, blocks = SIZES[case["size"]]
    tokens, batch = num_tokens(case), case["batch"]
    rows = batch * tokens
    head = (batch, heads, tokens, width // heads)
    weights = (batch, heads, tokens, tokens)
    shapes = [((rows, a), (a, b)) for a, b in dense_shapes(width, hidden)]
    shapes += [(head, (*head[:2], head[3], head[2])), (weights, head)]
    left = [tf.random.normal(a) for a, _ in shapes]
    # Different matrices for each block: TensorFlow computes equal products only once.
    right = [[tf.random.normal(b) for _, b in shapes] for _ in range(blocks)]

    @tf.function
    def products():
        corners, last = [], []
        for own in right:
            for a, b in zip(left, own, strict=True):
                with tf.control_dependencies(last):  # one after the other
                    last = [tf.matmul(a, b)]
                corners.append(last[0][..., :1, :1])
        return corners

    # The gradient of a product takes two products of the same size.
    times = 3 if case["kind"] == "training" else 1

    def call():
        for _ in range(times):
            corners = products()
        return corners[-1].numpy()

    return call


def dense_shapes(width, hidden):
    return (width, 3 * width), (width, width), (width, hidden), (hidden, width)


def waveforms(case):
    shape = (case["batch"], RATE * case["seconds"])
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype("float32")


RUNNERS = {
    "ours": lambda case, folder: ours(case, folder),
    "ours, XLA": lambda case, folder: ours(case, folder, compiled=True),
    "ours, bfloat16": lambda case, folder: ours(case, folder, "bfloat16"),
    "ours, checkpointing": lambda case, folder: ours(
        case, folder, options={"gradient_checkpointing": True}
    ),
    "PyTorch": lambda case, folder: port(case, folder),
    "PyTorch, compiled": lambda case, folder: port(case, folder, compiled=True),
    "PyTorch, bfloat16": lambda case, folder: port(case, folder, "bfloat16"),
    "ONNX Runtime": lambda case, folder: onnx(case, folder),
    "ONNX Runtime, int8": lambda case, folder: onnx(case, folder, "int8"),
    "products alone": products_alone,
}


def main(name, case, folder):
    def prepare():
        call = RUNNERS[name](json.loads(case), folder)
        call()  # compiles and warms up

        def answer(request):
            if request == "memory":
                return peak_memory()
            start = time.perf_counter()
            call()
            return time.perf_counter() - start

        return answer

    serve(prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])

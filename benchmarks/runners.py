"""One contender of one case, in a process of its own: it is asked again and again for a time.

    python -m benchmarks.contenders CONTENDER CASE_JSON FOLDER

For every line "go" on standard input it answers the seconds of one call, for "memory" the most
memory that the process had, and before the first of them "ready". A contender that cannot run here
answers why instead. Nothing of TensorFlow is imported for the others: they run in an environment
that has PyTorch, transformers and ONNX Runtime, and not TensorFlow.
"""

import json
import os
import pathlib
import sys
import time

import numpy as np

CLASSES = 527
SIZES = {  # embed_dim, heads, mlp_dim, blocks
    "tiny": (192, 3, 768, 12),
    "base": (768, 12, 3072, 12),
}
RATE, FRAMES_A_SECOND = 16_000, 100


class Unable(Exception):
    """Says why a contender does not take part."""


def num_frames(case):
    """A clip of 10 s is padded to 1,024 frames, as the published models want it."""
    return 1024 if case["seconds"] == 10 else FRAMES_A_SECOND * case["seconds"] - 2


def num_tokens(case):
    return 2 + 12 * ((num_frames(case) - 16) // 10 + 1)


def spectrograms(case):
    shape = (case["batch"], num_frames(case), 128)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def mixed_seconds(case):
    """Lengths from 1 to 10 s, as recordings are."""
    return np.random.default_rng(1).uniform(1, 10, case["batch"]).round(1)


# --- Ours ---


def start_tensorflow(threads=2):
    """Imports TensorFlow as our commands do, on so many threads."""
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
        sounds = tf.constant(waveforms(case))
        return lambda: filterbank(sounds).numpy()
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
        lambda sound, lengths=None: model(sound, training=False, lengths=lengths),
        jit_compile=compiled,
        reduce_retracing=True,
    )
    if case["kind"] == "mixed":
        return lambda: [forward(*batch).numpy() for batch in our_batches(case)]
    sound = tf.constant(spectrograms(case))
    return lambda: forward(sound).numpy()


def our_step(model, case, compiled):
    import ast_keras

    optimizer = ast_keras.AdamL2(1e-5, beta_1=0.9, l2=0.0)  # what the port's step has
    return training_step(model, optimizer, spectrograms(case), compiled)


def training_step(model, optimizer, sounds, compiled=False):
    """Returns a function that takes one step of a Keras model and waits for it."""
    import keras
    import tensorflow as tf

    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sounds, classes = tf.constant(sounds), tf.range(len(sounds))

    @tf.function(jit_compile=compiled)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(classes, model(sounds, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return lambda: step().numpy()


def our_batches(case):
    """Clips of similar lengths together, each batch as long as its longest: what fit does."""
    frames = np.sort(FRAMES_A_SECOND * mixed_seconds(case)).astype("int32")
    for part in np.array_split(frames, max(1, case["batch"] // 4)):
        longest = -(-part.max() // 50) * 50  # few lengths, so that few graphs are made
        yield np.zeros((len(part), longest, 128), "float32"), part


# --- The transformers port under PyTorch ---


def port_model(case):
    """Returns the port's model of the case's size, with random weights."""
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

        fbank, sounds = load(), waveforms(case)
        return lambda: [fbank(sound) for sound in sounds]
    model = port_model(case)
    half = precision == "bfloat16"
    if case["kind"] == "training":
        return port_step(model, case, half, compiled)
    model = model.eval().to(torch.bfloat16 if half else torch.float32)
    forward = torch.compile(model) if compiled else model
    # The port knows no lengths: every clip is padded to the longest there may be.
    sound = torch.from_numpy(spectrograms(case)).to(model.dtype)

    def call():
        with torch.inference_mode():
            return forward(sound).logits.float().numpy()

    return call


def port_step(model, case, half, compiled):
    import torch

    model.train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    sound = torch.from_numpy(spectrograms(case))
    classes = torch.arange(case["batch"])

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            logits = forward(sound).logits
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
        raise Unable("ONNX Runtime only infers")
    exact = pathlib.Path(folder, f"{case['size']}_{case['seconds']}_{case['batch']}.onnx")
    if not exact.exists():
        model = port_model(case).eval()

        class Logits(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, sound):
                return self.model(sound).logits

        sound = torch.from_numpy(spectrograms(case))
        torch.onnx.export(
            Logits(), (sound,), exact, input_names=["sound"], opset_version=17, dynamo=False
        )
        quantize_dynamic(exact, exact.with_suffix(".int8"), weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case["threads"]
    path = exact if file == "float32" else exact.with_suffix(".int8")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    sound = spectrograms(case)
    return lambda: session.run(None, {"sound": sound})


# --- The floor: the matrix products alone ---


def floor(case, folder):
    """Every product that the whole network needs, one after the other, and nothing else.

    In float32 by the same library. What the classifier's last block leaves out is in it, so that
    the floor is that of the published graph.
    """
    if case["kind"] not in ("forward", "training"):
        raise Unable("the floor is that of whole batches")
    tf = start_tensorflow(case["threads"])
    width, heads, hidden, blocks = SIZES[case["size"]]
    tokens, batch = num_tokens(case), case["batch"]
    rows = batch * tokens
    head = (batch, heads, tokens, width // heads)
    weights = (batch, heads, tokens, tokens)
    shapes = [((rows, a), (a, b)) for a, b in dense_shapes(width, hidden)]
    shapes += [(head, (*head[:2], head[3], head[2])), (weights, head)]
    left = [tf.random.normal(a) for a, _ in shapes]
    # Of each block its own: TensorFlow would compute equal products once.
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

    # A gradient needs two products of the same size for each.
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


CONTENDERS = {
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
    "products alone": floor,
}


def peak_memory():
    """Returns the most memory that this process had, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main(name, case, folder):
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)

    def answer(value):
        print(value, file=answers, flush=True)

    try:
        call = CONTENDERS[name](json.loads(case), folder)
        call()
    except Exception as error:  # the table says so, and the other contenders go on
        answer(f"unable: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return
    answer("ready")
    for line in sys.stdin:
        if line.strip() == "memory":
            answer(peak_memory())
            continue
        start = time.perf_counter()
        call()
        answer(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])

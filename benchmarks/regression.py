"""Speed and memory of the package relative to the same network of Keras's own layers.

    python -m benchmarks.regression

Prints, as JSON, the ratios of Keras's time to ours in a forward pass and in a training step, and of
Keras's memory to ours in a training step, for three blocks of AST-tiny on 1,214 tokens. The two
networks take turns. It takes less than a minute. `tests/end_to_end/test_speed.py` fails if a ratio
falls by more than 30 %.
"""

import argparse
import json
import statistics
import time

from ast_keras.export.isolated_run import peak_memory
from benchmarks.peer import Peer, serve
from benchmarks.runners import start_tensorflow, training_step

WIDTH, HEADS, HIDDEN, BLOCKS, FRAMES, CLASSES, BATCH = 192, 3, 768, 3, 1024, 10, 2
ROUNDS = 7


def keras_model():
    """Returns the network as a user of Keras would write it."""
    import keras
    from keras import layers

    class PositionEmbedding(layers.Layer):
        def build(self, shape):
            self.embedding = self.add_weight(shape=shape[1:])

        def call(self, tokens):
            return tokens + self.embedding

    spectrogram = keras.Input((FRAMES, 128))
    image = layers.Permute((2, 1))(spectrogram)
    image = layers.Reshape((128, FRAMES, 1))(image)
    tokens = layers.Conv2D(WIDTH, 16, strides=10)(image)
    tokens = layers.Reshape((-1, WIDTH))(tokens)
    tokens = layers.ZeroPadding1D((2, 0))(tokens)
    tokens = PositionEmbedding()(tokens)
    for _ in range(BLOCKS):
        branch = layers.LayerNormalization(epsilon=1e-6)(tokens)
        tokens += layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(branch, branch)
        branch = layers.LayerNormalization(epsilon=1e-6)(tokens)
        branch = layers.Dense(HIDDEN, activation="gelu")(branch)
        tokens += layers.Dense(WIDTH)(branch)
    tokens = layers.LayerNormalization(epsilon=1e-6)(tokens)
    pooled = layers.LayerNormalization()(keras.ops.mean(tokens[:, :2], axis=1))
    return keras.Model(spectrogram, layers.Dense(CLASSES)(pooled))


def our_model():
    from ast_keras import from_preset

    return from_preset(
        "ast_tiny", num_classes=CLASSES, num_layers=BLOCKS, num_frames=FRAMES, frontend=None
    )


MODELS = {"ours": our_model, "plain": keras_model}


def compiled_calls(model):
    """Returns a forward pass and a training step, both compiled to graphs."""
    import keras
    import tensorflow as tf

    spectrogram = tf.random.normal((BATCH, FRAMES, 128))
    forward = tf.function(lambda: model(spectrogram, training=False))
    step = training_step(model, keras.optimizers.Adam(1e-5), spectrogram)
    return {"forward": lambda: forward().numpy(), "training": step}


def serve_memory(name):
    """Answers a request with the bytes that two training steps add to the process's memory."""

    def prepare():
        start_tensorflow()
        step = compiled_calls(MODELS[name]())["training"]

        def measure(_):
            before = peak_memory()
            step(), step()
            return peak_memory() - before

        return measure

    serve(prepare)


def measure_times():
    """Returns the seconds of every call by model and kind; the models take turns."""
    start_tensorflow()
    calls = {name: compiled_calls(make()) for name, make in MODELS.items()}
    seconds = {(name, kind): [] for name in calls for kind in ("forward", "training")}
    for name, kind in seconds:
        calls[name][kind]()
    for _ in range(ROUNDS):
        for (name, kind), taken in seconds.items():
            start = time.perf_counter()
            calls[name][kind]()
            taken.append(time.perf_counter() - start)
    return seconds


def measure_memory(python):
    """Returns the bytes that training steps add, by model; each model has its own process."""
    added = {}
    for name in MODELS:
        with Peer(python, "benchmarks.regression", "--serve", name) as peer:
            peer.wait_until_ready()
            added[name] = peer.ask("memory")
    return added


def main():
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=list(MODELS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_memory(options.serve)
        return
    seconds = measure_times()
    ratios = {}
    for kind in ("forward", "training"):
        ratio = statistics.median(seconds["plain", kind]) / statistics.median(seconds["ours", kind])
        ratios[kind] = round(ratio, 3)
    added = measure_memory(sys.executable)
    ratios["memory"] = round(added["plain"] / added["ours"], 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()

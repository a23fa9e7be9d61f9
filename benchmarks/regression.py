"""Our speed against the same network written with Keras's own layers, in under a minute.

    python -m benchmarks.guard

Prints, as JSON, how many times as fast ours is in a forward pass and in a training step of three
blocks of AST-tiny on 1,214 tokens, and how much memory a training step takes beside the other's.
The two take turns. `tests/end_to_end/test_speed.py` fails where a ratio falls by more than 30 %.
"""

import json
import statistics
import subprocess
import sys
import time

from benchmarks.contenders import peak_memory, start_tensorflow, training_step

WIDTH, HEADS, HIDDEN, BLOCKS, FRAMES, CLASSES, BATCH = 192, 3, 768, 3, 1024, 10, 2
ROUNDS = 7


def plain():
    """What a user of Keras would write."""
    import keras
    from keras import layers

    class Positions(layers.Layer):
        def build(self, shape):
            self.embedding = self.add_weight(shape=shape[1:])

        def call(self, tokens):
            return tokens + self.embedding

    sound = keras.Input((FRAMES, 128))
    image = layers.Permute((2, 1))(sound)
    image = layers.Reshape((128, FRAMES, 1))(image)
    tokens = layers.Conv2D(WIDTH, 16, strides=10)(image)
    tokens = layers.Reshape((-1, WIDTH))(tokens)
    tokens = layers.ZeroPadding1D((2, 0))(tokens)
    tokens = Positions()(tokens)
    for _ in range(BLOCKS):
        branch = layers.LayerNormalization(epsilon=1e-6)(tokens)
        tokens += layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(branch, branch)
        branch = layers.LayerNormalization(epsilon=1e-6)(tokens)
        branch = layers.Dense(HIDDEN, activation="gelu")(branch)
        tokens += layers.Dense(WIDTH)(branch)
    tokens = layers.LayerNormalization(epsilon=1e-6)(tokens)
    pooled = layers.LayerNormalization()(keras.ops.mean(tokens[:, :2], axis=1))
    return keras.Model(sound, layers.Dense(CLASSES)(pooled))


def ours():
    from ast_keras import ASTBackbone, ASTClassifier

    backbone = ASTBackbone(
        embed_dim=WIDTH, num_layers=BLOCKS, num_heads=HEADS, mlp_dim=HIDDEN, num_frames=FRAMES
    )
    return ASTClassifier(backbone, CLASSES)


def calls(model):
    """Returns a forward pass and a training step, both compiled to graphs."""
    import keras
    import tensorflow as tf

    sound = tf.random.normal((BATCH, FRAMES, 128))
    forward = tf.function(lambda: model(sound, training=False))
    step = training_step(model, keras.optimizers.Adam(1e-5), sound)
    return {"forward": lambda: forward().numpy(), "training": step}


def memory_of(name):
    """Prints the bytes that training steps add to what the process had, and takes no time."""
    start_tensorflow()
    step = calls({"ours": ours, "plain": plain}[name]())["training"]
    before = peak_memory()
    step(), step()
    print(peak_memory() - before)


def main():
    start_tensorflow()
    contenders = {"ours": calls(ours()), "plain": calls(plain())}
    seconds = {(who, kind): [] for who in contenders for kind in ("forward", "training")}
    for who, kind in seconds:
        contenders[who][kind]()
    for _ in range(ROUNDS):
        for (who, kind), taken in seconds.items():
            begin = time.perf_counter()
            contenders[who][kind]()
            taken.append(time.perf_counter() - begin)
    ratios = {}
    for kind in ("forward", "training"):
        ratio = statistics.median(seconds["plain", kind]) / statistics.median(seconds["ours", kind])
        ratios[kind] = round(ratio, 3)
    added = {}
    for who in contenders:
        command = [sys.executable, "-m", "benchmarks.guard", who]
        added[who] = int(subprocess.run(command, capture_output=True, text=True).stdout)
    ratios["memory"] = round(added["plain"] / added["ours"], 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    memory_of(sys.argv[1]) if len(sys.argv) > 1 else main()

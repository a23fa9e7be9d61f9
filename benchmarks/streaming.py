"""Latency of a stream's results, and what the reuse of patches and attention saves.

    python -m benchmarks.streaming [--sizes ast_tiny ast_base] [--hops 10]

For each size and precision three median times are measured in turns: one hop of a stream
(filterbank, new patches, attention), the whole window computed again by the model, and one block of
a causal model of the same size. The factor is the time divided by the length of the hop: below 1
the stream keeps up. Weights are random. Windows of 10 s move by 1 s; the causal model has blocks of
1 s and attends to nine earlier ones.
"""

import argparse
import statistics
import time

import numpy as np

RATE = 16_000


def measure(size, policy, hops):
    """Returns the median seconds of a hop, of a window computed again, and of a causal block."""
    import keras
    import tensorflow as tf

    import ast_keras
    from ast_keras.inference.streaming import StreamingClassifier
    from ast_keras.weights.build import to_causal

    keras.utils.set_random_seed(0)
    model = ast_keras.from_preset(size, num_classes=527, num_frames=1024, dtype=policy)
    stream = StreamingClassifier(model)
    causal = StreamingClassifier(to_causal(model, block_columns=10, past_blocks=9))
    whole_window = tf.function(lambda waveform: model(waveform, training=False))
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, 10 * RATE).astype("float32")
    calls = [stream.push, lambda _: whole_window(audio[None]).numpy(), causal.push]
    for call in calls:  # fills the windows and the attended past
        for second in range(12):
            call(audio[second % 10 * RATE :][:RATE])
    seconds = [[] for _ in calls]
    for hop in range(hops):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call(audio[hop % 10 * RATE :][:RATE])
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["ast_tiny", "ast_base"])
    parser.add_argument("--hops", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    print(f"{options.threads} threads, medians of {options.hops} hops of 1 s")
    print(f"{'':24} {'hop':>8} {'factor':>7} {'window':>8} {'causal':>8} {'factor':>7}")
    for size in options.sizes:
        for policy in ("float32", "mixed_bfloat16"):
            hop, window, block = measure(size, policy, options.hops)
            print(
                f"{size + ', ' + policy:24} {1e3 * hop:6.0f}ms {hop:7.3f} {1e3 * window:6.0f}ms "
                f"{1e3 * block:6.0f}ms {block:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

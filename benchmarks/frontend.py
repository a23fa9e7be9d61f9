"""Speed of the log-mel filterbank, as a ratio to torchaudio's, which the AST authors use.

    python -m benchmarks.frontend --peer_python OTHER/bin/python [--threads 2] [--rounds 7]

Both turn 32 clips of 10 s into 998 x 128 log-mels on the same threads, taking turns: ours as one
batch, torchaudio clip by clip, as its function and the authors' loader do. torch need not be in
TensorFlow's environment: `--peer_python` names an interpreter that has torch and torchaudio.
"""

import argparse
import statistics
import sys
import time

import numpy as np

from benchmarks.peer import start_peer

CLIPS, SAMPLES = 32, 160_000


def sounds():
    return np.random.default_rng(0).uniform(-0.5, 0.5, (CLIPS, SAMPLES)).astype("float32")


def serve_peer(threads):
    """Times torchaudio once for every line on standard input."""
    import torch

    from tests.reference.torchaudio_fbank import load

    torch.set_num_threads(threads)
    fbank, clips = load(), sounds()
    fbank(clips[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for clip in clips:
            fbank(clip)
        print(time.perf_counter() - start, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve_peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_peer:
        serve_peer(options.threads)
        return
    peer = start_peer(
        options.peer_python,
        "benchmarks.frontend",
        ["--threads", options.threads],
        "torch and torchaudio",
    )
    ours, theirs = measure(peer, options.threads, options.rounds)
    peer.stdin.close()
    for name, times in (("ast_keras", ours), ("torchaudio", theirs)):
        clip_ms = [1000 * t / CLIPS for t in times]
        print(
            f"{name:10}  {statistics.median(clip_ms):6.1f} ms a clip "
            f"({min(clip_ms):.1f} to {max(clip_ms):.1f}), {options.threads} threads"
        )
    print(f"ratio of medians: {statistics.median(theirs) / statistics.median(ours):.2f}")


def measure(peer, threads, rounds):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    from ast_keras import LogMelFilterbank

    filterbank, clips = tf.function(LogMelFilterbank()), tf.constant(sounds())
    filterbank(clips)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        filterbank(clips)
        ours.append(time.perf_counter() - start)
        peer.stdin.write("go\n")
        peer.stdin.flush()
        theirs.append(float(peer.stdout.readline()))
    return ours, theirs


if __name__ == "__main__":
    main()

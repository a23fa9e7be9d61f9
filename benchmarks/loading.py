"""Time from a safetensors file to a ready AST-base, as a ratio to the transformers port's.

    python -m benchmarks.loading --peer_python OTHER/bin/python [--rounds 5]

Both read the same file of 86.6 million random weights, a new process each time and taking turns,
the file being in memory already and the libraries imported. Two times are taken: until the call
returns, and until the first clip of 10 s is classified. transformers maps the file and looks at it
when it computes; Keras keeps its matrices the other way round, so that every number is moved
once before the call returns: only the second time compares like with like. torch and transformers
need not be in TensorFlow's environment: `--peer_python` names an interpreter that has them.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

PARTS = ("until the call returns", "until the first answer")


def spectrogram():
    return np.random.default_rng(0).standard_normal((1, 1024, 128)).astype("float32")


def load_ours(folder, threads):
    import tensorflow as tf

    from ast_keras import from_preset

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    start = time.perf_counter()
    model = from_preset(folder, frontend=None)
    loaded = time.perf_counter()
    answer = model(spectrogram()).numpy()
    return loaded - start, time.perf_counter() - start, answer


def load_theirs(folder, threads):
    import torch
    import transformers
    from transformers import ASTForAudioClassification

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = ASTForAudioClassification.from_pretrained(folder).eval()
    loaded = time.perf_counter()
    with torch.inference_mode():
        answer = model(torch.from_numpy(spectrogram())).logits.numpy()
    return loaded - start, time.perf_counter() - start, answer


def time_once(python, who, folder, threads):
    command = [python, "-m", "benchmarks.loading", "--load", who, "--folder", folder]
    command += ["--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{who} could not be loaded with {python}:\n{result.stderr[-2000:]}")
    numbers = [float(number) for number in result.stdout.split()]
    return numbers[:2], np.array(numbers[2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--load", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load = load_ours if options.load == "ours" else load_theirs
        called, answered, answer = load(options.folder, options.threads)
        print(called, answered, *answer.ravel())
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(str(write_base(scratch)), options)


def write_base(scratch):
    from ast_keras import export_weights, from_preset

    folder = pathlib.Path(scratch, "ast_base")
    export_weights(from_preset("ast_base", num_classes=527), folder, to="transformers")
    (folder / "model.safetensors").read_bytes()  # into memory
    return folder


def compare(folder, options):
    times = {"ours": [], "theirs": []}
    answers = {}
    pythons = {"ours": sys.executable, "theirs": options.peer_python}
    for _ in range(options.rounds):
        for who, python in pythons.items():
            taken, answers[who] = time_once(python, who, folder, options.threads)
            times[who].append(taken)
    for index, part in enumerate(PARTS):
        ours, theirs = ([taken[index] for taken in times[who]] for who in ("ours", "theirs"))
        print(
            f"{part}: ours {statistics.median(ours):.2f} s ({min(ours):.2f} to {max(ours):.2f}), "
            f"transformers {statistics.median(theirs):.2f} s ({min(theirs):.2f} to "
            f"{max(theirs):.2f}), ratio {statistics.median(ours) / statistics.median(theirs):.2f}"
        )
    print(f"largest difference of logits: {np.abs(answers['ours'] - answers['theirs']).max():.1e}")


if __name__ == "__main__":
    main()

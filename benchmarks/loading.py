"""Time from a safetensors file to a ready AST-base, relative to the transformers port.

    python -m benchmarks.loading --peer_python OTHER/bin/python [--rounds 5]

Both load the same file of 86.6 million random weights, each time in a new process, in turns, with
the file in the page cache and the libraries imported. Two times are measured: until the call
returns, and until the first clip of 10 s is classified. transformers maps the file into memory and
reads it when it computes. Keras stores matrices transposed, so all weights are copied before the
call returns. Only the second time is a fair comparison. torch and transformers need not be in
TensorFlow's environment: `--peer_python` names an interpreter that has them.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

PARTS = ("until the call returns", "until the first scores")


def spectrogram():
    return np.random.default_rng(0).standard_normal((1, 1024, 128)).astype("float32")


def load_ours(folder, threads):
    import tensorflow as tf

    from ast_keras import from_preset

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    start = time.perf_counter()
    model = from_preset(folder, frontend=None)
    loaded = time.perf_counter()
    logits = model(spectrogram()).numpy()
    return loaded - start, time.perf_counter() - start, logits


def load_transformers(folder, threads):
    import torch
    import transformers
    from transformers import ASTForAudioClassification

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = ASTForAudioClassification.from_pretrained(folder).eval()
    loaded = time.perf_counter()
    with torch.inference_mode():
        logits = model(torch.from_numpy(spectrogram())).logits.numpy()
    return loaded - start, time.perf_counter() - start, logits


def time_once(python, library, folder, threads):
    command = [python, "-m", "benchmarks.loading", "--load", library, "--folder", folder]
    command += ["--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{library} could not load the model with {python}:\n{result.stderr[-2000:]}")
    numbers = [float(number) for number in result.stdout.split()]
    return numbers[:2], np.array(numbers[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="interpreter with transformers"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--load", choices=["ours", "transformers"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load = load_ours if options.load == "ours" else load_transformers
        returned, classified, logits = load(options.folder, options.threads)
        print(returned, classified, *logits.ravel())
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(str(write_base(scratch)), options)


def write_base(scratch):
    from ast_keras import export_weights, from_preset

    folder = pathlib.Path(scratch, "ast_base")
    export_weights(from_preset("ast_base", num_classes=527), folder, to="transformers")
    (folder / "model.safetensors").read_bytes()  # into the page cache
    return folder


def compare(folder, options):
    times = {"ours": [], "transformers": []}
    logits = {}
    pythons = {"ours": sys.executable, "transformers": options.peer_python}
    for _ in range(options.rounds):
        for library, python in pythons.items():
            taken, logits[library] = time_once(python, library, folder, options.threads)
            times[library].append(taken)
    for index, part in enumerate(PARTS):
        ours, theirs = ([taken[index] for taken in times[library]] for library in pythons)
        print(
            f"{part}: ours {statistics.median(ours):.2f} s ({min(ours):.2f} to {max(ours):.2f}), "
            f"transformers {statistics.median(theirs):.2f} s ({min(theirs):.2f} to "
            f"{max(theirs):.2f}), ratio {statistics.median(ours) / statistics.median(theirs):.2f}"
        )
    print(
        f"largest difference of logits: {np.abs(logits['ours'] - logits['transformers']).max():.1e}"
    )


if __name__ == "__main__":
    main()

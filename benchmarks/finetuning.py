"""Speed of a fine-tuning run: examples per second, time spent waiting for data, and the first step.

    python -m benchmarks.finetuning [--sizes tiny base] [--steps 6] [--rounds 3]

The run is recipe `finetune` on a saved model and a folder of 10 s WAV files, with the package's
trainer, in a new process. "first step" is the time from the start of the process to the end of the
first step, with imports, weights and graphs. After that, loops of steps on the real pipeline take
turns with loops on one batch that is kept in memory. The difference is the cost of reading,
decoding and mixing. On a CPU the pipeline and the model use the same cores, so that the difference
includes all of that work.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.runners import start_tensorflow

BATCH = {"tiny": 8, "small": 4, "base": 2}
CLIPS, SECONDS, RATE = 24, 10, 16_000


def write_clips(folder):
    import soundfile

    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        for index in range(CLIPS):
            clip = 0.1 * rng.standard_normal(SECONDS * RATE)
            soundfile.write(folder / name / f"{index}.wav", clip, RATE, subtype="PCM_16")


def process_age():
    """Returns the seconds since this process started (Linux)."""
    ticks = float(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


class CachedPipeline:
    """A pipeline that repeats its first batch from memory."""

    def __init__(self, pipeline):
        self.pipeline, self.batch_size = pipeline, pipeline.batch_size

    def dataset(self, first_step, last_step, rows=slice(None)):
        return self.pipeline.dataset(0, 1, rows).cache().repeat(last_step - first_step)


def run(size, folder, options):
    """Prints the measured times as JSON; called in a process of its own."""
    tf = start_tensorflow(options.threads)
    from ast_keras.recipe import load_recipe, override
    from ast_keras.training import build
    from ast_keras.training.distribution import distribute
    from ast_keras.training.trainer import ASTTrainer

    recipe = override(
        load_recipe("finetune"),
        [
            "data.kind=folders",
            f"data.path={folder}/clips",
            f"model.start={folder}/{size}",
            f"train.batch_size={BATCH[size]}",
            "frontend.mean=-6.6268077",
            "frontend.std=5.358466",
            "train.loss=categorical",
            "train.metric=accuracy",
        ],
    )
    data = build.make_dataset(recipe)
    pipeline = build.make_pipeline(recipe, data, "train", training=True)
    model = build.make_model(recipe, data.labels)
    optimizer = build.make_optimizer(recipe, pipeline.steps_per_epoch, model)
    strategy = tf.distribute.get_strategy()
    steps = 1 + options.steps * (options.rounds + 1)

    def trainer(source):
        batches = distribute(strategy, source, 0, steps, 1)
        return ASTTrainer(model, optimizer, build.make_loss(recipe), batches, strategy, 1, None)

    real = trainer(pipeline)
    real.train(tf.constant(1))
    first = process_age()
    cached = trainer(CachedPipeline(pipeline))
    cached.train(tf.constant(1))
    seconds = {"real": [], "cached": []}
    for _ in range(options.rounds):
        for name, measured in (("real", real), ("cached", cached)):
            start = time.perf_counter()
            measured.train(tf.constant(options.steps))
            seconds[name].append(time.perf_counter() - start)
    print(json.dumps({"first": first, "age": process_age(), **seconds}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(*options.run, options)
        return
    import ast_keras

    with tempfile.TemporaryDirectory() as scratch:
        write_clips(pathlib.Path(scratch, "clips"))
        for size in options.sizes:
            model = ast_keras.from_preset(f"ast_{size}", num_classes=2)
            model.save_to_preset(pathlib.Path(scratch, size))
            del model
            command = [sys.executable, "-m", "benchmarks.finetuning", "--run", size, scratch]
            command += ["--steps", str(options.steps), "--rounds", str(options.rounds)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            report(size, json.loads(done.stdout.splitlines()[-1]), options)


def report(size, times, options):
    real, cached = (statistics.median(times[name]) for name in ("real", "cached"))
    examples = BATCH[size] * options.steps
    print(
        f"AST-{size}, batch {BATCH[size]}: first step after {times['first']:.1f} s; then "
        f"{examples / real:.2f} examples/s ({examples / max(times['real']):.2f} to "
        f"{examples / min(times['real']):.2f}), {examples / cached:.2f} from a cached batch: "
        f"the device waits {max(0.0, 1 - cached / real):.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()

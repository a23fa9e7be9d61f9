"""Time and memory of AudioSet's index at its full size, without audio.

    python -m benchmarks.audioset_index [--rows 2000000] [--shards 40] [--folder DIR]

Writes segment lists whose label frequencies are as skewed as AudioSet's (Zipf's law, two labels per
clip on average) and an empty file for every clip, which takes an inode but no blocks (use
`--rows 200000` on a small disk). Reads them as `read_audioset` does, and plans epochs of weighted
sampling. Printed memory is the increase during each step, and the peak of the process.
"""

import argparse
import pathlib
import resource
import tempfile
import time

import numpy as np

from ast_keras.data.dataset import fingerprint
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.data.readers.audioset_lists import read_clip_list
from ast_keras.data.sampling import Shuffled, Weighted, clip_weights
from ast_keras.export.isolated_run import peak_memory
from ast_keras.labels import LabelSet

BATCH_SIZE = 12
LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)


def resident():
    """Returns the current memory of this process in MB (Linux)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Step:
    """Prints the time of a block, the memory that it keeps and the peak memory."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before, self.start = resident(), time.perf_counter()

    def __exit__(self, *_):
        seconds = time.perf_counter() - self.start
        peak = peak_memory() / 1e6
        grown = resident() - self.before
        print(f"{self.name}: {seconds:.3f} s, {grown:+.0f} MB, peak {peak:.0f} MB", flush=True)


def write_list(path, rows, rng):
    """Writes a segment list and returns the YouTube IDs."""
    ids = LabelSet.load("audioset").ids
    frequency = 1 / np.arange(1, len(ids) + 1)
    labels = rng.choice(len(ids), (rows, 8), p=frequency / frequency.sum())
    counts = np.minimum(1 + rng.poisson(1, rows), 8)
    names = LETTERS[rng.integers(64, size=(rows, 11))].view("S11").ravel().astype(str)
    with open(path, "w", encoding="ascii") as file:
        file.write("# Segments csv\n# synthetic\n# YTID, start_seconds, end_seconds, labels\n")
        for name, row, count in zip(names, labels, counts, strict=True):
            mids = ",".join(dict.fromkeys(ids[index] for index in row[:count]))
            file.write(f'{name}, 30.000, 40.000, "{mids}"\n')
    return names


def write_index(folder, rows, shards):
    rng = np.random.default_rng(0)
    for name, size in (("unbalanced_train", rows), ("eval", max(1, rows // 100))):
        names = write_list(folder / f"{name}_segments.csv", size, rng)
        for shard in range(shards):
            (folder / f"{name}_{shard:02d}").mkdir()
        for index, ytid in enumerate(names):
            (folder / f"{name}_{index % shards:02d}" / f"Y{ytid}.wav").touch()


def measure(folder):
    with Step("load the labels"):
        LabelSet.load("audioset")
    with Step("parse the training CSV"):
        read_clip_list(str(folder / "unbalanced_train_segments.csv"), LabelSet.load("audioset"))
    with Step("read_audioset: parse, list folders, match"):
        dataset = read_audioset(str(folder), subset="unbalanced")
    train = dataset.split("train")
    print(dataset)
    for time_of in ("first", "second"):
        with Step(f"fingerprint, {time_of} time"):
            fingerprint(dataset)
    with Step("weights"):
        weights = clip_weights(train.targets, len(dataset.labels))
    with Step("sampling: sums of weights"):
        sampling = Weighted(weights, seed=1)
    del weights
    for epoch in range(3):
        with Step(f"epoch {epoch}: plan of the first batch"):
            [train.sources[sampling.index(epoch, place)] for place in range(BATCH_SIZE)]
    measure_draws(sampling, train)


def measure_draws(sampling, train):
    count = min(200_000, len(train))
    start, longest = time.perf_counter(), 0.0
    for place in range(count):
        before = time.perf_counter()
        sampling.index(7, place)
        longest = max(longest, time.perf_counter() - before)
    seconds = time.perf_counter() - start
    print(f"one by one: {count / seconds:,.0f} draws/s, longest draw {1000 * longest:.1f} ms")
    with Step(f"{len(train):,} draws in one call, one epoch"):
        sampling.order(8)
    shuffled = Shuffled(len(train), seed=1)
    with Step("shuffled instead: first place of an epoch"):
        shuffled.index(0, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--folder", type=pathlib.Path, help="folder to keep, reused if it exists")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or pathlib.Path(scratch)
        if not (folder / "eval_segments.csv").is_file():
            folder.mkdir(exist_ok=True)
            write_index(folder, options.rows, options.shards)
            print("index written; run again with the same --folder for the peak without writing")
        measure(folder)


if __name__ == "__main__":
    main()

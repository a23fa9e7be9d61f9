"""Speed of the input pipeline, as a ratio to a PyTorch DataLoader doing what the authors do.

    python -m benchmarks.pipeline --peer_python OTHER/bin/python [--workers 2] [--rounds 3]

Clips of noise are written as 16 kHz WAV and FLAC, in a folder and, with --records, in a built set
of ArrayRecord; nothing is cached. Ours decodes them into batches (`pipeline`), and makes their
log-mels too (`with filterbank`), which in training is the device's work. The peer's workers decode
with soundfile (torchaudio needs a further package for it), remove the mean, compute torchaudio's
filterbank, pad and normalise: the authors' `_wav2fbank`. Same clips, same batch size, as many
threads here as processes there, taking turns; torch and torchaudio need not be in TensorFlow's
environment.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from benchmarks.peer import start_peer

BATCH = 16
SECONDS = {1: 512, 5: 160, 10: 96}  # clips of each length


def write_clips(folder, seconds, suffix):
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seconds)
    for index in range(SECONDS[seconds]):
        clip = np.cumsum(rng.standard_normal(16000 * seconds))  # brown: FLAC has something to do
        clip = 0.5 * (clip - clip.mean()) / np.abs(clip - clip.mean()).max()
        soundfile.write(folder / f"{index:04d}{suffix}", clip, 16000, subtype="PCM_16")


# --- Theirs ---


def serve_peer(workers):
    """Times one pass over a folder for every line "FOLDER SECONDS" on standard input."""
    import soundfile
    import torch

    from tests.reference.torchaudio_fbank import load

    fbank = load()
    torch.set_num_threads(1)  # of the main process; a worker has one of its own

    class Clips(torch.utils.data.Dataset):
        def __init__(self, folder, seconds):
            self.paths = sorted(pathlib.Path(folder).iterdir())
            self.frames = {1: 128, 5: 512, 10: 1024}[seconds]

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            waveform, _ = soundfile.read(self.paths[index], dtype="float32")
            mels = torch.from_numpy(fbank(waveform - waveform.mean()))
            mels = torch.nn.functional.pad(mels, (0, 0, 0, self.frames - len(mels)))
            return (mels + 4.2677393) / (4.5689974 * 2)

    print("ready", flush=True)
    for line in sys.stdin:
        folder, seconds = line.split()
        loader = torch.utils.data.DataLoader(
            Clips(folder, int(seconds)), batch_size=BATCH, num_workers=workers
        )
        batches = iter(loader)  # the workers start here
        next(batches)
        start, count = time.perf_counter(), 0
        for batch in batches:
            count += len(batch)
        print(count / (time.perf_counter() - start), flush=True)


# --- Ours ---


def make_pipeline(split, seconds, workers):
    from ast_keras import Pipeline

    return Pipeline(
        split, num_classes=1, clip_samples=16000 * seconds, batch_size=BATCH, num_workers=workers
    )


def clips_per_second(pipeline, use=lambda batch: None):
    batches = pipeline.batches(0, pipeline.steps_per_epoch)
    use(next(batches))
    start, count = time.perf_counter(), 0
    for batch in batches:
        use(batch)
        count += len(batch["waveform"])
    return count / (time.perf_counter() - start)


def make_filterbank(seconds, workers):
    import tensorflow as tf

    from ast_keras import LogMelFilterbank

    layer = tf.function(LogMelFilterbank(num_frames={1: 128, 5: 512, 10: 1024}[seconds]))
    return lambda batch: layer(tf.constant(batch["waveform"]))


def folder_split(folder):
    from ast_keras import Split

    paths = sorted(map(str, folder.iterdir()))
    return Split(sources=paths, targets=[(0,)] * len(paths))


def record_split(folder, scratch):
    """Returns the same clips from ArrayRecord, encoded as they are."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from array_record.python.array_record_module import ArrayRecordWriter

    from ast_keras import Split

    path = scratch / f"{folder.name}.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    paths = sorted(folder.iterdir())
    for clip in paths:
        writer.write(clip.read_bytes())
    writer.close()
    return Split(sources=_Records(ArrayRecordDataSource(str(path))), targets=[(0,)] * len(paths))


class _Records:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[int(index)]


def measure(folder, seconds, peer, options, scratch):
    """Returns clips/s of every way, a list for each, in turns."""
    ways = {"pipeline": make_pipeline(folder_split(folder), seconds, options.workers)}
    ways["pipeline, ArrayRecord"] = make_pipeline(
        record_split(folder, scratch), seconds, options.workers
    )
    filterbank = make_filterbank(seconds, options.workers)
    rates = {name: [] for name in [*ways, "with filterbank", "DataLoader"]}
    for _ in range(options.rounds):
        for name, pipeline in ways.items():
            rates[name].append(clips_per_second(pipeline))
        rates["with filterbank"].append(clips_per_second(ways["pipeline"], filterbank))
        peer.stdin.write(f"{folder} {seconds}\n")
        peer.stdin.flush()
        rates["DataLoader"].append(float(peer.stdout.readline()))
    return rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve_peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_peer:
        serve_peer(options.workers)
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.workers)
    tf.config.threading.set_inter_op_parallelism_threads(options.workers)
    peer = start_peer(
        options.peer_python,
        "benchmarks.pipeline",
        ["--workers", options.workers],
        "torch, torchaudio and soundfile",
    )
    print(f"clips/s, medians of {options.rounds}, {options.workers} workers; ratio to DataLoader")
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in SECONDS:
            for suffix in (".wav", ".flac"):
                folder = pathlib.Path(scratch, f"{seconds}{suffix}")
                write_clips(folder, seconds, suffix)
                rates = measure(folder, seconds, peer, options, pathlib.Path(scratch))
                theirs = statistics.median(rates["DataLoader"])
                for name, values in rates.items():
                    ours = statistics.median(values)
                    print(
                        f"{seconds:3} s {suffix:5}  {name:22} {ours:8.0f} "
                        f"({min(values):.0f} to {max(values):.0f})  {ours / theirs:6.2f}"
                    )
    peer.stdin.close()


if __name__ == "__main__":
    main()

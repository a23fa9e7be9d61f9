"""Speed of the input pipeline relative to a PyTorch DataLoader that does what the authors' does.

    python -m benchmarks.pipeline --peer_python OTHER/bin/python [--workers 2] [--rounds 3]

Clips of noise are written as 16 kHz WAV and FLAC files, and the same files into ArrayRecord.
Nothing is cached. Our pipeline decodes them into batches (`pipeline`) and also computes log-mel
spectrograms (`with filterbank`), which is the device's work in training. The peer's workers decode
with soundfile (torchaudio needs another package for that), remove the mean, compute torchaudio's
filterbank, pad and normalise, as the authors' `_wav2fbank` does. Both use the same clips, the same
batch size and the same number of workers (threads here, processes there), and they take turns.
torch and torchaudio need not be in TensorFlow's environment.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from benchmarks.peer import Peer, PeerError, serve

BATCH = 16
SECONDS = {1: 512, 5: 160, 10: 96}  # number of clips by length


def write_clips(folder, seconds, suffix):
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seconds)
    for index in range(SECONDS[seconds]):
        clip = np.cumsum(rng.standard_normal(16000 * seconds))  # brown noise: FLAC can compress it
        clip = 0.5 * (clip - clip.mean()) / np.abs(clip - clip.mean()).max()
        soundfile.write(folder / f"{index:04d}{suffix}", clip, 16000, subtype="PCM_16")


# --- PyTorch ---


def prepare_loader(workers):
    """Returns the function that measures one pass over a folder in clips/s, for `serve`."""
    import soundfile
    import torch

    from tests.reference.torchaudio_fbank import load

    fbank = load()
    torch.set_num_threads(1)  # of the main process; each worker has one of its own

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

    def measure(request):
        loader = torch.utils.data.DataLoader(
            Clips(request["folder"], request["seconds"]), batch_size=BATCH, num_workers=workers
        )
        batches = iter(loader)  # starts the workers
        next(batches)
        start, count = time.perf_counter(), 0
        for batch in batches:
            count += len(batch)
        return count / (time.perf_counter() - start)

    return measure


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


def make_filterbank(seconds):
    import tensorflow as tf

    from ast_keras import LogMelFilterbank

    layer = tf.function(LogMelFilterbank(num_frames={1: 128, 5: 512, 10: 1024}[seconds]))
    return lambda batch: layer(tf.constant(batch["waveform"]))


def folder_split(folder):
    from ast_keras import Split

    paths = sorted(map(str, folder.iterdir()))
    return Split(sources=paths, targets=[(0,)] * len(paths))


def record_split(folder, scratch):
    """Returns a split with the same encoded files, read from ArrayRecord."""
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
    """Measures all variants in turns, and returns lists of clips/s by name."""
    splits = {
        "pipeline": folder_split(folder),
        "pipeline, ArrayRecord": record_split(folder, scratch),
    }
    pipelines = {
        name: make_pipeline(split, seconds, options.workers) for name, split in splits.items()
    }
    filterbank = make_filterbank(seconds)
    rates = {name: [] for name in [*pipelines, "with filterbank", "DataLoader"]}
    for _ in range(options.rounds):
        for name, pipeline in pipelines.items():
            rates[name].append(clips_per_second(pipeline))
        rates["with filterbank"].append(clips_per_second(pipelines["pipeline"], filterbank))
        rates["DataLoader"].append(peer.ask({"folder": str(folder), "seconds": seconds}))
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer_python", default=sys.executable, help="interpreter with torch and torchaudio"
    )
    parser.add_argument("--workers", type=int, default=2, help="threads, and workers of the peer")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each variant")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(lambda: prepare_loader(options.workers))
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.workers)
    tf.config.threading.set_inter_op_parallelism_threads(options.workers)
    peer = start_peer(options)
    print(f"clips/s, medians of {options.rounds}, {options.workers} workers; ratio to DataLoader")
    with tempfile.TemporaryDirectory() as scratch:
        for seconds in SECONDS:
            for suffix in (".wav", ".flac"):
                folder = pathlib.Path(scratch, f"{seconds}{suffix}")
                write_clips(folder, seconds, suffix)
                rates = measure(folder, seconds, peer, options, pathlib.Path(scratch))
                reference = statistics.median(rates["DataLoader"])
                for name, values in rates.items():
                    median = statistics.median(values)
                    print(
                        f"{seconds:3} s {suffix:5}  {name:22} {median:8.0f} "
                        f"({min(values):.0f} to {max(values):.0f})  {median / reference:6.2f}"
                    )
    peer.close()


def start_peer(options):
    peer = Peer(options.peer_python, "benchmarks.pipeline", "--serve", "--workers", options.workers)
    try:
        peer.wait_until_ready()
    except PeerError as error:
        sys.exit(
            "The DataLoader needs torch, torchaudio and soundfile: give --peer_python an "
            f"interpreter that has them. Received: {options.peer_python}: {error}"
        )
    return peer


if __name__ == "__main__":
    main()

"""Speed of decoding and resampling, relative to a plain read by soundfile.

    python -m benchmarks.decoding [--seconds 5] [--rounds 10]

Encoded bytes in, float32 `[samples]` out, called from one Python thread and from two. The decoders
take turns, and the best of all rounds counts; on a busy machine rely on the processor time.
`load_audio` does more than the others: it checks the samples and whether the file is complete.
`decode_audio` is the graph function of that name, through tensorflow-io with the same checks;
`load_audio in a graph` is what it would take without tensorflow-io.

Reason for the implementation of `ast_keras.audio` (two cores, 5 s clips, processor time): WAV takes
`load_audio` 0.13 ms, and soundfile's own float32 and tensorflow-io 0.21 ms each; FLAC takes
tensorflow-io 7.8 ms, soundfile 1.0 ms; from 44.1 kHz tensorflow-io takes 115 ms, soxr 1.1 ms.
`decode_audio` (5 s clips at 16 kHz, two threads on a busy machine, processor time): WAV 2.2 ms,
FLAC 11.6 ms, MP3 10.1 ms, Ogg 16.2 ms; `load_audio` in a graph 1.6, 2.6, 3.8 and 3.8 ms.
"""

import argparse
import concurrent.futures
import functools
import io
import math
import time
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from ast_keras import decode_audio, load_audio

Decoder = Callable[[bytes], np.ndarray]
CODECS = {"WAV": "PCM_16", "FLAC": "PCM_16", "MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}


def noise(seconds: float, rate: int, container: str) -> bytes:
    """Returns an encoded mono clip, lossless of 16 bits: low-pass noise, hard to compress."""
    rng = np.random.default_rng(0)
    samples = np.convolve(rng.standard_normal(round(seconds * rate)), np.ones(8) / 8, "same") / 4
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=CODECS[container])
    return file.getvalue()


def with_soundfile(data: bytes) -> np.ndarray:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return file.read(dtype="float32")


def with_load_audio(data: bytes) -> np.ndarray:
    return load_audio(data, 16_000)


def tensorflow_decoders(container: str, rate: int) -> dict[str, Decoder]:
    """Returns the decoders that need TensorFlow, those that are installed."""
    decoders: dict[str, Decoder] = {}
    try:
        import tensorflow as tf
    except ImportError:
        return decoders

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def load_in_graph(data: tf.Tensor) -> tf.Tensor:
        load = tf.autograph.experimental.do_not_convert(with_load_audio)
        return tf.numpy_function(load, [data], tf.float32)

    decode_in_graph = tf.function(decode_audio, input_signature=[tf.TensorSpec([], tf.string)])
    decoders["load_audio in a graph"] = lambda data: load_in_graph(data).numpy()
    decoders["decode_audio"] = lambda data: decode_in_graph(data).numpy()
    if container == "WAV" and rate == 16_000:
        decoders["tf.audio"] = lambda data: tf.audio.decode_wav(data)[0][:, 0].numpy()
    try:
        import tensorflow_io as tfio

        decode = {
            "WAV": functools.partial(tfio.audio.decode_wav, dtype=tf.int16),
            "FLAC": functools.partial(tfio.audio.decode_flac, dtype=tf.int16),
            "MP3": tfio.audio.decode_mp3,
            "OGG": tfio.audio.decode_vorbis,
        }[container]
        decode(noise(0.1, 16_000, container))
    except (ImportError, NotImplementedError):
        return decoders

    def with_tensorflow_io(data: bytes) -> np.ndarray:
        samples = decode(data).numpy()[:, 0]
        if samples.dtype == np.int16:
            samples = samples * np.float32(1 / 32_768)
        if rate == 16_000:
            return samples
        return tfio.audio.resample(samples, rate, 16_000).numpy()

    decoders["tensorflow-io"] = with_tensorflow_io
    return decoders


def decoders_of(container: str, rate: int) -> dict[str, Decoder]:
    """Returns the decoders to 16 kHz by name, the reference first."""

    def resampled(data: bytes) -> np.ndarray:
        return soxr.resample(with_soundfile(data), rate, 16_000, quality="HQ")

    reference = with_soundfile if rate == 16_000 else resampled
    decoders = {"soundfile": reference, "load_audio": with_load_audio}
    return {**decoders, **tensorflow_decoders(container, rate)}


def burst(decode: Decoder, data: bytes, threads: int, calls: int) -> tuple[float, float]:
    """Returns the wall and processor seconds per clip over a burst of calls."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [data] * threads))
        wall, processor = time.perf_counter(), time.process_time()
        for done in [pool.submit(repeat, decode, data, calls) for _ in range(threads)]:
            done.result()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall / (calls * threads), processor / (calls * threads)


def repeat(decode: Decoder, data: bytes, calls: int) -> None:
    for _ in range(calls):
        decode(data)


def measure(
    decoders: dict[str, Decoder], data: bytes, threads: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Returns the smallest wall and processor seconds per clip of each decoder."""
    best = {name: (math.inf, math.inf) for name in decoders}
    for _ in range(rounds):
        for name, decode in decoders.items():
            start = time.perf_counter()
            decode(data)
            calls = max(1, round(0.03 / (time.perf_counter() - start)))
            wall, processor = burst(decode, data, threads, calls)
            best[name] = (min(best[name][0], wall), min(best[name][1], processor))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each decoder")
    options = parser.parse_args()
    print(f"{options.seconds:g} s mono clips to 16 kHz; ratios of speed to soundfile's")
    for container in CODECS:
        for rate in (16_000, 44_100):
            data, decoders = noise(options.seconds, rate, container), decoders_of(container, rate)
            for threads in (1, 2):
                found = measure(decoders, data, threads, options.rounds)
                for name, (wall, processor) in found.items():
                    print(
                        f"{container:4} {rate:6} Hz  {threads} thread(s)  {name:21} "
                        f"{1 / wall:7,.0f} clips/s {found['soundfile'][0] / wall:6.2f}x  processor "
                        f"{processor * 1e3:7.3f} ms {found['soundfile'][1] / processor:6.2f}x"
                    )


if __name__ == "__main__":
    main()

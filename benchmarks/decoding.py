"""Speed of decoding and resampling, as ratios to a plain read by soundfile.

    python -m benchmarks.decoding [--seconds 5] [--rounds 8]

Encoded bytes in, float32 `[samples]` out, called from one Python thread and from two, best of all
rounds; the peers take turns within a round. Why `ast_keras.audio` decodes as it does: on a machine
of two cores, soundfile reading integers beats tensorflow-io on WAV by two to three times, and
soundfile beats it on FLAC, soxr on resampling by far more.
"""

import argparse
import concurrent.futures
import io
import time
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from ast_keras.audio import load_audio

Peer = Callable[[bytes], np.ndarray]


def noise(seconds: float, rate: int, container: str) -> bytes:
    """Returns an encoded mono clip of 16 bits: pink-like noise, which FLAC finds hard to pack."""
    rng = np.random.default_rng(0)
    samples = np.convolve(rng.standard_normal(round(seconds * rate)), np.ones(8) / 8, "same") / 4
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype="PCM_16")
    return file.getvalue()


def with_soundfile(data: bytes) -> np.ndarray:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return file.read(dtype="float32")


def with_load_audio(data: bytes) -> np.ndarray:
    return load_audio(data, 16_000)


def tensorflow_peers(container: str, rate: int) -> dict[str, Peer]:
    """Returns the peers that need TensorFlow, as far as they are installed."""
    peers: dict[str, Peer] = {}
    try:
        import tensorflow as tf
    except ImportError:
        return peers
    if container == "WAV" and rate == 16_000:
        peers["tf.audio"] = lambda data: tf.audio.decode_wav(data)[0][:, 0].numpy()
    try:
        import tensorflow_io as tfio

        decode = tfio.audio.decode_wav if container == "WAV" else tfio.audio.decode_flac
        decode(noise(0.1, 16_000, container), dtype=tf.int16)
    except (ImportError, NotImplementedError):
        return peers

    def with_tensorflow_io(data: bytes) -> np.ndarray:
        samples = decode(data, dtype=tf.int16).numpy()[:, 0] * np.float32(1 / 32_768)
        if rate == 16_000:
            return samples
        return tfio.audio.resample(samples, rate, 16_000).numpy()

    peers["tensorflow-io"] = with_tensorflow_io
    return peers


def peers_of(container: str, rate: int) -> dict[str, Peer]:
    """Returns the ways to turn these bytes into samples at 16 kHz, the reference first."""

    def resampled(data: bytes) -> np.ndarray:
        return soxr.resample(with_soundfile(data), rate, 16_000, quality="HQ")

    reference = with_soundfile if rate == 16_000 else resampled
    peers = {"soundfile": reference, "load_audio": with_load_audio}
    return {**peers, **tensorflow_peers(container, rate)}


def clips_per_second(decode: Peer, data: bytes, threads: int, budget: float) -> float:
    """Returns the rate at which a pool decodes the clip, over about `budget` seconds."""
    start = time.perf_counter()
    decode(data)
    calls = max(2, round(budget / (time.perf_counter() - start))) // threads * threads
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [data] * threads))
        start = time.perf_counter()
        done = [
            pool.submit(lambda: [decode(data) for _ in range(calls // threads)] and None)
            for _ in range(threads)
        ]
        for future in done:
            future.result()
        return calls / (time.perf_counter() - start)


def measure(peers: dict[str, Peer], data: bytes, threads: int, rounds: int) -> dict[str, float]:
    """Returns the best clips per second of each peer."""
    best = dict.fromkeys(peers, 0.0)
    for _ in range(rounds):
        for name, decode in peers.items():
            best[name] = max(best[name], clips_per_second(decode, data, threads, budget=0.1))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each peer")
    options = parser.parse_args()
    print(f"{options.seconds:g} s mono clips to 16 kHz; ratio to soundfile at the same threads")
    for container in ("WAV", "FLAC"):
        for rate in (16_000, 44_100):
            data, peers = noise(options.seconds, rate, container), peers_of(container, rate)
            for threads in (1, 2):
                found = measure(peers, data, threads, options.rounds)
                for name, speed in found.items():
                    ratio = speed / found["soundfile"]
                    print(
                        f"{container:5}{rate:6} Hz  {threads} thread{'s' * (threads > 1):1}  "
                        f"{name:14}{speed:9,.0f} clips/s {ratio:7.2f}x"
                    )


if __name__ == "__main__":
    main()

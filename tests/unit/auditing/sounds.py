"""Recordings for the tests of the audit, and an oracle of their statistics."""

import io

import numpy as np
import soundfile

from tests.reference import kaldi_fbank


def noise(seconds=1.0, rate=16000, level=0.1, seed=0):
    """Returns noise whose level changes every 50 ms, like the level of recordings."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.uniform(0.05, 1, int(20 * seconds) + 1), rate // 20)
    return level * steps[: int(seconds * rate)] * rng.standard_normal(int(seconds * rate))


def encoded(samples, rate=16000, format="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def direct(waveforms, num_frames):
    """Returns mean and deviation over padded and over unpadded clips, computed in two passes."""
    own, padded = [], []
    for waveform in waveforms:
        frames = kaldi_fbank.fbank(waveform)[:num_frames]
        own.append(frames.ravel())
        padded.append(np.pad(frames, ((0, num_frames - len(frames)), (0, 0))).ravel())
    return [(np.mean(x), np.std(x)) for x in (np.concatenate(padded), np.concatenate(own))]

"""Difficult test waveforms for a filterbank: seeded, from -80 dBFS to clipped, of any length."""

import numpy as np

KINDS = ("noise", "sine", "impulses", "dc", "dc and noise", "chirp", "clipped", "silence", "step",
         "harmonics")  # fmt: skip
NUM_CASES = 150


def make_case(seed, sample_rate=16000):
    """Returns the kind, the window and the float32 waveform (400 to 48,000 samples) of a case."""
    rng = np.random.RandomState(seed)
    kind, window = KINDS[seed % len(KINDS)], ("hann", "hamming")[seed // len(KINDS) % 2]
    samples = rng.randint(400, 3 * sample_rate)
    level = 10 ** (rng.uniform(-80, 0) / 20)
    waveform = _render(kind, rng, level, np.arange(samples) / sample_rate)
    # Rounded to 24 bits, as decoders return them: the same float32 values on every platform.
    waveform = np.clip(np.round(waveform * 2**23) / 2**23, -1, 1)
    return kind, window, waveform.astype(np.float32)


def _render(kind, rng, level, time):
    samples = len(time)
    noise = rng.standard_normal(samples)
    hertz, phase = rng.uniform(20, 7900), rng.uniform(0, 2 * np.pi)
    if kind == "noise":
        return 0.3 * level * noise
    if kind == "sine":
        return level * np.sin(2 * np.pi * hertz * time + phase)
    if kind == "impulses":
        places = rng.randint(0, samples, 1 + samples // 800)
        return level * np.isin(np.arange(samples), places)
    if kind == "dc":
        return np.full(samples, rng.uniform(-1, 1))
    if kind == "dc and noise":
        return rng.uniform(-0.9, 0.9) + 0.1 * level * noise
    if kind == "chirp":
        return level * np.sin(2 * np.pi * (100 + 3900 * time / time[-1]) * time)
    if kind == "clipped":
        return 3 * np.sin(2 * np.pi * hertz / 3 * time) + noise
    if kind == "silence":
        return np.zeros(samples)
    if kind == "step":
        return np.where(time < time[-1] / 2, 0.8, -0.6) + 0.1 * level * noise
    return 0.3 * level * sum(np.sin(2 * np.pi * 110 * k * time + k) / k for k in range(1, 30))

"""Rendering of ten classes of sounds from random numbers.

Level, pitch, onset, duration and background have the same distribution in every class, so that only
the pattern in time and frequency distinguishes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Renderer = Callable[[np.random.Generator, int, int], Waveform]

PITCH_HZ = (250.0, 1600.0)  # in every class: the fundamental, or the centre of a band
LEVEL_DBFS = (-45.0, -20.0)  # RMS of the clip; low enough that the peaks of clicks fit
SNR_DB = (5.0, 30.0)
BACKGROUNDS = ("white", "pink", "brown", "babble")
_MAX_PEAK = 0.95


def _uniform_log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


def _pitch(rng: np.random.Generator) -> float:
    return _uniform_log(rng, *PITCH_HZ)


def _seconds(num_samples: int, sample_rate: int) -> Waveform:
    return np.arange(num_samples, dtype=np.float32) / np.float32(sample_rate)


def _phase(hz: Floats, sample_rate: int) -> Waveform:
    """Integrates a frequency contour, in float64 for the phase of long clips."""
    cycles = np.cumsum(hz, dtype=np.float64) / sample_rate
    return ((cycles % 1.0) * (2 * np.pi)).astype(np.float32)


def _harmonics(phase: Waveform, amplitudes: Sequence[float]) -> Waveform:
    """Sums sin(k x) over k, by sin(k x) = 2 cos(x) sin((k - 1) x) - sin((k - 2) x)."""
    twice_cos = 2 * np.cos(phase)
    previous, current = np.zeros_like(phase), np.sin(phase)
    out = np.float32(amplitudes[0]) * current
    for amplitude in amplitudes[1:]:
        previous, current = current, twice_cos * current - previous
        out += np.float32(amplitude) * current
    return out


def _glide(rng: np.random.Generator, hz: Floats, sample_rate: int) -> Waveform:
    """Renders a tone of up to four harmonics, all below the Nyquist frequency, along a contour."""
    count = min(4, int(0.45 * sample_rate / float(hz.max())))
    slope = rng.uniform(0.7, 2.0)
    return _harmonics(_phase(hz, sample_rate), [k**-slope for k in range(1, max(count, 1) + 1)])


def _fast_length(num_samples: int) -> int:
    """Rounds up to a multiple of a power of two, for a fast Fourier transform."""
    step = max(1, 1 << (num_samples.bit_length() - 4))
    return -(-num_samples // step) * step


def _band(hz: Waveform, centre_hz: float, octaves: float) -> Waveform:
    """Returns the gains of a bell-shaped band on a logarithmic frequency axis."""
    distance = np.log2(np.maximum(hz, 1.0) / np.float32(centre_hz)) / np.float32(octaves)
    gains: Waveform = np.exp(-0.5 * distance * distance)
    return gains


def _impulses(
    rng: np.random.Generator, positions: npt.NDArray[np.int64], num_samples: int, sample_rate: int
) -> Waveform:
    """Renders an impulse at each position, filtered by a wide band around the pitch."""
    length = _fast_length(num_samples)
    train = np.zeros(length, np.float32)
    amplitudes = rng.exponential(1.0, len(positions)) + 0.3
    train[positions] = amplitudes * rng.choice((-1.0, 1.0), len(positions))
    hz = np.fft.rfftfreq(length, 1 / sample_rate).astype(np.float32)
    gains = _band(hz, _pitch(rng), rng.uniform(0.7, 1.3))
    return np.fft.irfft(np.fft.rfft(train) * gains, length)[:num_samples].astype(np.float32)


def _bell(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders one strike: inharmonic partials, of which higher ones decay faster."""
    t = _seconds(num_samples, sample_rate)
    ratios = np.array([0.5, 1.0, 1.19, 1.56, 2.0, 2.66, 3.76]) * rng.normal(1.0, 0.01, 7)
    hz = ratios * _pitch(rng)
    decay = rng.uniform(0.25, 0.6) / np.sqrt(ratios)
    out = np.zeros(num_samples, np.float32)
    for f, tau in zip(hz, decay, strict=True):
        if f > 0.45 * sample_rate:
            continue
        amplitude = np.float32(rng.uniform(0.3, 1.0))
        out += amplitude * np.exp(-t / np.float32(tau)) * np.sin(t * np.float32(2 * np.pi * f))
    return out


def _rising(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    return _sweep(rng, num_samples, sample_rate, up=True)


def _falling(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    return _sweep(rng, num_samples, sample_rate, up=False)


def _sweep(rng: np.random.Generator, num_samples: int, sample_rate: int, up: bool) -> Waveform:
    """Renders a tone that glides by up to one and a half octaves around its pitch."""
    course = np.linspace(-0.5, 0.5, num_samples, dtype=np.float32)
    course += np.float32(rng.uniform(-0.4, 0.4)) * (np.float32(0.25) - course * course)
    octaves = rng.uniform(0.7, 1.5) * (1 if up else -1)
    return _glide(rng, _pitch(rng) * np.exp2(np.float32(octaves) * course), sample_rate)


def _siren(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders a tone with a slow vibrato."""
    t = _seconds(num_samples, sample_rate)
    swing = np.sin(np.float32(2 * np.pi) * (np.float32(rng.uniform(2.5, 6.0)) * t + rng.random()))
    octaves = np.float32(rng.uniform(0.2, 0.5))
    return _glide(rng, _pitch(rng) * np.exp2(octaves * swing.astype(np.float32)), sample_rate)


def _engine(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders a steady low hum with a resonance at the pitch and a fluttering level."""
    t = _seconds(num_samples, sample_rate)
    f0 = _uniform_log(rng, 70.0, 180.0)
    drift = 1 + 0.02 * np.sin(2 * np.pi * (rng.uniform(0.5, 2.0) * t + rng.random()))
    count = min(40, int(0.45 * sample_rate / (1.02 * f0)))
    gains = _band(np.arange(1, count + 1, dtype=np.float32) * f0, _pitch(rng), 0.6) + 0.02
    hum = _harmonics(_phase(f0 * drift, sample_rate), list(map(float, gains)))
    flutter = np.sin(np.float32(2 * np.pi * rng.uniform(9.0, 22.0)) * t)
    hum *= 1 + np.float32(rng.uniform(0.4, 0.9)) * flutter
    return hum


def _rain(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders hundreds of drops a second, which blend into a steady wide band."""
    drops = int(rng.uniform(400, 1500) * num_samples / sample_rate)
    return _impulses(rng, rng.integers(0, num_samples, drops), num_samples, sample_rate)


def _clicks(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders single short clicks at irregular times."""
    gaps = rng.exponential(1 / rng.uniform(8.0, 20.0), 1 + int(30 * num_samples / sample_rate))
    at = (np.cumsum(gaps + 0.015) * sample_rate).astype(np.int64)
    at = np.concatenate([at[at < num_samples], [num_samples // 2]])
    return _impulses(rng, at, num_samples, sample_rate)


def _birdsong(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders a sequence of short chirps with fast glides."""
    out = np.zeros(num_samples, np.float32)
    pitch, period = _pitch(rng), rng.uniform(0.09, 0.18) * sample_rate
    glides = rng.choice((-1.0, 1.0), 2) * rng.uniform(0.4, 1.0, 2)  # two syllables alternate
    for number, start in enumerate(np.arange(0, num_samples - 0.03 * sample_rate, period)):
        begin = int(start + rng.uniform(0, 0.1) * period)
        length = min(int(rng.uniform(0.4, 0.6) * period), num_samples - begin)
        course = np.linspace(-0.5, 0.5, max(length, 2), dtype=np.float32)
        hz = pitch * rng.uniform(0.9, 1.1) * np.exp2(np.float32(glides[number % 2]) * course)
        chirp = _glide(rng, hz, sample_rate) * np.cos(np.float32(np.pi) * course)
        out[begin : begin + length] += chirp[:length]
    return out


def _knock(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders a steady beat of strokes, each a resonance that decays quickly."""
    out = np.zeros(num_samples, np.float32)
    pitch, period = _pitch(rng), rng.uniform(0.13, 0.24) * sample_rate
    t = _seconds(int(min(period, num_samples)), sample_rate)
    stroke = np.exp(-t / np.float32(rng.uniform(0.015, 0.04)))
    angle = t * np.float32(2 * np.pi * pitch)
    stroke *= np.sin(angle) + np.float32(0.6) * np.sin(np.float32(rng.uniform(1.4, 1.8)) * angle)
    for start in np.arange(0, num_samples, period).astype(int):
        part = out[start : start + len(stroke)]
        part += np.float32(rng.uniform(0.6, 1.0)) * stroke[: len(part)]
    return out


def _wind(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders a narrow band of noise whose centre frequency and level wander."""
    t = _seconds(num_samples, sample_rate)
    rate, phase = rng.uniform(0.8, 2.5, 2), rng.random(2)
    gusts = np.sin(np.float32(2 * np.pi) * (rate[:, None].astype(np.float32) * t + phase[:, None]))
    hz = _pitch(rng) * np.exp2(np.float32(rng.uniform(0.2, 0.5)) * gusts[0])
    angle = _phase(hz, sample_rate)
    width_hz = rng.uniform(40.0, 120.0)
    sides = [_slow_noise(rng, num_samples, sample_rate, width_hz) for _ in range(2)]
    strength = 1 + np.float32(rng.uniform(0.3, 0.7)) * gusts[1].astype(np.float32)
    out: Waveform = strength * (sides[0] * np.cos(angle) + sides[1] * np.sin(angle))
    return out


def _slow_noise(
    rng: np.random.Generator, num_samples: int, sample_rate: int, width_hz: float
) -> Waveform:
    """Renders noise from 0 Hz to `width_hz`."""
    length = _fast_length(num_samples)
    bins = 1 + int(width_hz * length / sample_rate)
    spectrum = np.zeros(length // 2 + 1, np.complex64)
    spectrum[:bins] = rng.standard_normal((bins, 2), np.float32).view(np.complex64)[:, 0]
    return np.fft.irfft(spectrum, length)[:num_samples].astype(np.float32)


def _background(rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders coloured noise, or noise with the spectrum and the rhythm of distant speech."""
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    if kind == "white":
        return rng.standard_normal(num_samples, np.float32)
    length = _fast_length(num_samples)
    spectrum = rng.standard_normal((length // 2 + 1, 2), np.float32).view(np.complex64)[:, 0]
    hz = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate).astype(np.float32), 20.0)
    exponent = {"pink": 0.5, "brown": 1.0, "babble": 1.5}[kind]
    corner = np.maximum(hz, 500.0) if kind == "babble" else hz
    noise = np.fft.irfft(spectrum * corner**-exponent, length)[:num_samples].astype(np.float32)
    if kind == "babble":
        syllables = np.sin(2 * np.pi * rng.uniform(3.0, 6.0) * _seconds(num_samples, sample_rate))
        noise *= 1 + np.float32(0.6) * syllables.astype(np.float32)
    return noise


RENDERERS: dict[str, Renderer] = {
    "bell": _bell,
    "rising": _rising,
    "falling": _falling,
    "siren": _siren,
    "engine": _engine,
    "rain": _rain,
    "clicks": _clicks,
    "birdsong": _birdsong,
    "knock": _knock,
    "wind": _wind,
}


def _scaled(sound: Waveform, dbfs: float) -> Waveform:
    """Scales to a root mean square in dB relative to 1."""
    rms = float(np.sqrt(np.dot(sound, sound) / len(sound)))
    return sound * np.float32(10 ** (dbfs / 20) / max(rms, 1e-9))


def render(label: str, rng: np.random.Generator, num_samples: int, sample_rate: int) -> Waveform:
    """Renders one clip of a class: a sound at a random time, over a background.

    Args:
        label: Class, a key of `RENDERERS`.
        rng: Source of all random numbers.
        num_samples: Length of the clip in samples.
        sample_rate: Sample rate in Hz.

    Returns:
        Waveform, float32 `[num_samples]`, in [-0.95, 0.95].

    Example:

    >>> render("bell", np.random.default_rng(0), 16000, 16000).shape
    (16000,)
    """
    length = int(num_samples * rng.uniform(0.5, 0.95))
    onset = int(rng.uniform(0, num_samples - length))
    sound = np.zeros(num_samples, np.float32)
    sound[onset : onset + length] = _faded(RENDERERS[label](rng, length, sample_rate), sample_rate)
    level = rng.uniform(*LEVEL_DBFS)
    background = _background(rng, num_samples, sample_rate)
    clip = _scaled(sound, level) + _scaled(background, level - rng.uniform(*SNR_DB))
    peak = float(np.abs(clip).max())
    return clip * np.float32(_MAX_PEAK / peak) if peak > _MAX_PEAK else clip


def _faded(sound: Waveform, sample_rate: int) -> Waveform:
    """Fades both ends; the start so briefly that strokes remain sharp."""
    for seconds, end in ((0.002, sound), (0.02, sound[::-1])):
        ramp = np.linspace(0, 1, int(seconds * sample_rate), dtype=np.float32)
        end[: len(ramp)] *= ramp
    return sound

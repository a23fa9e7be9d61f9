"""Kaldi's log-mel filterbank in float64 NumPy, as a reference for `LogMelFilterbank`.

It shares no code with the library and is written for reading, not for speed. The definition is that
of Kaldi's `compute-fbank-feats` (feature-window.cc, mel-computations.cc) with the options of the
AST authors: no dither, no energy row, only complete frames, waveform in [-1, 1].
"""

import functools
import math

import numpy as np

FLOOR = 2.0**-23  # machine epsilon of float32: Kaldi's lower bound before the logarithm


def window(name, length):
    """Returns the symmetric window of `length` samples."""
    angle = 2.0 * math.pi * np.arange(length) / (length - 1)
    return {"hann": 0.5 - 0.5 * np.cos(angle), "hamming": 0.54 - 0.46 * np.cos(angle)}[name]


def mel(hertz):
    """Returns Kaldi's mel of a frequency: 1127 ln(1 + f / 700)."""
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@functools.cache
def filters(num_mel_bins, fft_length, sample_rate, f_min_hz, f_max_hz):
    """Returns filters [bins, mel]: triangles on the mel scale, zero at the Nyquist bin."""
    edges = np.linspace(mel(f_min_hz), mel(f_max_hz), num_mel_bins + 2)
    matrix = np.zeros((fft_length // 2 + 1, num_mel_bins))
    for k in range(fft_length // 2):
        position = mel(k * sample_rate / fft_length)
        for m in range(num_mel_bins):
            left, centre, right = edges[m : m + 3]
            if left < position <= centre:
                matrix[k, m] = (position - left) / (centre - left)
            elif centre < position < right:
                matrix[k, m] = (right - position) / (right - centre)
    return matrix


def fbank(
    waveform,
    window_name="hann",
    num_mel_bins=128,
    sample_rate=16000,
    frame_length=400,
    frame_step=160,
    f_min_hz=20.0,
    f_max_hz=8000.0,
    preemphasis=0.97,
):
    """Returns the log-mel filterbank [frames, mel] of a waveform [samples], in float64."""
    waveform = np.asarray(waveform, np.float64)
    fft_length = 1
    while fft_length < frame_length:
        fft_length *= 2
    shape = window(window_name, frame_length)
    starts = range(0, len(waveform) - frame_length + 1, frame_step)
    frames = np.zeros((len(starts), fft_length))
    for row, start in zip(frames, starts, strict=True):
        samples = waveform[start : start + frame_length]
        samples = samples - samples.mean()
        before = np.concatenate([samples[:1], samples[:-1]])
        row[:frame_length] = (samples - preemphasis * before) * shape
    power = np.abs(np.fft.rfft(frames)) ** 2
    energies = power @ filters(num_mel_bins, fft_length, sample_rate, f_min_hz, f_max_hz)
    return np.log(np.maximum(energies, FLOOR))

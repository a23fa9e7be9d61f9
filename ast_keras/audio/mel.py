"""Constants of Kaldi's log-mel filterbank: windows, mel filters and frame counts, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ast_keras.errors import ArgumentError

FloatArray = npt.NDArray[np.float64]

# Kaldi's lower bound of an energy before the logarithm (-15.942): the machine epsilon of float32.
ENERGY_FLOOR = 2.0**-23


def window(name: str, length: int) -> FloatArray:
    """Returns a symmetric window.

    The released AST weights were trained with "hann", although the paper names Hamming.

    Args:
        name: Name of the window, "hann" or "hamming".
        length: Length in samples, at least 2.

    Returns:
        float64 array `[length]`.

    Raises:
        ArgumentError: If the name is unknown.

    Example:

    >>> window("hann", 5).round(3).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    offsets = {"hann": 0.5, "hamming": 0.54}
    if name not in offsets:
        raise ArgumentError(
            f"window must be one of {', '.join(offsets)}. Received: window={name!r}"
        )
    angle = 2 * np.pi * np.arange(length) / (length - 1)
    shape: FloatArray = offsets[name] - (1 - offsets[name]) * np.cos(angle)
    return shape


def fft_length(frame_length: int) -> int:
    """Returns the length to which Kaldi zero-pads a frame: the next power of two.

    Args:
        frame_length: Length of a frame in samples.

    Example:

    >>> fft_length(400)
    512
    """
    return 1 << (frame_length - 1).bit_length()


def fourier_kernel(
    shape: FloatArray, preemphasis: float, fft_size: int
) -> npt.NDArray[np.complex128]:
    """Returns the matrix that maps a frame to its spectrum.

    It combines all linear steps of Kaldi's filterbank: removal of the frame's mean, pre-emphasis,
    windowing and the Fourier transform.

    Args:
        shape: Window `[frame_length]`.
        preemphasis: Coefficient of the pre-emphasis filter `x[n] - preemphasis * x[n - 1]`.
        fft_size: Length of the Fourier transform in samples.

    Returns:
        complex128 array `[frame_length, fft_size // 2 + 1]`.

    Example:

    >>> kernel = fourier_kernel(window("hann", 400), 0.97, 512)
    >>> kernel.shape, bool(abs(np.ones(400) @ kernel).max() < 1e-12)
    ((400, 257), True)
    """
    length = len(shape)
    frame = np.eye(length)  # row i is a frame in which only sample i is not zero
    before = np.concatenate([frame[:, :1], frame[:, :-1]], axis=1)
    emphasised = frame - preemphasis * before
    centred = emphasised - emphasised.mean(axis=0)
    return np.fft.rfft(centred * shape, fft_size, axis=1)


def num_frames(num_samples: int, frame_length: int = 400, frame_step: int = 160) -> int:
    """Returns the number of complete frames in a waveform; the samples after the last are unused.

    Args:
        num_samples: Length of the waveform in samples.
        frame_length: Length of a frame in samples.
        frame_step: Distance between the starts of two frames in samples.

    Example:

    >>> num_frames(160_000), num_frames(399)
    (998, 0)
    """
    return max(0, (num_samples - frame_length) // frame_step + 1)


def hertz_to_mel(hertz: npt.ArrayLike) -> FloatArray:
    """Converts frequencies in Hz to Kaldi's mel scale, `1127 ln(1 + f / 700)`.

    Args:
        hertz: Frequencies in Hz, of any shape.

    Example:

    >>> round(float(hertz_to_mel(1000.0)), 2)
    999.99
    """
    mel: FloatArray = 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)
    return mel


def mel_filterbank(
    num_mel_bins: int = 128,
    fft_size: int = 512,
    sample_rate: int = 16000,
    f_min_hz: float = 20.0,
    f_max_hz: float | None = None,
) -> FloatArray:
    """Returns the matrix that maps a power spectrum to mel energies.

    The filters are triangles that are evenly spaced on the mel scale and not normalised. As in
    Kaldi, no filter includes the Nyquist bin. With many filters the lowest ones are narrower than
    the spacing of the spectrum, and some of them are zero everywhere.

    Args:
        num_mel_bins: Number of filters.
        fft_size: Length of the Fourier transform in samples.
        sample_rate: Sample rate in Hz.
        f_min_hz: Lower edge of the first filter in Hz.
        f_max_hz: Upper edge of the last filter in Hz. None selects half the sample rate.

    Returns:
        float64 array `[fft_size // 2 + 1, num_mel_bins]`.

    Raises:
        ArgumentError: Unless `0 <= f_min_hz < f_max_hz <= sample_rate / 2`.

    Reference:
        Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011; feat/mel-computations.cc.

    Example:

    >>> mel_filterbank().shape
    (257, 128)
    """
    nyquist = sample_rate / 2
    top = nyquist if f_max_hz is None else f_max_hz
    if not 0 <= f_min_hz < top <= nyquist:
        raise ArgumentError(
            "The filterbank must satisfy 0 <= f_min_hz < f_max_hz <= sample_rate / 2. "
            f"Received: f_min_hz={f_min_hz}, f_max_hz={f_max_hz}, sample_rate={sample_rate}"
        )
    edges = np.linspace(hertz_to_mel(f_min_hz), hertz_to_mel(top), num_mel_bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = hertz_to_mel(np.arange(fft_size // 2) * sample_rate / fft_size)[:, None]
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    return np.pad(weights, ((0, 1), (0, 0)))


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Returns a duration as a number of samples, rounded down as in Kaldi.

    Args:
        seconds: Duration in seconds.
        sample_rate: Sample rate in Hz.

    Example:

    >>> seconds_to_samples(0.025, 16000)
    400
    """
    # Rounded to six decimals first: 0.07 * 100 is 7.000000000000001 in floating point.
    return math.floor(round(seconds * sample_rate, 6))

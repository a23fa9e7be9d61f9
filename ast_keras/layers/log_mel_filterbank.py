"""Waveform to normalised log-mel spectrogram, Kaldi's filterbank on `tf.signal`."""

import keras
import numpy as np
import tensorflow as tf

from ast_keras.audio import mel
from ast_keras.errors import ArgumentError
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD


@keras.saving.register_keras_serializable(package="ast_keras")
class LogMelFilterbank(keras.layers.Layer):
    """Computes Kaldi's log-mel filterbank of a waveform, cut or padded and normalised as AST wants.

    Per clip the mean is removed; per frame of 25 ms, every 10 ms, the mean is removed again,
    pre-emphasis and a window applied, and the power spectrum summed by triangular mel filters. The
    natural logarithm is padded with 0.0 at the end, or cut, to `num_frames`, and normalised to
    `(x - mean) / (2 std)`. Padding comes before the normalisation, so it is not zero afterwards:
    it is `padding_value`. `mean=0, std=0.5` leaves the logarithms as they are.

    The result is float32 under every precision policy, as half precision cannot hold a power
    spectrum. With the method "fft" the arithmetic inside, up to the energies, is float64: in
    float32 the weak bins of a strongly tonal frame drown in the rounding of the strong ones. "conv"
    is for phones and browsers: what is linear in a frame, from its mean to the Fourier transform,
    is one strided convolution in float32, and nothing else needs an operator that a GPU there
    lacks. The two differ by less than 1e-4, and by up to 1e-3 in such weak bins.

    Args:
      sample_rate: Of the waveform, in Hz. The layer cannot check it; `load_audio` resamples.
      num_mel_bins: Number of mel filters.
      num_frames: Length of the result, in frames; None for as many as the waveform has.
      window: "hann" (all released weights) or "hamming" (the paper's words).
      frame_length_seconds: Length of a frame.
      frame_step_seconds: Time from one frame to the next.
      f_min_hz: Lower edge of the lowest filter.
      f_max_hz: Upper edge of the highest filter; None for half the sample rate.
      preemphasis: Coefficient of the first-order high-pass.
      remove_waveform_mean: Whether the mean over the clip is removed first.
      mean: Of the log-mels of the data set.
      std: Their standard deviation.
      method: "fft", exact, on `tf.signal`, or "conv".

    Input: waveform `[batch, samples]`, floating point in [-1, 1]; optionally `lengths` `[batch]`,
      the number of samples of each clip in a batch padded to the longest: what follows is not
      heard, and its frames are padding. With `min_frames` nothing is cut, and padded to so many.
    Output: float32 `[batch, num_frames, num_mel_bins]`. Only whole frames count: 10 s give 998, and
      less than 25 ms give none, so nothing but padding.

    Raises:
      ValueError: If the waveform is not floating point or not `[batch, samples]`, or an argument
        is out of its range.

    Reference:
      Kaldi's `compute-fbank-feats`; Gong, Chung, Glass, "AST: Audio Spectrogram Transformer",
      Interspeech 2021, section 2.1, and YuanGongND/ast, src/dataloader.py.

    Example:

    >>> LogMelFilterbank(num_frames=1024)(tf.zeros([1, 160_000])).shape
    TensorShape([1, 1024, 128])
    """

    def __init__(
        self,
        sample_rate=16000,
        num_mel_bins=128,
        num_frames=None,
        window="hann",
        frame_length_seconds=0.025,
        frame_step_seconds=0.010,
        f_min_hz=20.0,
        f_max_hz=None,
        preemphasis=0.97,
        remove_waveform_mean=True,
        mean=AUDIOSET_MEAN,
        std=AUDIOSET_STD,
        method="fft",
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not std > 0 or (num_frames is not None and num_frames < 1):
            raise ArgumentError(
                f"std and num_frames must be positive. Received: std={std}, num_frames={num_frames}"
            )
        if method not in ("fft", "conv"):
            raise ArgumentError(f'method must be "fft" or "conv". Received: method={method!r}')
        self.sample_rate = sample_rate
        self.num_mel_bins = num_mel_bins
        self.num_frames = num_frames
        self.window = window
        self.frame_length_seconds = frame_length_seconds
        self.frame_step_seconds = frame_step_seconds
        self.f_min_hz = f_min_hz
        self.f_max_hz = f_max_hz
        self.preemphasis = preemphasis
        self.remove_waveform_mean = remove_waveform_mean
        self.mean = mean
        self.std = std
        self.method = method
        self._frame_length = mel.seconds_to_samples(frame_length_seconds, sample_rate)
        self._frame_step = mel.seconds_to_samples(frame_step_seconds, sample_rate)
        self._window = mel.window(window, self._frame_length)
        self._filters = mel.mel_filterbank(
            num_mel_bins, mel.fft_length(self._frame_length), sample_rate, f_min_hz, f_max_hz
        )
        self.built = True

    @property
    def padding_value(self):
        """What padding (0.0 among the log-mels) is after normalisation: `-mean / (2 std)`."""
        return (0.0 - self.mean) / (2 * self.std)

    @property
    def num_samples(self):
        """Number of samples that fill `num_frames` frames; what follows them is not heard."""
        if self.num_frames is None:
            return None
        return (self.num_frames - 1) * self._frame_step + self._frame_length

    def count_frames(self, num_samples):
        """Returns how many whole frames there are in so many samples, a number or a tensor."""
        if isinstance(num_samples, int):
            return mel.num_frames(num_samples, self._frame_length, self._frame_step)
        whole = (tf.cast(num_samples, tf.int32) - self._frame_length) // self._frame_step + 1
        return tf.maximum(0, whole)

    def call(self, waveform, lengths=None, min_frames=None):
        if not waveform.dtype.is_floating:
            raise ArgumentError(
                "The waveform must be floating point in [-1, 1]: divide int16 by 32768. "
                f"Received: dtype={waveform.dtype.name}"
            )
        if waveform.shape.rank != 2:
            raise ArgumentError(
                "The waveform must be [batch, samples]: add a batch axis with waveform[None], or "
                f"mix the channels first. Received: shape={waveform.shape}"
            )
        log_mel = self._log_mel(self._remove_mean(waveform, lengths))
        if lengths is not None:
            log_mel = tf.where(self._heard(lengths, log_mel), log_mel, 0.0)
        log_mel = self._fit(log_mel) if min_frames is None else self._pad(log_mel, min_frames)
        return (log_mel - self.mean) / (2 * self.std)

    def _remove_mean(self, waveform, lengths):
        if not self.remove_waveform_mean:
            return waveform
        if lengths is None:
            return waveform - tf.reduce_mean(waveform, axis=1, keepdims=True)
        lengths = tf.cast(lengths, tf.int32)[:, None]
        within = tf.range(tf.shape(waveform)[1])[None, :] < lengths
        total = tf.reduce_sum(tf.where(within, waveform, 0.0), axis=1, keepdims=True)
        return waveform - total / tf.cast(tf.maximum(lengths, 1), tf.float32)

    def _log_mel(self, waveform):
        compute = _mel_energies if self.method == "fft" else _mel_energies_by_convolution
        energies = compute(
            waveform, self._window, self._filters, self._frame_step, self.preemphasis
        )
        return tf.math.log(tf.maximum(energies, mel.ENERGY_FLOOR))

    def _heard(self, lengths, log_mel):
        frames = self.count_frames(lengths)
        return (tf.range(tf.shape(log_mel)[1])[None, :] < frames[:, None])[..., None]

    def _fit(self, log_mel):
        if self.num_frames is None:
            return log_mel
        log_mel = self._pad(log_mel[:, : self.num_frames], self.num_frames)
        return tf.ensure_shape(log_mel, [None, self.num_frames, self.num_mel_bins])

    def _pad(self, log_mel, num_frames):
        if log_mel.shape[1] is not None and log_mel.shape[1] >= num_frames:
            return log_mel
        missing = tf.maximum(0, num_frames - tf.shape(log_mel)[1])
        return tf.pad(log_mel, [[0, 0], [0, missing], [0, 0]])

    def compute_output_shape(self, waveform_shape, lengths_shape=None):
        batch, samples = waveform_shape
        frames = self.num_frames
        if frames is None and samples is not None:
            frames = mel.num_frames(samples, self._frame_length, self._frame_step)
        return (batch, frames, self.num_mel_bins)

    def get_config(self):
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "num_mel_bins": self.num_mel_bins,
            "num_frames": self.num_frames,
            "window": self.window,
            "frame_length_seconds": self.frame_length_seconds,
            "frame_step_seconds": self.frame_step_seconds,
            "f_min_hz": self.f_min_hz,
            "f_max_hz": self.f_max_hz,
            "preemphasis": self.preemphasis,
            "remove_waveform_mean": self.remove_waveform_mean,
            "mean": self.mean,
            "std": self.std,
            "method": self.method,
        }


# A graph of its own when called eagerly, too: one operation after the other is much slower.
@tf.function(reduce_retracing=True)
def _mel_energies(waveform, window, filters, frame_step, preemphasis):
    """Returns mel energies of every whole frame: `[batch, samples]` to `[batch, frames, mel]`."""
    frame_length, num_bins = window.shape[0], filters.shape[0]
    fft_length = 2 * (num_bins - 1)

    def windowed(samples):
        frames = tf.signal.frame(tf.cast(samples, tf.float64), frame_length, frame_step)
        frames -= tf.reduce_mean(frames, axis=-1, keepdims=True)
        # As in the original: the first sample of a frame is its own predecessor.
        before = tf.concat([frames[..., :1], frames[..., :-1]], axis=-1)
        return (frames - preemphasis * before) * window  # [..., frames, frame_length]

    def energies(spectrum):
        power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        # Strong and weak bins are apart now: float32 holds each of them.
        return tf.matmul(tf.cast(power, tf.float32), tf.cast(filters, tf.float32))

    def clip_by_clip():
        # What one clip needs stays in the cache: twice as fast as the whole batch on a CPU.
        return tf.map_fn(
            lambda clip: energies(tf.signal.rfft(windowed(clip), [fft_length])),
            waveform,
            fn_output_signature=tf.TensorSpec([None, filters.shape[1]], tf.float32),
        )

    def batch_at_once():
        # The complex transform: XLA has no real one in float64 (TensorFlow 2.16).
        padding = [[0, 0], [0, 0], [0, fft_length - frame_length]]
        frames = tf.cast(tf.pad(windowed(waveform), padding), tf.complex128)
        return energies(tf.signal.fft(frames)[..., :num_bins])

    # 0 on a CPU, 1 on any other device and in a graph that XLA compiles.
    device = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    return tf.switch_case(device, [clip_by_clip, batch_at_once])


def _mel_energies_by_convolution(waveform, window, filters, frame_step, preemphasis):
    """Returns what `_mel_energies` does, by operators that every delegate and browser has."""
    used = filters.any(axis=1)  # the lowest bin and the highest one are in no filter
    kernel = mel.fourier_kernel(window, preemphasis, 2 * (len(filters) - 1))
    kernel = np.concatenate([kernel.real[:, used], kernel.imag[:, used]], axis=1)
    kernel = kernel[:, None].astype(np.float32)  # [frame_length, channel, real and imaginary]
    frame_length = len(window)
    samples = waveform.shape[1]
    if samples is None or samples < frame_length:
        # Less than a frame gives no frame: a convolution wants at least one.
        missing = tf.maximum(0, frame_length - tf.shape(waveform)[1])
        short = tf.cast(missing > 0, tf.int32)
        padded = tf.pad(waveform, [[0, 0], [0, missing]])
        frames = tf.nn.conv1d(padded[..., None], kernel, frame_step, "VALID")
        spectrum = frames[:, short:]
    else:
        spectrum = tf.nn.conv1d(waveform[..., None], kernel, frame_step, "VALID")
    # Real parts first, then imaginary ones: the power of both goes into the same filter.
    return tf.matmul(tf.square(spectrum), np.tile(filters[used], (2, 1)).astype(np.float32))

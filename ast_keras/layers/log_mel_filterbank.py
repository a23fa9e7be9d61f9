"""`LogMelFilterbank`: waveforms to normalised log-mel spectrograms, as Kaldi computes them."""

import keras
import numpy as np
import tensorflow as tf

from ast_keras.audio import mel
from ast_keras.errors import ArgumentError
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD


@keras.saving.register_keras_serializable(package="ast_keras")
class LogMelFilterbank(keras.layers.Layer):
    """Computes the normalised log-mel spectrogram of a waveform.

    The computation is that of Kaldi's `compute-fbank-feats` and of the AST authors:

    1. The mean of each clip is subtracted.
    2. The clip is cut into frames of 25 ms, one every 10 ms. Incomplete frames are dropped, so 10 s
       give 998 frames, and less than 25 ms give none.
    3. In each frame the mean is subtracted again, and pre-emphasis and a window are applied.
    4. Triangular mel filters sum the power spectrum, and the natural logarithm is taken.
    5. The result is cut to `num_frames`, or padded at its end with 0.0.
    6. It is normalised to `(x - mean) / (2 std)`. Padding comes before this step, so the value of
       padding in the output is `padding_value`, not zero. `mean=0, std=0.5` disables this step.

    The result is float32 under every dtype policy, since half precision cannot represent a power
    spectrum. `method="fft"` computes steps 2 to 4 in float64: in float32, the rounding error of the
    strong bins of a tonal frame exceeds the value of its weak bins. `method="conv"` is for phones
    and browsers. It computes the linear part (mean, pre-emphasis, window, Fourier transform) as one
    strided convolution in float32, and uses only operations that are available on their GPUs. The
    outputs of the two methods differ by less than 1e-4, except in the weak bins of a frame that
    also has strong ones: by 3e-4 next to a steady tone, and by 6e-4 at a jump of the level.

    Args:
        sample_rate: Sample rate of the waveform in Hz. The layer cannot check it; `load_audio`
            resamples.
        num_mel_bins: Number of mel filters.
        num_frames: Number of frames of the output. None keeps the number that the waveform gives.
        window: Window function, "hann" (used by all released weights) or "hamming" (named in the
            paper).
        frame_length_seconds: Length of a frame in seconds.
        frame_step_seconds: Time between the starts of two frames in seconds.
        f_min_hz: Lower edge of the lowest filter in Hz.
        f_max_hz: Upper edge of the highest filter in Hz. None selects half the sample rate.
        preemphasis: Coefficient of the pre-emphasis filter `x[n] - preemphasis * x[n - 1]`.
        remove_waveform_mean: Whether to subtract the mean of each clip.
        mean: Mean of the log-mel values of the training set.
        std: Standard deviation of the log-mel values of the training set.
        method: "fft" (exact, on `tf.signal`) or "conv" (float32 convolution).
        dtype: None or "float32". Other values are refused.

    Call arguments:
        waveform: Floating-point samples `[batch, samples]` in [-1, 1].
        lengths: Integers `[batch]`, the number of valid samples of each clip in a padded batch.
            Later samples are ignored, and frames that contain them become padding. None treats all
            samples as valid.
        min_frames: Integer. If given, the output is not cut and is padded to at least this number
            of frames; `num_frames` is ignored.

    Input shape:
        `[batch, samples]`.

    Output shape:
        `[batch, num_frames, num_mel_bins]`, float32.

    Raises:
        ArgumentError: If a constructor argument is out of its range, or the waveform is not
            floating point or not `[batch, samples]`.

    Reference:
        Kaldi's `compute-fbank-feats`; Gong, Chung, Glass, "AST: Audio Spectrogram Transformer",
        Interspeech 2021, section 2.1; YuanGongND/ast, src/dataloader.py.

    Example:

    >>> LogMelFilterbank(num_frames=1024)(tf.zeros([1, 160_000])).shape
    TensorShape([1, 1024, 128])
    """

    def __init__(
        self,
        *,
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
        dtype=None,
        **kwargs,
    ):
        if dtype is not None and keras.dtype_policies.get(dtype).name != "float32":
            raise ArgumentError(
                "LogMelFilterbank computes in float32 under every dtype policy: omit dtype. "
                f"Received: dtype={dtype!r}"
            )
        super().__init__(dtype="float32", **kwargs)
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
        if self._frame_length < 2 or self._frame_step < 1:
            raise ArgumentError(
                "A frame must last at least 2 samples, and the step to the next at least 1. "
                f"Received: frame_length_seconds={frame_length_seconds}, "
                f"frame_step_seconds={frame_step_seconds}, sample_rate={sample_rate}"
            )
        self._window = mel.window(window, self._frame_length)
        self._filters = mel.mel_filterbank(
            num_mel_bins, mel.fft_length(self._frame_length), sample_rate, f_min_hz, f_max_hz
        )
        self.built = True

    @classmethod
    def from_preset(cls, preset, **overrides):
        """Loads the filterbank of a preset or of a saved model. No weights are downloaded.

        Args:
            preset: Name of a preset, such as "ast_base_audioset", or a folder that
                `save_to_preset` wrote, of which only `audio_converter.json` is read. Files of
                other weights that `from_preset` supports are valid too.
            **overrides: Constructor arguments that replace those of the preset.

        Returns:
            A `LogMelFilterbank`.

        Raises:
            WeightsError: If the preset does not exist or has no filterbank.

        Example:

        >>> LogMelFilterbank.from_preset("ast_base_speech_commands").num_frames
        128
        """
        from ast_keras.presets.loading import filterbank_from_preset

        return filterbank_from_preset(preset, **overrides)

    @property
    def padding_value(self):
        """Value of padding (0.0 before the normalisation) in the output: `-mean / (2 std)`."""
        return (0.0 - self.mean) / (2 * self.std)

    @property
    def num_samples(self):
        """Number of samples that give exactly `num_frames` frames; None without `num_frames`."""
        if self.num_frames is None:
            return None
        return (self.num_frames - 1) * self._frame_step + self._frame_length

    def count_frames(self, num_samples):
        """Returns the number of complete frames in a waveform.

        Args:
            num_samples: Number of samples, an integer or an integer tensor of any shape.

        Returns:
            An integer, or an int32 tensor of the same shape.
        """
        if isinstance(num_samples, int):
            return mel.num_frames(num_samples, self._frame_length, self._frame_step)
        num_frames = (tf.cast(num_samples, tf.int32) - self._frame_length) // self._frame_step + 1
        return tf.maximum(0, num_frames)

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
            log_mel = tf.where(self._frame_mask(lengths, log_mel), log_mel, 0.0)
        log_mel = self._fit(log_mel) if min_frames is None else self._pad(log_mel, min_frames)
        return (log_mel - self.mean) / (2 * self.std)

    def _remove_mean(self, waveform, lengths):
        if not self.remove_waveform_mean:
            return waveform
        if lengths is None:
            return waveform - tf.reduce_mean(waveform, axis=1, keepdims=True)
        lengths = tf.cast(lengths, tf.int32)[:, None]
        is_valid = tf.range(tf.shape(waveform)[1])[None, :] < lengths
        total = tf.reduce_sum(tf.where(is_valid, waveform, 0.0), axis=1, keepdims=True)
        return waveform - total / tf.cast(tf.maximum(lengths, 1), tf.float32)

    def _log_mel(self, waveform):
        compute = _mel_energies if self.method == "fft" else _mel_energies_by_convolution
        energies = compute(
            waveform, self._window, self._filters, self._frame_step, self.preemphasis
        )
        return tf.math.log(tf.maximum(energies, mel.ENERGY_FLOOR))

    def _frame_mask(self, lengths, log_mel):
        """Returns bool `[batch, frames, 1]`, True for frames of valid samples only."""
        num_valid = self.count_frames(lengths)
        return (tf.range(tf.shape(log_mel)[1])[None, :] < num_valid[:, None])[..., None]

    def _fit(self, log_mel):
        """Cuts or pads to `num_frames`."""
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


# Compiled also for eager calls, in which separate operations are much slower.
@tf.function(reduce_retracing=True)
def _mel_energies(waveform, window, filters, frame_step, preemphasis):
    """Returns the mel energies `[batch, frames, mel]` of all complete frames, float32."""
    arguments = (waveform, window, filters, frame_step, preemphasis)
    # One clip at a time stays in the cache of a CPU, which is twice as fast as the whole batch. The
    # index is 0 on a CPU, and 1 on every other device and in a graph that XLA compiles.
    device = tf.raw_ops.DeviceIndex(device_names=["CPU"])
    branches = [lambda: _energies_per_clip(*arguments), lambda: _energies_batched(*arguments)]
    return tf.switch_case(device, branches)


def _energies_per_clip(waveform, window, filters, frame_step, preemphasis):
    fft_length = 2 * (filters.shape[0] - 1)

    def energies(clip):
        frames = _windowed_frames(clip, window, frame_step, preemphasis)
        return _filter_energies(tf.signal.rfft(frames, [fft_length]), filters)

    result = tf.TensorSpec([None, filters.shape[1]], tf.float32)
    return tf.map_fn(energies, waveform, fn_output_signature=result)


def _energies_batched(waveform, window, filters, frame_step, preemphasis):
    num_bins = filters.shape[0]
    frames = _windowed_frames(waveform, window, frame_step, preemphasis)
    padding = [[0, 0], [0, 0], [0, 2 * (num_bins - 1) - window.shape[0]]]
    # The complex transform, since XLA has no real one in float64 (TensorFlow 2.16).
    spectrum = tf.signal.fft(tf.cast(tf.pad(frames, padding), tf.complex128))
    return _filter_energies(spectrum[..., :num_bins], filters)


def _windowed_frames(samples, window, frame_step, preemphasis):
    """Returns float64 frames `[..., frames, frame_length]` that are ready for the transform."""
    frames = tf.signal.frame(tf.cast(samples, tf.float64), window.shape[0], frame_step)
    frames -= tf.reduce_mean(frames, axis=-1, keepdims=True)
    # As in the original: the first sample of a frame is its own predecessor.
    before = tf.concat([frames[..., :1], frames[..., :-1]], axis=-1)
    return (frames - preemphasis * before) * window


def _filter_energies(spectrum, filters):
    """Returns the mel energies of a complex128 spectrum, float32 `[..., mel]`."""
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    # From here on no operation mixes strong and weak bins, so float32 is precise enough.
    return tf.matmul(tf.cast(power, tf.float32), tf.cast(filters, tf.float32))


def _mel_energies_by_convolution(waveform, window, filters, frame_step, preemphasis):
    """Returns the result of `_mel_energies`, by operations that phones and browsers support."""
    used = filters.any(axis=1)  # no filter includes the lowest and the highest bin
    kernel = mel.fourier_kernel(window, preemphasis, 2 * (len(filters) - 1))
    kernel = np.concatenate([kernel.real[:, used], kernel.imag[:, used]], axis=1)
    kernel = kernel[:, None].astype(np.float32)  # [frame_length, channel, real and imaginary]
    frame_length = len(window)
    samples = waveform.shape[1]
    if samples is None or samples < frame_length:
        # The convolution needs at least one frame: a shorter waveform is padded to one, and this
        # frame is dropped from the result.
        missing = tf.maximum(0, frame_length - tf.shape(waveform)[1])
        short = tf.cast(missing > 0, tf.int32)
        padded = tf.pad(waveform, [[0, 0], [0, missing]])
        frames = tf.nn.conv1d(padded[..., None], kernel, frame_step, "VALID")
        spectrum = frames[:, short:]
    else:
        spectrum = tf.nn.conv1d(waveform[..., None], kernel, frame_step, "VALID")
    # The real parts come first, then the imaginary parts; the filters sum the power of both.
    return tf.matmul(tf.square(spectrum), np.tile(filters[used], (2, 1)).astype(np.float32))

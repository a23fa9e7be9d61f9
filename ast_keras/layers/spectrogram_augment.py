"""Training-time changes to normalised spectrograms: masks, noise, roll. Identity otherwise.

Every random draw belongs to one example and comes from that example's own seed, so a batch split
over several devices, or resumed in the middle of an epoch, is changed in exactly the same way.
"""

import keras
import tensorflow as tf


def uniform_per_example(seeds, shape):
    """Draws uniform numbers in [0, 1) for each example from its own seed.

    Args:
      seeds: Integer tensor `[batch, 2]`.
      shape: Shape of one example's draws, a list or an integer vector.

    Output: float32 `[batch, *shape]`.

    Example:

    >>> uniform_per_example(tf.constant([[1, 2], [3, 4]]), [5]).shape
    TensorShape([2, 5])
    """

    def draw(seed):
        # Bits, and the algorithm named: XLA would make other floats of the same bits.
        bits = tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24

    return tf.map_fn(draw, tf.cast(seeds, tf.int32), fn_output_signature=tf.float32)


def axis_mask(draws, max_width, size, used=None):
    """Returns where one mask of random width and place lies on an axis.

    Args:
      draws: float32 `[batch, 2]` in [0, 1): one for the width, one for the place.
      max_width: Widths are uniform in [0, max_width), rounded down, so zero is a width too.
      size: Length of the axis.
      used: How much of the axis each example uses, int `[batch]`; None for all. A mask lies within
        and covers no more than half of it.

    Output: bool `[batch, size]`, True under the mask.

    Reference:
      Park et al., "SpecAugment", Interspeech 2019; the rounding is torchaudio's, which the
      authors use.
    """
    width = draws[:, 0] * float(max_width)
    room = tf.cast(size if used is None else used, tf.float32)
    if used is not None:
        width = tf.minimum(width, room / 2)
    # As in the original: the place is drawn before the width is rounded down.
    start = tf.cast(draws[:, 1] * (room - width), tf.int32)  # towards zero
    end = start + tf.cast(width, tf.int32)
    index = tf.range(size)[None, :]
    return (index >= start[:, None]) & (index < end[:, None])


def _shape(tensor):
    """Returns the shape, as numbers where it is known: XLA needs them inside a loop."""
    return tensor.shape if tensor.shape[1:].is_fully_defined() else tf.shape(tensor)


@keras.saving.register_keras_serializable(package="ast_keras")
class SpectrogramAugment(keras.layers.Layer):
    """Masks, perturbs and rolls normalised spectrograms while training, as AST's authors do.

    In this order: one frequency mask and one time mask, filled with `fill_value`; noise
    `U(0, 1) * U(0, 1) / 10`, the second factor drawn once per example; a circular roll along time
    by an integer in [-roll_frames, roll_frames). Each part is off at its default.

    The original masks raw log-mels with 0.0 before it normalises. Masking afterwards with
    `-mean / (2 std)` is the same; `LogMelFilterbank.padding_value` holds that number.

    Args:
      freq_mask_bins: Widest frequency mask, exclusive, in mel bins.
      time_mask_frames: Widest time mask, exclusive, in frames.
      noise: Whether to add noise.
      roll_frames: Largest roll, in frames.
      fill_value: What the masks write.
      seed: Seed used when `call` gets no `seeds`.

    Input: spectrogram `[batch, frames, mel]`; optionally `seeds`, integers `[batch, 2]`, that
      decide everything. Without them the layer draws its own, as Keras layers do. Optionally
      `lengths`, int `[batch]`: frames of each clip, where what follows is no part of it; the time
      mask and the roll stay within.
    Output: as the spectrogram.

    Reference:
      YuanGongND/ast, src/dataloader.py.

    Example:

    >>> augment = SpectrogramAugment(freq_mask_bins=48, time_mask_frames=192)
    >>> augment(tf.zeros([2, 1024, 128]), training=True).shape
    TensorShape([2, 1024, 128])
    """

    def __init__(
        self,
        freq_mask_bins=0,
        time_mask_frames=0,
        noise=False,
        roll_frames=0,
        fill_value=0.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.freq_mask_bins = freq_mask_bins
        self.time_mask_frames = time_mask_frames
        self.noise = noise
        self.roll_frames = roll_frames
        self.fill_value = fill_value
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, spectrogram, training=None, seeds=None, lengths=None):
        if not training:
            return spectrogram
        if seeds is None:
            seeds = self._draw_seeds(tf.shape(spectrogram)[0])
        draws = uniform_per_example(seeds, [6])
        spectrogram = self._mask(spectrogram, draws, lengths)
        if self.noise:
            spectrogram = self._add_noise(spectrogram, draws[:, 4], seeds)
        if self.roll_frames:
            spectrogram = self._roll(spectrogram, draws[:, 5], lengths)
        return spectrogram

    def _draw_seeds(self, batch):
        base = tf.cast(self.seed_generator.next(), tf.int32)  # [2]
        draws = tf.random.stateless_uniform(
            [batch, 2], base, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        return tf.bitcast(draws, tf.int32)

    def _mask(self, spectrogram, draws, lengths):
        frames, mel = tf.shape(spectrogram)[1], spectrogram.shape[2]
        fill = tf.cast(self.fill_value, spectrogram.dtype)
        if self.freq_mask_bins:
            masked = axis_mask(draws[:, 0:2], self.freq_mask_bins, mel)
            spectrogram = tf.where(masked[:, None, :], fill, spectrogram)
        if self.time_mask_frames:
            masked = axis_mask(draws[:, 2:4], self.time_mask_frames, frames, lengths)
            spectrogram = tf.where(masked[:, :, None], fill, spectrogram)
        return spectrogram

    def _add_noise(self, spectrogram, amplitude, seeds):
        # A second stream of the same seed: the first one has given the draws.
        seeds = tf.cast(seeds, tf.int32) + tf.constant([0, 1 << 30])
        field = uniform_per_example(seeds, _shape(spectrogram)[1:])
        noise = field * amplitude[:, None, None] / 10.0
        return spectrogram + tf.cast(noise, spectrogram.dtype)

    def _roll(self, spectrogram, draws, lengths):
        frames = tf.shape(spectrogram)[1]
        shift = tf.cast(tf.floor(draws * 2 * self.roll_frames), tf.int32) - self.roll_frames
        place = tf.range(frames)[None, :]
        if lengths is None:
            index = (place - shift[:, None]) % frames
        else:
            used = tf.maximum(1, tf.cast(lengths, tf.int32))[:, None]
            index = tf.where(place < used, (place - shift[:, None]) % used, place)
        return tf.gather(spectrogram, index, axis=1, batch_dims=1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "freq_mask_bins": self.freq_mask_bins,
            "time_mask_frames": self.time_mask_frames,
            "noise": self.noise,
            "roll_frames": self.roll_frames,
            "fill_value": self.fill_value,
            "seed": self.seed,
        }

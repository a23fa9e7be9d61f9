"""`SpectrogramAugment`: random masks, noise and roll of spectrograms during training.

Each example has its own seed, which determines all its random numbers. The result is therefore the
same if a batch is split over several devices, or if training resumes within an epoch.
"""

import keras
import tensorflow as tf


def uniform_per_example(seeds, shape):
    """Draws uniform random numbers in [0, 1) for each example from the seed of that example.

    Args:
        seeds: Integer tensor `[batch, 2]`.
        shape: Shape of the numbers of one example, a list or an integer vector.

    Returns:
        float32 `[batch, *shape]`.

    Example:

    >>> uniform_per_example(tf.constant([[1, 2], [3, 4]]), [5]).shape
    TensorShape([2, 5])
    """

    def draw(seed):
        # Bits are drawn by a fixed algorithm and converted here, because XLA converts random bits
        # to other floats than TensorFlow.
        bits = tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24

    return tf.map_fn(draw, tf.cast(seeds, tf.int32), fn_output_signature=tf.float32)


def axis_mask(draws, max_width, size, valid_size=None):
    """Returns one mask per example, of random width and position along an axis.

    Args:
        draws: float32 `[batch, 2]` in [0, 1), which determine the width and the position.
        max_width: Widths are uniform in [0, max_width) and rounded down, so a width may be zero.
        size: Length of the axis.
        valid_size: Integers `[batch]`, the valid length of the axis for each example. A mask lies
            within it and covers at most half of it. None if the whole axis is valid.

    Returns:
        bool `[batch, size]`, True for masked positions.

    Reference:
        Park et al., "SpecAugment", Interspeech 2019; rounded as by torchaudio, which the AST
        authors use.
    """
    width = draws[:, 0] * float(max_width)
    length = tf.cast(size if valid_size is None else valid_size, tf.float32)
    if valid_size is not None:
        width = tf.minimum(width, length / 2)
    # As in the original: the position is computed from the width before rounding.
    start = tf.cast(draws[:, 1] * (length - width), tf.int32)  # rounds towards zero
    end = start + tf.cast(width, tf.int32)
    index = tf.range(size)[None, :]
    return (index >= start[:, None]) & (index < end[:, None])


def _shape(tensor):
    """Returns the static shape if it is known, else a tensor: XLA needs it static in a loop."""
    return tensor.shape if tensor.shape[1:].is_fully_defined() else tf.shape(tensor)


@keras.saving.register_keras_serializable(package="ast_keras")
class SpectrogramAugment(keras.layers.Layer):
    """Augments normalised spectrograms during training, as the AST authors do.

    The steps are, in this order:

    1. One frequency mask and one time mask are filled with `fill_value`.
    2. Noise `U(0, 1) * U(0, 1) / 10` is added; the second factor is drawn once per example.
    3. The frames are rolled circularly by an integer in [-roll_frames, roll_frames).

    Every step is disabled by default. At inference the layer is the identity. The authors mask
    log-mel values with 0.0 before the normalisation; after it, the equivalent `fill_value` is
    `LogMelFilterbank.padding_value`.

    Args:
        freq_mask_bins: Exclusive upper bound of the width of the frequency mask, in mel bins.
        time_mask_frames: Exclusive upper bound of the width of the time mask, in frames.
        noise: Whether to add noise.
        roll_frames: Largest roll in frames.
        fill_value: Value of masked elements.
        seed: Integer seed of the layer's own random numbers, which are used if `seeds` is not
            given to `call`. None chooses a random seed.

    Call arguments:
        spectrogram: Floating-point tensor `[batch, frames, mel]`.
        training: Whether to augment.
        seeds: Integers `[batch, 2]`, the random seed of each example. None draws new seeds from
            the layer's own generator.
        lengths: Integers `[batch]`, the number of valid frames of each example. The time mask and
            the roll stay within them. None if all frames are valid.

    Input shape:
        `[batch, frames, mel]`.

    Output shape:
        The input shape.

    Reference:
        YuanGongND/ast, src/dataloader.py.

    Example:

    >>> augment = SpectrogramAugment(freq_mask_bins=48, time_mask_frames=192)
    >>> augment(tf.zeros([2, 1024, 128]), training=True).shape
    TensorShape([2, 1024, 128])
    """

    def __init__(
        self,
        *,
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
        # A second random stream from the same seeds: the first one is used by `call`.
        seeds = tf.cast(seeds, tf.int32) + tf.constant([0, 1 << 30])
        field = uniform_per_example(seeds, _shape(spectrogram)[1:])
        noise = field * amplitude[:, None, None] / 10.0
        return spectrogram + tf.cast(noise, spectrogram.dtype)

    def _roll(self, spectrogram, draws, lengths):
        frames = tf.shape(spectrogram)[1]
        shift = tf.cast(tf.floor(draws * 2 * self.roll_frames), tf.int32) - self.roll_frames
        position = tf.range(frames)[None, :]
        if lengths is None:
            index = (position - shift[:, None]) % frames
        else:
            valid = tf.maximum(1, tf.cast(lengths, tf.int32))[:, None]
            index = tf.where(position < valid, (position - shift[:, None]) % valid, position)
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

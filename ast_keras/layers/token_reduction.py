"""Fewer tokens for the same sound: Patchout while training, merged tokens afterwards."""

import keras
import tensorflow as tf
from keras import ops

from ast_keras.errors import ArgumentError


@keras.saving.register_keras_serializable(package="ast_keras")
class Patchout(keras.layers.Layer):
    """Leaves out patches while training: whole rows and columns of them, and single ones.

    A step costs less, and the model learns from parts. Each example draws for itself. Positions
    must have been added before, since a patch's place is lost.

    Args:
      grid: Number of patches `(mel, time)`; along time there may be more or fewer.
      share: Of the single patches that are left out, after rows and columns, in [0, 1).
      mel: Share of the rows of patches that are left out, in [0, 1).
      time: Share of the columns of patches that are left out, in [0, 1).
      num_special_tokens: How many tokens stand before the patches; they stay.
      seed: Seed of the draws, an int or None.

    Input: `[batch, special tokens + patches, embed_dim]`, patches mel-major; optionally
      `attention_mask`, bool `[batch, 1, tokens]`.
    Output: Fewer tokens while training, in the same order; with a mask also its part.

    Reference:
      Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022.

    Example:

    >>> import numpy as np
    >>> half = Patchout(grid=(12, 12), time=0.5)
    >>> half(np.zeros((1, 146, 48), "float32"), training=True).shape
    TensorShape([1, 74, 48])
    """

    def __init__(
        self, grid, share=0.0, mel=0.0, time=0.0, num_special_tokens=2, seed=None, **kwargs
    ):
        super().__init__(**kwargs)
        for name, value in (("patchout", share), ("patchout_mel", mel), ("patchout_time", time)):
            if not 0 <= value < 1:
                raise ArgumentError(f"{name} must lie in [0, 1). Received: {name}={value}")
        self.grid = tuple(grid)
        self.share, self.mel, self.time = share, mel, time
        self.num_special_tokens = num_special_tokens
        self.seed = seed
        # A generator is one more variable: have one only where it is used.
        self.seed_generator = keras.random.SeedGenerator(seed) if self.active else None

    @property
    def active(self):
        """Whether anything is left out while training."""
        return self.share > 0 or self.mel > 0 or self.time > 0

    def call(self, tokens, training=None, attention_mask=None):
        if training and self.active:
            kept = self._draw(ops.shape(tokens)[0], ops.shape(tokens)[1])
            tokens = tf.gather(tokens, kept, batch_dims=1)
            if attention_mask is not None:
                batch = ops.shape(tokens)[0]
                mask = tf.broadcast_to(attention_mask, (batch, 1, ops.shape(attention_mask)[-1]))
                attention_mask = tf.gather(mask[:, 0], kept, batch_dims=1)[:, None]
        return tokens if attention_mask is None else (tokens, attention_mask)

    def _draw(self, batch, length):
        """Returns the kept tokens' numbers, int `[batch, kept]`, ascending."""
        rows = self.grid[0]
        columns = (length - self.num_special_tokens) // rows
        kept_rows = self._some(batch, rows, self.mel)
        kept_columns = self._some(batch, columns, self.time)
        places = kept_rows[:, :, None] * columns + kept_columns[:, None, :]
        places = ops.reshape(places, (batch, -1))
        chosen = self._some(batch, ops.shape(places)[1], self.share)
        places = tf.gather(places, chosen, batch_dims=1) + self.num_special_tokens
        special = ops.broadcast_to(
            ops.arange(self.num_special_tokens)[None], (batch, self.num_special_tokens)
        )
        return ops.concatenate([special, places], axis=1)

    def _some(self, batch, number, left_out):
        """Returns some of the first numbers for each example, `[batch, kept]`, ascending."""
        kept = left_to_keep(number, left_out)
        if left_out == 0:
            return ops.broadcast_to(ops.arange(number)[None], (batch, number))
        draw = keras.random.uniform((batch, number), seed=self.seed_generator, dtype="float32")
        return ops.sort(ops.cast(ops.argsort(draw, axis=1)[:, :kept], "int32"), axis=1)

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "share": self.share,
            "mel": self.mel,
            "time": self.time,
            "num_special_tokens": self.num_special_tokens,
            "seed": self.seed,
        }


def left_to_keep(number, left_out):
    """Returns how many of so many are kept, at least one; a number or an int tensor.

    Example:

    >>> left_to_keep(101, 0.5)
    51
    """
    if isinstance(number, int):
        return max(1, number - int(number * left_out))
    return tf.maximum(1, number - tf.cast(tf.cast(number, "float32") * left_out, "int32"))


def merge(tokens, sizes, metric, number, num_special_tokens):
    """Returns tokens of which so many were merged with the most similar ones, and their sizes.

    The patches are dealt into two hands; those of the first that resemble one of the second most
    are averaged into it, each counting as many patches as it stands for.

    Args:
      tokens: `[batch, tokens, embed_dim]`.
      sizes: How many patches each token stands for, `[batch, tokens]`; None for one each.
      metric: `[batch, tokens, size]`, what is compared, by the cosine: the keys of attention.
      number: How many tokens are to disappear; at most half of the patches do.
      num_special_tokens: How many tokens, from the first on, are left alone.

    Returns:
      `[batch, fewer, embed_dim]`, special tokens first, the others in no order; sizes
      `[batch, fewer]`.

    Reference:
      Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023.

    Example:

    >>> tokens = tf.random.normal([1, 146, 48])
    >>> fewer, sizes = merge(tokens, None, tokens, number=40, num_special_tokens=2)
    >>> fewer.shape, int(tf.reduce_sum(sizes))
    (TensorShape([1, 106, 48]), 146)
    """
    batch, length = ops.shape(tokens)[:2]
    pairs = (length - num_special_tokens) // 2  # an odd one out stays as it is
    number = min(number, pairs) if isinstance(pairs, int) else tf.minimum(number, pairs)
    dealt = num_special_tokens + 2 * pairs
    metric = tf.math.l2_normalize(tf.cast(metric[:, num_special_tokens:dealt], "float32"), axis=-1)
    size = metric.shape[-1]
    first, second = tf.split(tf.reshape(metric, (batch, pairs, 2 * size)), 2, axis=-1)
    likeness, partner = tf.math.top_k(tf.matmul(first, second, transpose_b=True), k=1)
    rank = tf.argsort(tf.argsort(likeness[..., 0], direction="DESCENDING"))

    # Where each token goes: special ones, those of the first hand that stay, the second hand, rest.
    hand = num_special_tokens + pairs - number
    place_of_first = tf.where(rank < number, hand + partner[..., 0], hand + rank - pairs)
    place_of_second = tf.broadcast_to(hand + tf.range(pairs), (batch, pairs))
    places = tf.reshape(tf.stack([place_of_first, place_of_second], axis=-1), (batch, 2 * pairs))
    before, after = tf.range(num_special_tokens), tf.range(dealt, length) - number
    before, after = (tf.tile(part[None], (batch, 1)) for part in (before, after))
    fewer = length - number
    places = tf.concat([before, places, after], axis=1) + fewer * tf.range(batch)[:, None]

    def joined(values):  # sums of what goes to one place; `[batch, tokens, any]`
        rows = tf.reshape(values, (-1, values.shape[-1]))
        sums = tf.math.unsorted_segment_sum(rows, tf.reshape(places, [-1]), batch * fewer)
        return tf.reshape(sums, (batch, fewer, values.shape[-1]))

    weighted = tf.cast(tokens, "float32")
    if sizes is None:
        sizes = tf.ones((batch, length, 1), "float32")
    else:
        sizes = sizes[..., None]
        weighted = weighted * sizes
    totals = joined(sizes)
    return tf.cast(joined(weighted) / totals, tokens.dtype), totals[..., 0]

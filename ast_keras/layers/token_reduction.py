"""Token reduction: Patchout, which drops patches in training, and token merging at inference."""

import keras
import tensorflow as tf
from keras import ops

from ast_keras.errors import ArgumentError

# Names of `Patchout`'s arguments in configs that an earlier version wrote.
_EARLIER_NAMES = {"share": "patch_rate", "mel": "mel_rate", "time": "time_rate"}


@keras.saving.register_keras_serializable(package="ast_keras")
class Patchout(keras.layers.Layer):
    """Drops patches in training: whole rows and columns of them, and single ones.

    A training step costs less, and the model learns from incomplete spectrograms. Every example
    draws its own patches. Add the positions before this layer, because afterwards a patch's place
    is unknown. At inference the layer does nothing.

    Args:
        grid: Number of patches `(mel, time)`. Inputs may have another number along time.
        patch_rate: Fraction of the single patches to drop, after rows and columns, in [0, 1).
        mel_rate: Fraction of the rows of patches (mel bands) to drop, in [0, 1).
        time_rate: Fraction of the columns of patches (time) to drop, in [0, 1).
        num_special_tokens: Number of tokens before the patches. They are never dropped.
        seed: Integer seed of the random draws. None chooses a random seed.

    Call arguments:
        tokens: `[batch, special tokens + patches, embed_dim]`, patches in mel-major order.
        training: Whether to drop patches.
        attention_mask: Optional bool `[batch, 1, tokens]`; the same tokens are dropped from it.

    Output shape:
        `[batch, remaining tokens, embed_dim]`, in the same order. With `attention_mask` a pair of
        the tokens and the mask `[batch, 1, remaining tokens]`.

    Reference:
        Koutini et al., "Efficient Training of Audio Transformers with Patchout", Interspeech 2022.

    Example:

    >>> import numpy as np
    >>> half = Patchout(grid=(12, 12), time_rate=0.5)
    >>> half(np.zeros((1, 146, 48), "float32"), training=True).shape
    TensorShape([1, 74, 48])
    """

    def __init__(
        self,
        *,
        grid,
        patch_rate=0.0,
        mel_rate=0.0,
        time_rate=0.0,
        num_special_tokens=2,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, rate in (
            ("patch_rate", patch_rate),
            ("mel_rate", mel_rate),
            ("time_rate", time_rate),
        ):
            if not 0 <= rate < 1:
                raise ArgumentError(f"{name} must lie in [0, 1). Received: {name}={rate}")
        self.grid = tuple(grid)
        self.patch_rate = patch_rate
        self.mel_rate = mel_rate
        self.time_rate = time_rate
        self.num_special_tokens = num_special_tokens
        self.seed = seed
        # The generator adds a variable to the model, so it is created only when it is used.
        self.seed_generator = keras.random.SeedGenerator(seed) if self.active else None

    @property
    def active(self):
        """Whether any patch is dropped in training."""
        return self.patch_rate > 0 or self.mel_rate > 0 or self.time_rate > 0

    def call(self, tokens, training=None, attention_mask=None):
        if training and self.active:
            kept = self._draw_tokens(ops.shape(tokens)[0], ops.shape(tokens)[1])
            tokens = tf.gather(tokens, kept, batch_dims=1)
            if attention_mask is not None:
                batch = ops.shape(tokens)[0]
                mask = tf.broadcast_to(attention_mask, (batch, 1, ops.shape(attention_mask)[-1]))
                attention_mask = tf.gather(mask[:, 0], kept, batch_dims=1)[:, None]
        return tokens if attention_mask is None else (tokens, attention_mask)

    def _draw_tokens(self, batch, num_tokens):
        """Returns the indices of the tokens to keep, int `[batch, kept]`, in ascending order."""
        rows = self.grid[0]
        columns = (num_tokens - self.num_special_tokens) // rows
        kept_rows = self._draw_indices(batch, rows, self.mel_rate)
        kept_columns = self._draw_indices(batch, columns, self.time_rate)
        patches = kept_rows[:, :, None] * columns + kept_columns[:, None, :]
        patches = ops.reshape(patches, (batch, -1))
        chosen = self._draw_indices(batch, ops.shape(patches)[1], self.patch_rate)
        patches = tf.gather(patches, chosen, batch_dims=1) + self.num_special_tokens
        special = ops.broadcast_to(
            ops.arange(self.num_special_tokens)[None], (batch, self.num_special_tokens)
        )
        return ops.concatenate([special, patches], axis=1)

    def _draw_indices(self, batch, count, rate):
        """Returns random indices below `count` for each example, `[batch, kept]`, ascending."""
        if rate == 0:
            return ops.broadcast_to(ops.arange(count)[None], (batch, count))
        draw = keras.random.uniform((batch, count), seed=self.seed_generator, dtype="float32")
        kept = ops.argsort(draw, axis=1)[:, : num_kept(count, rate)]
        return ops.sort(ops.cast(kept, "int32"), axis=1)

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "patch_rate": self.patch_rate,
            "mel_rate": self.mel_rate,
            "time_rate": self.time_rate,
            "num_special_tokens": self.num_special_tokens,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{_EARLIER_NAMES.get(name, name): value for name, value in config.items()})


def num_kept(count, rate):
    """Returns how many of `count` items remain when a fraction is dropped; at least one.

    Args:
        count: Number of items, an int or an int tensor.
        rate: Fraction to drop, in [0, 1).

    Returns:
        An int, or an int32 tensor if `count` is a tensor.

    Example:

    >>> num_kept(101, 0.5)
    51
    """
    if isinstance(count, int):
        return max(1, count - int(count * rate))
    return tf.maximum(1, count - tf.cast(tf.cast(count, "float32") * rate, "int32"))


def merge_similar_tokens(tokens, token_counts, metric, num_merged, num_special_tokens):
    """Merges the most similar patches and counts how many original tokens each one represents.

    Splits the patches alternately into sets A and B. The `num_merged` patches of A that are most
    similar to a patch of B are averaged into it, weighted by the number of original patches each
    token represents.

    Args:
        tokens: `[batch, tokens, embed_dim]`, special tokens first.
        token_counts: Number of original tokens that each token represents, float32
            `[batch, tokens]`; None for one each.
        metric: `[batch, tokens, size]`, the vectors whose cosine similarity is compared: the keys
            of attention.
        num_merged: Number of tokens to remove; at most half of the patches are removed.
        num_special_tokens: Number of tokens at the start that are left unchanged.

    Returns:
        The remaining tokens `[batch, remaining, embed_dim]`, special tokens first and the patches
        in no particular order, and their counts `[batch, remaining]`.

    Reference:
        Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023.

    Example:

    >>> tokens = tf.random.normal([1, 146, 48])
    >>> merged, counts = merge_similar_tokens(
    ...     tokens, None, tokens, num_merged=40, num_special_tokens=2
    ... )
    >>> merged.shape, int(tf.reduce_sum(counts))
    (TensorShape([1, 106, 48]), 146)
    """
    batch, num_tokens = ops.shape(tokens)[:2]
    pairs = (num_tokens - num_special_tokens) // 2  # an odd last patch is left unchanged
    num_merged = min(num_merged, pairs) if isinstance(pairs, int) else tf.minimum(num_merged, pairs)
    paired_end = num_special_tokens + 2 * pairs
    metric = metric[:, num_special_tokens:paired_end]
    metric = tf.math.l2_normalize(tf.cast(metric, "float32"), axis=-1)
    size = metric.shape[-1]
    set_a, set_b = tf.split(tf.reshape(metric, (batch, pairs, 2 * size)), 2, axis=-1)
    similarity, partner = tf.math.top_k(tf.matmul(set_a, set_b, transpose_b=True), k=1)
    rank = tf.argsort(tf.argsort(similarity[..., 0], direction="DESCENDING"))

    # Output order: special tokens, the patches of A that stay, all of B, the odd last patch.
    start_of_b = num_special_tokens + pairs - num_merged
    target_of_a = tf.where(
        rank < num_merged, start_of_b + partner[..., 0], start_of_b + rank - pairs
    )
    target_of_b = tf.broadcast_to(start_of_b + tf.range(pairs), (batch, pairs))
    targets = tf.reshape(tf.stack([target_of_a, target_of_b], axis=-1), (batch, 2 * pairs))
    before, after = tf.range(num_special_tokens), tf.range(paired_end, num_tokens) - num_merged
    before, after = (tf.tile(part[None], (batch, 1)) for part in (before, after))
    remaining = num_tokens - num_merged
    targets = tf.concat([before, targets, after], axis=1) + remaining * tf.range(batch)[:, None]

    def sum_by_target(values):  # [batch, tokens, any] to [batch, remaining, any]
        rows = tf.reshape(values, (-1, values.shape[-1]))
        sums = tf.math.unsorted_segment_sum(rows, tf.reshape(targets, [-1]), batch * remaining)
        return tf.reshape(sums, (batch, remaining, values.shape[-1]))

    weighted = tf.cast(tokens, "float32")
    if token_counts is None:
        token_counts = tf.ones((batch, num_tokens, 1), "float32")
    else:
        token_counts = token_counts[..., None]
        weighted = weighted * token_counts
    totals = sum_by_target(token_counts)
    return tf.cast(sum_by_target(weighted) / totals, tokens.dtype), totals[..., 0]

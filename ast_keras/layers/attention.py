"""SelfAttention: multi-head self-attention over tokens."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers import attention_ops
from ast_keras.layers.initializers import truncated_normal


@keras.saving.register_keras_serializable(package="ast_keras")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with one joint projection to queries, keys and values.

    Args:
      num_heads: Number of heads; must divide the embedding size.
      dropout: Rate on the attention weights while training; these are kept then, all of them.

    Input: `[batch, tokens, embed_dim]`; optionally `attention_mask`, bool `[batch or 1, queries or
      1, keys]`, True where a query may look (each must have something to look at); `past`, a pair
      of earlier keys and values, each `[batch, heads, past tokens, head_dim]`, which come before
      the tokens' own; `num_queries`, how many tokens, from the first on, are asked for; `norm`, a
      `TokenNormalization` that the tokens go through first; `window`, which is `(window, rows,
      num_special)` of `attention_ops.windowed_attention`; and `sizes`, of
      `attention_ops.attention`.
    Output: `[batch, num_queries or tokens, embed_dim]`; with `past` also the pair of all keys and
      values, with `return_keys` the keys `[batch, heads, tokens, head_dim]`.

    Raises:
      ValueError: If `num_heads` does not divide the embedding size.

    Example:

    >>> import numpy as np
    >>> SelfAttention(num_heads=3)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(self, num_heads, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout = dropout
        self.weights_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="weights_dropout"
        )

    def build(self, input_shape):
        embed_dim = input_shape[-1]
        if embed_dim % self.num_heads:
            raise ArgumentError(
                "num_heads must divide the embedding size. "
                f"Received: num_heads={self.num_heads}, embed_dim={embed_dim}"
            )
        self.head_dim = embed_dim // self.num_heads
        self.qkv = keras.layers.Dense(
            3 * embed_dim,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.projection = keras.layers.Dense(
            embed_dim,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.qkv.build(input_shape)
        self.projection.build(input_shape)

    def attention_weights(self, tokens, attention_mask=None):
        """Returns how much each query attends to each key, `[batch, heads, query, key]`.

        The rows sum to one. This is the layer's own computation, so the tokens must already be
        normalised, as `TransformerBlock` does.
        """
        query, key, _ = self._split_heads(tokens)
        return attention_ops.attention_weights(query, key, attention_mask)

    def call(
        self,
        tokens,
        training=None,
        attention_mask=None,
        past=None,
        num_queries=None,
        norm=None,
        window=None,
        sizes=None,
        return_keys=False,
    ):
        query, key, value = self._split_heads(tokens, norm, training)
        if past is not None:
            key = ops.concatenate([past[0], key], axis=2)
            value = ops.concatenate([past[1], value], axis=2)
        if num_queries is not None:
            window = None  # special tokens look everywhere
            query = query[:, :, :num_queries]
            query.set_shape((*query.shape[:2], num_queries, self.head_dim))
            if attention_mask is not None and attention_mask.shape[1] != 1:
                attention_mask = attention_mask[:, :num_queries]
        mixed = self._mix(query, key, value, attention_mask, training, window, sizes)
        batch, length = ops.shape(mixed)[:2]
        # Flat, so that product and bias are one operation.
        found = self.projection(ops.reshape(mixed, (-1, self.num_heads * self.head_dim)))
        found = ops.reshape(found, (batch, length, found.shape[-1]))
        if return_keys:
            return found, key
        return found if past is None else (found, (key, value))

    def _split_heads(self, tokens, norm=None, training=False):
        batch, length = ops.shape(tokens)[:2]
        shape = (batch, length, self.num_heads, self.head_dim)
        flat = ops.reshape(tokens, (-1, tokens.shape[-1]))
        joint = self.qkv(flat) if norm is None else norm.then(self.qkv, flat, training)
        # Never more than four axes: a phone's GPU takes no more.
        parts = (ops.reshape(part, shape) for part in ops.split(joint, 3, axis=-1))
        return [ops.transpose(part, (0, 2, 1, 3)) for part in parts]  # [batch, heads, tokens, head]

    def _mix(self, query, key, value, attention_mask, training, window, sizes):
        """Returns `[batch, queries, heads, head_dim]`."""
        training = bool(training)
        if window is not None:
            heads = (query, key, value)
            return attention_ops.windowed_attention(*heads, *window, attention_mask, training)
        if training and self.dropout:
            weights = attention_ops.attention_weights(query, key, attention_mask)
            mixed = ops.matmul(self.weights_dropout(weights, training=True), value)
            return ops.transpose(mixed, (0, 2, 1, 3))
        return attention_ops.attention(query, key, value, attention_mask, training, sizes=sizes)

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "dropout": self.dropout}

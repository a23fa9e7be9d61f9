"""SelfAttention: multi-head self-attention over tokens."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers import attention_ops
from ast_keras.layers.initializers import truncated_normal
from ast_keras.layers.lora_dense import LoRADense


@keras.saving.register_keras_serializable(package="ast_keras")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with one joint projection to queries, keys and values.

    `call` computes standard attention. Two more methods also return a second result:
    `attend_with_cache` the keys and values, for streams, and `attend_and_return_keys` the keys, for
    token merging.

    Args:
        num_heads: Number of heads; must divide the embedding size.
        dropout: Dropout rate of the attention weights. A non-zero rate stores the full attention
            matrix for the backward pass.

    Call arguments:
        tokens: `[batch, tokens, embed_dim]`.
        attention_mask: Optional bool `[batch or 1, tokens or 1, tokens]`, True where a query may
            attend to a key. Every query needs at least one such key.
        training: Whether dropout is active and a gradient will be computed.
        num_queries: Number of tokens, counted from the first, for which the output is computed;
            None for all. All tokens serve as keys.

    Output shape:
        `[batch, num_queries or tokens, embed_dim]`.

    Raises:
        ArgumentError: If `num_heads` does not divide the embedding size.

    Reference:
        Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.

    Example:

    >>> import numpy as np
    >>> SelfAttention(num_heads=3)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(self, *, num_heads, dropout=0.0, **kwargs):
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
        self.qkv = LoRADense(
            3 * embed_dim,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.projection = LoRADense(
            embed_dim,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.qkv.build(input_shape)
        self.projection.build(input_shape)

    def call(self, tokens, attention_mask=None, training=None, num_queries=None):
        return self.attend(
            self._project(tokens), ops.shape(tokens)[:2], attention_mask, training, num_queries
        )

    def attend(self, qkv, batch_shape, attention_mask=None, training=None, num_queries=None):
        """Computes `call` for tokens that are already projected to queries, keys and values.

        `TransformerBlock` uses it, because it computes its normalisation and this projection
        together.

        Args:
            qkv: `[batch * tokens, 3 * embed_dim]`, the output of the layer `qkv`.
            batch_shape: The pair `(batch, tokens)`, ints or int tensors.
            attention_mask: Optional bool `[batch or 1, tokens or 1, tokens]`.
            training: Whether dropout is active and a gradient will be computed.
            num_queries: Number of tokens, counted from the first, for which the output is
                computed; None for all.

        Returns:
            `[batch, num_queries or tokens, embed_dim]`.
        """
        with self._name_scope():
            query, key, value = self._split_heads(qkv, batch_shape)
            if num_queries is not None:
                query = self._first_queries(query, num_queries)
                if attention_mask is not None and attention_mask.shape[1] != 1:
                    attention_mask = attention_mask[:, :num_queries]
            if training and self.dropout:
                weights = attention_ops.attention_weights(query, key, attention_mask)
                mixed = ops.matmul(self.weights_dropout(weights, training=True), value)
                mixed = ops.transpose(mixed, (0, 2, 1, 3))  # [batch, queries, heads, head_dim]
            else:
                mixed = attention_ops.attention(query, key, value, attention_mask, bool(training))
            return self._project_output(mixed)

    def attend_with_cache(self, tokens, past, attention_mask=None):
        """Attends to earlier tokens, given by their keys and values, and to `tokens`.

        Args:
            tokens: New tokens `[batch, tokens, embed_dim]`.
            past: Pair of the keys and the values of earlier tokens, each
                `[batch, heads, past tokens, head_dim]`.
            attention_mask: Optional bool `[batch or 1, tokens or 1, past tokens + tokens]`.

        Returns:
            The output for the new tokens `[batch, tokens, embed_dim]`, and the pair of all keys
            and values, each `[batch, heads, past tokens + tokens, head_dim]`.
        """
        with self._name_scope():
            query, key, value = self._split_heads(self._project(tokens), ops.shape(tokens)[:2])
            key = ops.concatenate([past[0], key], axis=2)
            value = ops.concatenate([past[1], value], axis=2)
            mixed = attention_ops.attention(query, key, value, attention_mask)
            return self._project_output(mixed), (key, value)

    def attend_and_return_keys(self, tokens, token_counts=None, num_queries=None):
        """Computes attention over tokens that may be merged ones, and also returns the keys.

        Args:
            tokens: `[batch, tokens, embed_dim]`.
            token_counts: Number of original tokens that each token represents, float
                `[batch, tokens]`; None for one each.
            num_queries: Number of tokens, counted from the first, for which the output is
                computed; None for all.

        Returns:
            The output `[batch, num_queries or tokens, embed_dim]`, and the keys
            `[batch, heads, tokens, head_dim]`, by which `merge_similar_tokens` compares tokens.
        """
        with self._name_scope():
            query, key, value = self._split_heads(self._project(tokens), ops.shape(tokens)[:2])
            if num_queries is not None:
                query = self._first_queries(query, num_queries)
            mixed = attention_ops.attention(query, key, value, token_counts=token_counts)
            return self._project_output(mixed), key

    def attention_weights(self, tokens, attention_mask=None):
        """Returns the attention weights, `[batch, heads, queries, keys]`; each row sums to one.

        Args:
            tokens: The input of `call`, `[batch, tokens, embed_dim]`.
            attention_mask: Optional bool `[batch or 1, tokens or 1, tokens]`.
        """
        query, key, _ = self._split_heads(self._project(tokens), ops.shape(tokens)[:2])
        return attention_ops.attention_weights(query, key, attention_mask)

    def _name_scope(self):
        # `__call__` opens this scope too; Keras then opens it only once.
        return keras.name_scope(self.name, caller=self)

    # The dense layers take flat rows, so that product and bias are one fused operation.

    def _project(self, tokens):
        """Returns queries, keys and values in one, `[batch * tokens, 3 * embed_dim]`."""
        return self.qkv(ops.reshape(tokens, (-1, tokens.shape[-1])))

    def _split_heads(self, qkv, batch_shape):
        """Returns query, key and value, each `[batch, heads, tokens, head_dim]`."""
        # Split before the reshape, because GPUs of phones do not support tensors of five axes.
        shape = (*batch_shape, self.num_heads, self.head_dim)
        parts = (ops.reshape(part, shape) for part in ops.split(qkv, 3, axis=-1))
        return [ops.transpose(part, (0, 2, 1, 3)) for part in parts]

    def _first_queries(self, query, num_queries):
        query = query[:, :, :num_queries]
        query.set_shape((*query.shape[:2], num_queries, self.head_dim))
        return query

    def _project_output(self, mixed):
        """Returns `[batch, queries, embed_dim]` for `[batch, queries, heads, head_dim]`."""
        batch, queries = ops.shape(mixed)[:2]
        output = self.projection(ops.reshape(mixed, (-1, self.num_heads * self.head_dim)))
        return ops.reshape(output, (batch, queries, output.shape[-1]))

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "dropout": self.dropout}

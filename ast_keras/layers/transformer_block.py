"""The transformer: self-attention and the pre-norm block that AST stacks."""

import keras
from keras import ops

from ast_keras.layers import attention_ops, token_reduction
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
            raise ValueError(
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


class TokenNormalization(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, whose gradient keeps only the tokens.

    Its arguments, weights and results are those of Keras's layer, in float32 under every policy.

    Example:

    >>> import numpy as np
    >>> TokenNormalization(epsilon=1e-6)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def call(self, tokens, training=None):
        return attention_ops.normalise(tokens, self.gamma, self.beta, self.epsilon, bool(training))

    def then(self, dense, rows, training=None):
        """Returns a dense layer of the normalised rows `[rows, size]`.

        While training the normalised rows are computed again for the gradient, not kept.
        """
        if not training:
            return dense(self(rows))
        weights = (ops.cast(weight, rows.dtype) for weight in (dense.kernel, dense.bias))
        return attention_ops.norm_dense(rows, self.gamma, self.beta, self.epsilon, *weights)


@keras.saving.register_keras_serializable(package="ast_keras")
class DropPath(keras.layers.Layer):
    """Drops a residual branch for whole examples while training (stochastic depth).

    What is kept is scaled by `1 / (1 - rate)`, so that the expected value stays the same.

    Args:
      rate: Probability of dropping an example's branch, in [0, 1).
      seed: Seed of the draws, an int or None.

    Input and output: `[batch, ...]`.

    Reference:
      Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Example:

    >>> import numpy as np
    >>> float(DropPath(0.5)(np.ones((1, 4, 8), "float32"), training=False)[0, 0, 0])
    1.0
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate must lie in [0, 1). Received: rate={rate}")
        self.rate = rate
        self.seed = seed
        # A generator is one more variable: have one only where it is used.
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None

    def call(self, branch, training=None):
        if not training or self.rate == 0:
            return branch
        shape = (ops.shape(branch)[0],) + (1,) * (len(branch.shape) - 1)
        draw = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        kept = ops.cast(draw >= self.rate, branch.dtype)
        return branch * kept / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="ast_keras")
class TransformerBlock(keras.layers.Layer):
    """Applies self-attention and a two-layer perceptron, each on a normalised residual branch.

    Args:
      num_heads: Number of attention heads.
      mlp_dim: Width of the perceptron's hidden layer; its activation is the exact GELU.
      dropout: Rate after the attention projection and inside the perceptron.
      attention_dropout: Rate on the attention weights.
      drop_path: Rate of stochastic depth of both branches.
      layer_norm_epsilon: 1e-6 in the authors' code and DeiT.

    Input: `[batch, tokens, embed_dim]`; optionally `attention_mask`, `past`, `num_queries`,
      `window` and `sizes`, as of `SelfAttention`; and `merge`, how many tokens to merge after
      attention and how many to leave alone.
    Output: `[batch, num_queries or tokens, embed_dim]`; with `past` also the pair of all keys and
      values, with `merge` also the new sizes.

    Reference:
      Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; DeiT's blocks are the same.

    Example:

    >>> import numpy as np
    >>> TransformerBlock(num_heads=3, mlp_dim=192)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(
        self,
        num_heads,
        mlp_dim,
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
        layer_norm_epsilon=1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.drop_path = drop_path
        self.layer_norm_epsilon = layer_norm_epsilon
        policy = self.dtype_policy
        self.attention_norm = TokenNormalization(
            epsilon=layer_norm_epsilon, dtype=policy, name="attention_norm"
        )
        self.attention = SelfAttention(
            num_heads, dropout=attention_dropout, dtype=policy, name="attention"
        )
        self.mlp_norm = TokenNormalization(
            epsilon=layer_norm_epsilon, dtype=policy, name="mlp_norm"
        )
        self.mlp_hidden = keras.layers.Dense(
            mlp_dim, kernel_initializer=truncated_normal(), dtype=policy, name="mlp_hidden"
        )
        self.branch_dropout = keras.layers.Dropout(dropout, dtype=policy, name="branch_dropout")
        self.branch_drop_path = DropPath(drop_path, dtype=policy, name="branch_drop_path")

    def build(self, input_shape):
        self.mlp_output = keras.layers.Dense(
            input_shape[-1],
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name="mlp_output",
        )
        self.attention_norm.build(input_shape)
        self.attention.build(input_shape)
        self.mlp_norm.build(input_shape)
        self.mlp_hidden.build(input_shape)
        self.mlp_output.build((*input_shape[:-1], self.mlp_dim))

    def attention_weights(self, tokens, attention_mask=None):
        """Returns the attention weights `[batch, heads, query, key]` for the block's input."""
        return self.attention.attention_weights(self.attention_norm(tokens), attention_mask)

    def call(
        self,
        tokens,
        training=None,
        attention_mask=None,
        past=None,
        num_queries=None,
        window=None,
        sizes=None,
        merge=None,
    ):
        branch = self.attention(
            tokens,
            training=training,
            attention_mask=attention_mask,
            past=past,
            num_queries=num_queries,
            norm=self.attention_norm,
            window=window,
            sizes=sizes,
            return_keys=merge is not None,
        )
        beside = None
        if past is not None or merge is not None:
            branch, beside = branch
        tokens = tokens[:, :num_queries] + self._regularise(branch, training)
        if merge is not None:
            metric = ops.mean(beside, axis=1)
            tokens, beside = token_reduction.merge(tokens, sizes, metric, *merge)
        tokens = tokens + self._regularise(self._perceptron(tokens, training), training)
        return tokens if beside is None else (tokens, beside)

    def _perceptron(self, tokens, training):
        # Flat, so that product and bias are one operation.
        rows = ops.reshape(tokens, (-1, tokens.shape[-1]))
        hidden = self.mlp_norm.then(self.mlp_hidden, rows, training)
        layer = self.mlp_output
        if training and not self.dropout:
            weights = (ops.cast(weight, hidden.dtype) for weight in (layer.kernel, layer.bias))
            found = attention_ops.gelu_dense(hidden, *weights)
        else:
            hidden = ops.gelu(hidden, approximate=False)
            found = layer(self.branch_dropout(hidden, training=training))
        return ops.reshape(found, ops.shape(tokens))

    def _regularise(self, branch, training):
        branch = self.branch_dropout(branch, training=training)
        return self.branch_drop_path(branch, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "drop_path": self.drop_path,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }

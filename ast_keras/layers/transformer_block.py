"""The transformer: self-attention and the pre-norm block that AST stacks."""

import keras
from keras import ops

from ast_keras.layers import fused_ops, token_reduction
from ast_keras.layers.attention import SelfAttention
from ast_keras.layers.drop_path import DropPath
from ast_keras.layers.initializers import truncated_normal
from ast_keras.layers.token_normalization import TokenNormalization


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
            found = fused_ops.gelu_dense(hidden, *weights)
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

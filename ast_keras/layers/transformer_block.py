"""TransformerBlock: self-attention and a perceptron, each on a normalised residual branch."""

import keras
from keras import ops

from ast_keras.layers import fused_ops
from ast_keras.layers.attention import SelfAttention
from ast_keras.layers.drop_path import DropPath
from ast_keras.layers.initializers import truncated_normal
from ast_keras.layers.lora_dense import LoRADense
from ast_keras.layers.token_normalization import TokenNormalization
from ast_keras.layers.token_reduction import merge_similar_tokens


@keras.saving.register_keras_serializable(package="ast_keras")
class TransformerBlock(keras.layers.Layer):
    """A pre-norm transformer block: self-attention, then a perceptron with one hidden layer.

    Both parts read normalised tokens and add their result to the tokens. `call` computes the
    standard block. Two more methods are for inference only and return a second result: `step` the
    keys and values, for streams, and `call_and_merge` the token counts, for token merging.

    Args:
        num_heads: Number of attention heads.
        mlp_dim: Width of the perceptron's hidden layer; its activation is the exact GELU.
        dropout: Dropout rate after the attention projection and in the perceptron.
        attention_dropout: Dropout rate of the attention weights.
        drop_path: Rate of stochastic depth: probability that an example skips a branch.
        layer_norm_epsilon: Epsilon of both LayerNorms; 1e-6 in the authors' code and in DeiT.

    Call arguments:
        tokens: `[batch, tokens, embed_dim]`.
        attention_mask: Optional bool `[batch or 1, tokens or 1, tokens]`, True where a query may
            attend to a key.
        training: Whether dropout and stochastic depth are active.
        num_queries: Number of tokens, counted from the first, for which the output is computed;
            None for all. All tokens serve as keys.

    Output shape:
        `[batch, num_queries or tokens, embed_dim]`.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; DeiT uses the same block.

    Example:

    >>> import numpy as np
    >>> TransformerBlock(num_heads=3, mlp_dim=192)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(
        self,
        *,
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
            num_heads=num_heads, dropout=attention_dropout, dtype=policy, name="attention"
        )
        self.mlp_norm = TokenNormalization(
            epsilon=layer_norm_epsilon, dtype=policy, name="mlp_norm"
        )
        self.mlp_hidden = LoRADense(
            mlp_dim, kernel_initializer=truncated_normal(), dtype=policy, name="mlp_hidden"
        )
        self.branch_dropout = keras.layers.Dropout(dropout, dtype=policy, name="branch_dropout")
        self.branch_drop_path = DropPath(rate=drop_path, dtype=policy, name="branch_drop_path")

    def build(self, input_shape):
        self.mlp_output = LoRADense(
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

    def call(self, tokens, attention_mask=None, training=None, num_queries=None):
        qkv = normalize_and_project(
            self.attention_norm, self.attention.qkv, _flat(tokens), training
        )
        branch = self.attention.attend(
            qkv, ops.shape(tokens)[:2], attention_mask, training, num_queries
        )
        tokens = tokens[:, :num_queries] + self._regularise(branch, training)
        return tokens + self._regularise(self._perceptron(tokens, training), training)

    def step(self, tokens, past, attention_mask=None):
        """Computes the block for new tokens that follow earlier ones, at inference.

        Args:
            tokens: New tokens `[batch, tokens, embed_dim]`.
            past: Pair of the keys and the values of earlier tokens, each
                `[batch, heads, past tokens, head_dim]`.
            attention_mask: Optional bool `[batch or 1, tokens or 1, past tokens + tokens]`.

        Returns:
            The output `[batch, tokens, embed_dim]`, and the pair of all keys and values, each
            `[batch, heads, past tokens + tokens, head_dim]`.
        """
        with self._name_scope():
            normalised = self.attention_norm(tokens)
            branch, cache = self.attention.attend_with_cache(normalised, past, attention_mask)
            tokens = tokens + branch
            return tokens + self._perceptron(tokens), cache

    def call_and_merge(
        self, tokens, token_counts=None, num_merged=0, num_special_tokens=0, num_queries=None
    ):
        """Computes the block and merges similar tokens after attention, at inference.

        Args:
            tokens: `[batch, tokens, embed_dim]`, special tokens first.
            token_counts: Number of original tokens that each token represents, float
                `[batch, tokens]`; None for one each.
            num_merged: Number of tokens to remove by merging; 0 merges none.
            num_special_tokens: Number of tokens at the start that are never merged.
            num_queries: Number of tokens, counted from the first, for which the output is
                computed; None for all. Only without merging.

        Returns:
            The remaining tokens `[batch, remaining, embed_dim]`, and their counts
            `[batch, remaining]`.
        """
        with self._name_scope():
            branch, keys = self.attention.attend_and_return_keys(
                self.attention_norm(tokens), token_counts, num_queries
            )
            tokens = tokens[:, :num_queries] + branch
            if num_merged:
                metric = ops.mean(keys, axis=1)  # over heads: [batch, tokens, head_dim]
                tokens, token_counts = merge_similar_tokens(
                    tokens, token_counts, metric, num_merged, num_special_tokens
                )
            return tokens + self._perceptron(tokens), token_counts

    def attention_weights(self, tokens, attention_mask=None):
        """Returns the attention weights, `[batch, heads, queries, keys]`; each row sums to one.

        Args:
            tokens: The input of the block, `[batch, tokens, embed_dim]`.
            attention_mask: Optional bool `[batch or 1, tokens or 1, tokens]`.
        """
        return self.attention.attention_weights(self.attention_norm(tokens), attention_mask)

    def _perceptron(self, tokens, training=None):
        hidden = normalize_and_project(self.mlp_norm, self.mlp_hidden, _flat(tokens), training)
        layer = self.mlp_output
        if training and not self.dropout:
            weights = (ops.cast(weight, hidden.dtype) for weight in (layer.kernel, layer.bias))
            output = fused_ops.gelu_dense(hidden, *weights)
        else:
            hidden = ops.gelu(hidden, approximate=False)
            output = layer(self.branch_dropout(hidden, training=training))
        return ops.reshape(output, ops.shape(tokens))

    def _regularise(self, branch, training):
        branch = self.branch_dropout(branch, training=training)
        return self.branch_drop_path(branch, training=training)

    def _name_scope(self):
        return keras.name_scope(self.name, caller=self)

    def compute_output_shape(self, tokens_shape):
        return tokens_shape

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


def normalize_and_project(norm, dense, rows, training=None):
    """Applies a LayerNorm and then a dense layer.

    In training the normalised rows are not stored, but computed a second time for the gradient.

    Args:
        norm: A `TokenNormalization`.
        dense: A `keras.layers.Dense` without activation.
        rows: `[rows, size]`.
        training: Whether a gradient will be computed.

    Returns:
        `[rows, units]`.
    """
    if not training:
        return dense(norm(rows))
    weights = (ops.cast(weight, rows.dtype) for weight in (dense.kernel, dense.bias))
    return fused_ops.norm_dense(rows, norm.gamma, norm.beta, norm.epsilon, *weights)


def _flat(tokens):
    # The dense layers take flat rows, so that product and bias are one fused operation.
    return ops.reshape(tokens, (-1, tokens.shape[-1]))

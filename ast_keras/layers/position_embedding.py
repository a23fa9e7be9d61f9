"""`PositionEmbedding`: learned position embeddings, interpolated along time for longer inputs."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers.initializers import truncated_normal


@keras.saving.register_keras_serializable(package="ast_keras")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned position embedding to every token.

    With a `grid`, inputs may have another number of patch columns (patches along time) than the
    embeddings, if `columns` is given. Examples with at most as many columns as the grid use its
    first columns, since a short clip is the start of a padded one. For examples with more columns,
    the embeddings are interpolated linearly along time, between the centres of the columns.

    Args:
        grid: Number of patches `(mel, time)` of the embeddings. None if the number of tokens is
            fixed.

    Call arguments:
        tokens: `[batch, tokens, embed_dim]`, special tokens first, then patches in mel-major order.
        columns: Integers `[batch]`, the number of valid patch columns of each example. None if
            there is one embedding per token.

    Input shape:
        `[batch, tokens, embed_dim]`.

    Output shape:
        The input shape.

    Raises:
        ArgumentError: If the number of tokens differs from the number of embeddings and `columns`
            is None.

    Example:

    >>> import numpy as np
    >>> positions = PositionEmbedding(grid=(12, 12))
    >>> positions(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    >>> longer = np.zeros((2, 2 + 12 * 40, 48), "float32")
    >>> positions(longer, columns=np.array([40, 7])).shape
    TensorShape([2, 482, 48])
    """

    def __init__(self, *, grid=None, **kwargs):
        super().__init__(**kwargs)
        self.grid = None if grid is None else tuple(grid)

    def build(self, input_shape):
        self.embedding = self.add_weight(
            shape=input_shape[1:],
            initializer=truncated_normal(),
            name="embedding",
        )
        # Without this check, a single token would be broadcast to all positions.
        tokens = input_shape[1] if self.grid is None else None
        self.input_spec = keras.layers.InputSpec(shape=(None, tokens, input_shape[-1]))

    def call(self, tokens, columns=None):
        embedding = ops.cast(self.embedding, tokens.dtype)
        if columns is None:
            if tokens.shape[1] not in (None, embedding.shape[0]):
                raise ArgumentError(
                    "There must be one position per token; inputs with another number of patch "
                    "columns need their count: pass columns. "
                    f"Received: {tokens.shape[1]} tokens, {embedding.shape[0]} positions, "
                    "columns=None"
                )
            return tokens + embedding
        return tokens + self._positions_for(embedding, tokens, columns)

    def _positions_for(self, embedding, tokens, columns):
        """Returns the position embeddings of the tokens, `[batch or 1, tokens, embed_dim]`."""
        mel, time = self.grid
        embed_dim = embedding.shape[-1]
        num_special = embedding.shape[0] - mel * time
        special = ops.expand_dims(embedding[:num_special], 0)
        grid = ops.reshape(embedding[num_special:], (mel, time, embed_dim))
        width = (ops.shape(tokens)[1] - num_special) // mel
        if isinstance(width, int) and width <= time:
            patches = ops.reshape(grid[:, :width], (1, mel * width, embed_dim))
            return ops.concatenate([special, patches], axis=1)
        weights = ops.cast(_interpolation_weights(width, columns, time), tokens.dtype)
        rows = ops.reshape(ops.transpose(grid, (1, 0, 2)), (time, mel * embed_dim))
        patches = ops.reshape(ops.matmul(weights, rows), (-1, width, mel, embed_dim))
        patches = ops.reshape(ops.transpose(patches, (0, 2, 1, 3)), (-1, mel * width, embed_dim))
        special = ops.broadcast_to(special, (ops.shape(patches)[0], num_special, embed_dim))
        return ops.concatenate([special, patches], axis=1)

    def compute_output_shape(self, tokens_shape, columns_shape=None):
        return tokens_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


def _interpolation_weights(num_columns, valid_columns, size):
    """Returns the matrix of linear interpolation from `size` embeddings to `num_columns` columns.

    Args:
        num_columns: Number of columns of the padded batch.
        valid_columns: Integers `[batch]`, the number of valid columns of each example. With up to
            `size` columns, column i takes embedding i without interpolation.
        size: Number of embeddings along time.

    Returns:
        float32 `[batch, num_columns, size]`.
    """
    # The position of column i among the embeddings is (i + 1/2) * size / width - 1/2. It is
    # computed exactly, as an integer number of steps of 1 / (2 * width).
    column = ops.cast(ops.arange(num_columns), "int32")[None, :]
    width = ops.maximum(ops.cast(valid_columns, "int32"), size)[:, None]
    steps = (2 * column + 1) * size - width
    steps = ops.minimum(ops.maximum(steps, 0), 2 * width * (size - 1))
    lower = steps // (2 * width)
    fraction = ops.cast(steps - lower * 2 * width, "float32") / ops.cast(2 * width, "float32")
    distance = ops.cast(lower[..., None] - ops.arange(size, dtype="int32"), "float32")
    return ops.relu(1.0 - ops.abs(distance + fraction[..., None]))

"""Spectrogram to patch embeddings, and the tokens and positions that go with them."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers.initializers import lecun_normal, truncated_normal


def patch_grid(num_mel_bins, num_frames, patch_size=(16, 16), strides=(10, 10)):
    """Returns the number of patches along mel and along time, as `(mel, time)`.

    Only whole patches count, so up to `stride - 1` trailing frames may go unseen, as in the
    original. (The paper's formula rounds up where the code rounds down; this is the code's.)

    Args:
      num_mel_bins: Height of the spectrogram, in bins.
      num_frames: Length of the spectrogram, in frames.
      patch_size: Patch extent `(mel, time)`.
      strides: Step between patches `(mel, time)`.

    Raises:
      ValueError: If the spectrogram is smaller than one patch.

    Example:

    >>> patch_grid(128, 1024)
    (12, 101)
    """
    sizes = (num_mel_bins, num_frames)
    grid = tuple((n - p) // s + 1 for n, p, s in zip(sizes, patch_size, strides, strict=True))
    if min(grid) < 1:
        raise ArgumentError(
            "The spectrogram must be at least one patch large: use more frames or bins, or a "
            f"smaller patch. Received: (num_mel_bins, num_frames)={sizes}, patch_size={patch_size}"
        )
    return grid


@keras.saving.register_keras_serializable(package="ast_keras")
class PatchEmbedding(keras.layers.Layer):
    """Cuts a spectrogram into (overlapping) patches and projects each to an embedding.

    The patches come out mel-major: all time steps of the lowest band first. Patches may be of any
    size and stride; strides smaller than the patch make them overlap.

    Args:
      embed_dim: Size of a patch's embedding.
      patch_size: Patch extent `(mel, time)`.
      strides: Step between patches `(mel, time)`.

    Input: spectrogram `[batch, frames, mel]`.
    Output: `[batch, patches, embed_dim]`.

    Raises:
      ValueError: If the spectrogram is smaller than one patch.

    Reference:
      Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, section 2.1.

    Example:

    >>> import numpy as np
    >>> PatchEmbedding(48)(np.zeros((1, 128, 128), "float32")).shape
    TensorShape([1, 144, 48])
    """

    def __init__(self, embed_dim, patch_size=(16, 16), strides=(10, 10), **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = tuple(patch_size)
        self.strides = tuple(strides)
        self.projection = keras.layers.Conv2D(
            embed_dim,
            self.patch_size,
            strides=self.strides,
            kernel_initializer=lecun_normal(),
            dtype=self.dtype_policy,
            name="projection",
        )

    def build(self, input_shape):
        batch, frames, mel = input_shape
        if frames is not None:
            patch_grid(mel, frames, self.patch_size, self.strides)
        self.projection.build((batch, mel, frames, 1))

    def call(self, spectrogram):
        image = ops.transpose(spectrogram, (0, 2, 1))  # [batch, mel, frames]
        image = ops.expand_dims(image, -1)
        patches = self.projection(image)  # [batch, mel patches, time patches, embed]
        return ops.reshape(patches, (ops.shape(patches)[0], -1, self.embed_dim))

    def compute_output_shape(self, input_shape):
        batch, frames, mel = input_shape
        if frames is None:
            return (batch, None, self.embed_dim)
        rows, columns = patch_grid(mel, frames, self.patch_size, self.strides)
        return (batch, rows * columns, self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "strides": self.strides,
        }


@keras.saving.register_keras_serializable(package="ast_keras")
class SpecialTokens(keras.layers.Layer):
    """Puts the learned class token, and the distillation token if asked for, before the patches.

    Args:
      use_distillation_token: Whether a distillation token follows the class token, as in DeiT.

    Input: `[batch, patches, embed_dim]`.
    Output: `[batch, 2 + patches, embed_dim]`, or `1 + patches` without distillation token.

    Example:

    >>> import numpy as np
    >>> SpecialTokens()(np.zeros((1, 144, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(self, use_distillation_token=True, **kwargs):
        super().__init__(**kwargs)
        self.use_distillation_token = use_distillation_token

    @property
    def num_tokens(self):
        """Number of tokens that stand before the patches: 1 or 2."""
        return 2 if self.use_distillation_token else 1

    def build(self, input_shape):
        self.tokens = self.add_weight(
            shape=(self.num_tokens, input_shape[-1]),
            initializer=truncated_normal(),
            name="tokens",
        )

    def call(self, patches):
        batch = ops.shape(patches)[0]
        tokens = ops.expand_dims(ops.cast(self.tokens, patches.dtype), 0)
        tokens = ops.broadcast_to(tokens, (batch, *tokens.shape[1:]))
        return ops.concatenate([tokens, patches], axis=1)

    def compute_output_shape(self, input_shape):
        batch, patches, embed_dim = input_shape
        return (batch, None if patches is None else patches + self.num_tokens, embed_dim)

    def get_config(self):
        return {**super().get_config(), "use_distillation_token": self.use_distillation_token}


@keras.saving.register_keras_serializable(package="ast_keras")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned embedding to every token, one for each position.

    With a `grid`, patches of another number of columns get theirs, too: of fewer columns the first
    ones, as a short clip stands at the start of a padded one; for more, those along time are
    interpolated between the centres of cells, for each example by itself.

    Args:
      grid: Number of patches `(mel, time)` of the positions; None if every token's place is fixed.

    Input: `[batch, tokens, embed_dim]`, special tokens first and patches mel-major; optionally
      `columns`, int `[batch]`: how many of the patches along time are each example's own.
    Output: As the input.

    Example:

    >>> import numpy as np
    >>> positions = PositionEmbedding(grid=(12, 12))
    >>> positions(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    >>> longer = np.zeros((2, 2 + 12 * 40, 48), "float32")
    >>> positions(longer, columns=np.array([40, 7])).shape
    TensorShape([2, 482, 48])
    """

    def __init__(self, grid=None, **kwargs):
        super().__init__(**kwargs)
        self.grid = None if grid is None else tuple(grid)

    def build(self, input_shape):
        self.embedding = self.add_weight(
            shape=input_shape[1:],
            initializer=truncated_normal(),
            name="embedding",
        )
        # Else one token alone would be broadcast to all positions.
        tokens = input_shape[1] if self.grid is None else None
        self.input_spec = keras.layers.InputSpec(shape=(None, tokens, input_shape[-1]))

    def call(self, tokens, columns=None):
        embedding = ops.cast(self.embedding, tokens.dtype)
        if columns is None:
            if tokens.shape[1] not in (None, embedding.shape[0]):
                raise ArgumentError(
                    "There is a position for each of so many tokens; patches of another number "
                    f"of columns need their count. Received: {tokens.shape[1]} tokens for "
                    f"{embedding.shape[0]} positions, columns=None"
                )
            return tokens + embedding
        return tokens + self._fitted(embedding, tokens, columns)

    def _fitted(self, embedding, tokens, columns):
        """Returns positions `[batch or 1, tokens, embed_dim]`."""
        mel, time = self.grid
        embed_dim = embedding.shape[-1]
        num_special = embedding.shape[0] - mel * time
        special = ops.expand_dims(embedding[:num_special], 0)
        grid = ops.reshape(embedding[num_special:], (mel, time, embed_dim))
        width = (ops.shape(tokens)[1] - num_special) // mel
        if isinstance(width, int) and width <= time:
            patches = ops.reshape(grid[:, :width], (1, mel * width, embed_dim))
            return ops.concatenate([special, patches], axis=1)
        weights = ops.cast(_interpolation(ops.arange(width), columns, time), tokens.dtype)
        rows = ops.reshape(ops.transpose(grid, (1, 0, 2)), (time, mel * embed_dim))
        patches = ops.reshape(ops.matmul(weights, rows), (-1, width, mel, embed_dim))
        patches = ops.reshape(ops.transpose(patches, (0, 2, 1, 3)), (-1, mel * width, embed_dim))
        special = ops.broadcast_to(special, (ops.shape(patches)[0], num_special, embed_dim))
        return ops.concatenate([special, patches], axis=1)

    def compute_output_shape(self, tokens_shape, columns_shape=None):
        return tokens_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


def _interpolation(place, columns, size):
    """Returns weights `[batch, places, size]` that stretch `size` cells over more columns.

    Where an example has no more than `size` columns, each place keeps the cell of its number.
    """
    # In whole numbers, exactly: (place + 1/2) * size / width - 1/2, in steps of 1 / (2 * width).
    width = ops.maximum(ops.cast(columns, "int32"), size)[:, None]
    steps = (2 * ops.cast(place, "int32")[None, :] + 1) * size - width
    steps = ops.minimum(ops.maximum(steps, 0), 2 * width * (size - 1))
    cell = steps // (2 * width)
    fraction = ops.cast(steps - cell * 2 * width, "float32") / ops.cast(2 * width, "float32")
    distance = ops.cast(cell[..., None] - ops.arange(size, dtype="int32"), "float32")
    return ops.relu(1.0 - ops.abs(distance + fraction[..., None]))

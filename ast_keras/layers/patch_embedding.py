"""`PatchEmbedding`: spectrograms to patch embeddings; `patch_grid`: their number."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.layers.initializers import lecun_normal


def patch_grid(num_mel_bins, num_frames, patch_size=(16, 16), strides=(10, 10)):
    """Returns the number of patches along the mel axis and along the time axis.

    Incomplete patches are dropped, so up to `stride - 1` frames at the end are unused, as in the
    authors' code. The formula in the paper rounds up instead.

    Args:
        num_mel_bins: Height of the spectrogram in mel bins.
        num_frames: Length of the spectrogram in frames.
        patch_size: Size of a patch `(mel, time)` in bins and frames.
        strides: Distance between patches `(mel, time)` in bins and frames.

    Returns:
        A tuple of integers `(mel, time)`.

    Raises:
        ArgumentError: If the spectrogram is smaller than one patch.

    Example:

    >>> patch_grid(128, 1024)
    (12, 101)
    """
    sizes = (num_mel_bins, num_frames)
    grid = tuple((n - p) // s + 1 for n, p, s in zip(sizes, patch_size, strides, strict=True))
    if min(grid) < 1:
        raise ArgumentError(
            "The spectrogram must hold at least one patch: use more frames or bins, or a "
            f"smaller patch. Received: (num_mel_bins, num_frames)={sizes}, patch_size={patch_size}"
        )
    return grid


@keras.saving.register_keras_serializable(package="ast_keras")
class PatchEmbedding(keras.layers.Layer):
    """Cuts a spectrogram into patches and projects each patch to an embedding.

    Patches are ordered mel-major: all time steps of the lowest mel band come first. Strides smaller
    than the patch size give overlapping patches.

    Args:
        embed_dim: Size of the embeddings.
        patch_size: Size of a patch `(mel, time)` in bins and frames.
        strides: Distance between patches `(mel, time)` in bins and frames.

    Call arguments:
        spectrogram: Floating-point tensor `[batch, frames, mel]`.

    Input shape:
        `[batch, frames, mel]`.

    Output shape:
        `[batch, patches, embed_dim]`.

    Raises:
        ArgumentError: If the spectrogram is smaller than one patch.

    Reference:
        Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, section 2.1.

    Example:

    >>> import numpy as np
    >>> PatchEmbedding(embed_dim=48)(np.zeros((1, 128, 128), "float32")).shape
    TensorShape([1, 144, 48])
    """

    def __init__(self, *, embed_dim, patch_size=(16, 16), strides=(10, 10), **kwargs):
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

"""`SpecialTokens`: learned tokens that precede the patch embeddings."""

import keras
from keras import ops

from ast_keras.layers.initializers import truncated_normal


@keras.saving.register_keras_serializable(package="ast_keras")
class SpecialTokens(keras.layers.Layer):
    """Prepends the learned class token and, optionally, the distillation token to the patches.

    Args:
        use_distillation_token: Whether a distillation token follows the class token, as in DeiT.

    Call arguments:
        patches: Patch embeddings `[batch, patches, embed_dim]`.

    Input shape:
        `[batch, patches, embed_dim]`.

    Output shape:
        `[batch, 2 + patches, embed_dim]`, or `[batch, 1 + patches, embed_dim]` without a
        distillation token.

    Example:

    >>> import numpy as np
    >>> SpecialTokens()(np.zeros((1, 144, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(self, *, use_distillation_token=True, **kwargs):
        super().__init__(**kwargs)
        self.use_distillation_token = use_distillation_token

    @property
    def num_tokens(self):
        """Number of special tokens: 1 or 2."""
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

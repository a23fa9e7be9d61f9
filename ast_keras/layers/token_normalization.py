"""`TokenNormalization`: layer normalisation that saves memory during training."""

import keras

from ast_keras.layers import fused_ops


@keras.saving.register_keras_serializable(package="ast_keras")
class TokenNormalization(keras.layers.LayerNormalization):
    """Layer normalisation over the last axis that stores only its input for the backward pass.

    Weights and results are those of `keras.layers.LayerNormalization`. The computation is in
    float32 under every dtype policy, and the result has the dtype of the input. During training,
    intermediate results are computed again in the backward pass instead of being stored.

    Args:
        epsilon: Number that is added to the variance.
        **kwargs: Other arguments of `keras.layers.LayerNormalization`. The layer supports only
            their default values of `axis`, `center` and `scale`.

    Call arguments:
        tokens: `[..., size]`, of any floating-point dtype.
        training: Whether gradients will be computed.

    Input shape:
        `[..., size]`.

    Output shape:
        The input shape.

    Example:

    >>> import numpy as np
    >>> TokenNormalization(epsilon=1e-6)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def __init__(self, *, epsilon=1e-3, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, tokens, training=None):
        return fused_ops.normalise(tokens, self.gamma, self.beta, self.epsilon, bool(training))

"""TokenNormalization: a LayerNorm whose gradient keeps only the tokens."""

import keras
from keras import ops

from ast_keras.layers import fused_ops


class TokenNormalization(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, whose gradient keeps only the tokens.

    Its arguments, weights and results are those of Keras's layer, in float32 under every policy.

    Example:

    >>> import numpy as np
    >>> TokenNormalization(epsilon=1e-6)(np.zeros((1, 146, 48), "float32")).shape
    TensorShape([1, 146, 48])
    """

    def call(self, tokens, training=None):
        return fused_ops.normalise(tokens, self.gamma, self.beta, self.epsilon, bool(training))

    def then(self, dense, rows, training=None):
        """Returns a dense layer of the normalised rows `[rows, size]`.

        While training the normalised rows are computed again for the gradient, not kept.
        """
        if not training:
            return dense(self(rows))
        weights = (ops.cast(weight, rows.dtype) for weight in (dense.kernel, dense.bias))
        return fused_ops.norm_dense(rows, self.gamma, self.beta, self.epsilon, *weights)

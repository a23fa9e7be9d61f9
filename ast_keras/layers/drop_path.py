"""DropPath: stochastic depth."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError


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
            raise ArgumentError(f"rate must lie in [0, 1). Received: rate={rate}")
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

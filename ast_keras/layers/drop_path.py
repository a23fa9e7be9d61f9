"""`DropPath`: stochastic depth."""

import keras
from keras import ops

from ast_keras.errors import ArgumentError


@keras.saving.register_keras_serializable(package="ast_keras")
class DropPath(keras.layers.Layer):
    """Drops a residual branch of randomly chosen examples during training (stochastic depth).

    The branches that are kept are scaled by `1 / (1 - rate)`, which preserves the expected value.

    Args:
        rate: Probability of dropping the branch of an example, in [0, 1).
        seed: Integer seed of the random draws. None chooses a random seed.

    Call arguments:
        branch: Output of a residual branch, `[batch, ...]`.
        training: Whether to drop branches.

    Input shape:
        `[batch, ...]`.

    Output shape:
        The input shape.

    Raises:
        ArgumentError: If `rate` is out of its range.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    Example:

    >>> import numpy as np
    >>> float(DropPath(rate=0.5)(np.ones((1, 4, 8), "float32"), training=False)[0, 0, 0])
    1.0
    """

    def __init__(self, *, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ArgumentError(f"rate must lie in [0, 1). Received: rate={rate}")
        self.rate = rate
        self.seed = seed
        # The generator adds a variable to the layer: create it only if it is used.
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

"""Adam with L2 regularisation in the gradient, the optimizer of the published AST; and AdamW."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.training.learning_rate_factors import LearningRateFactors


@keras.saving.register_keras_serializable(package="ast_keras")
class AdamL2(LearningRateFactors, keras.optimizers.Optimizer):
    """Applies Adam to the gradient plus `l2` times the variable, in PyTorch's arithmetic.

    The L2 term is part of the gradient and so enters both moments, unlike Keras's decoupled
    `weight_decay`, which requires `l2=0` and gives PyTorch's AdamW. `epsilon` is added after the
    bias correction of the second moment. `keras.optimizers.Adam` adds it before, so that the two
    differ early in training. Every trainable variable is penalised, including biases and
    normalisation. The penalty is not part of the loss that training reports.

    Args:
        learning_rate: A number or a `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Decay rate of the mean of gradients, in [0, 1).
        beta_2: Decay rate of the mean of squared gradients, in [0, 1).
        epsilon: Constant added to the denominator of the update, not negative.
        l2: Factor of the variable that is added to its gradient, not negative. It is the
            `weight_decay` of `torch.optim.Adam`.
        name: Name of the optimizer.
        **kwargs: `learning_rate_factors`, other learning rates for parts of the model (see
            `LearningRateFactors`), and other arguments of `keras.optimizers.Optimizer`:
            `weight_decay`, clipping, moving average of the variables, loss scaling, gradient
            accumulation.

    Raises:
        ArgumentError: If a value is outside its range, or `l2` and `weight_decay` are both given.

    Reference:
        Kingma and Ba (2015), Algorithm 1. Defaults: Gong, Chung and Glass (2021), section 3.

    Example:

    >>> variable = keras.Variable([1.0, 2.0])
    >>> optimizer = AdamL2(learning_rate=0.1)
    >>> optimizer.apply([ops.array([3.0, -0.5])], [variable])
    >>> [round(float(value), 4) for value in variable.numpy()]
    [0.9, 2.1]
    """

    def __init__(
        self,
        learning_rate,
        beta_1=0.95,
        beta_2=0.999,
        epsilon=1e-8,
        l2=5e-7,
        name="adam_l2",
        **kwargs,
    ):
        for key, value in {"beta_1": beta_1, "beta_2": beta_2}.items():
            if not 0.0 <= value < 1.0:
                raise ArgumentError(f"{key} must lie in [0, 1). Received: {key}={value}")
        for key, value in {"epsilon": epsilon, "l2": l2}.items():
            if not value >= 0.0:
                raise ArgumentError(f"{key} must not be negative. Received: {key}={value}")
        if l2 and kwargs.get("weight_decay"):
            raise ArgumentError(
                "l2 (added to the gradient) and weight_decay (decoupled) exclude each other: set "
                f"one to 0. Received: l2={l2}, weight_decay={kwargs['weight_decay']}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.l2 = l2
        self._mean_correction = self._square_correction = None

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._means, self._squares = self.add_optimizer_variables(variables, ["mean", "square"])

    def apply(self, grads, trainable_variables=None):
        step = ops.cast(self.iterations + 1, "float32")
        # Computed once for all variables: each correction is ten operations.
        self._mean_correction = _bias_correction(self.beta_1, step)
        self._square_correction = _bias_correction(self.beta_2, step)
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._mean_correction = self._square_correction = None

    def update_step(self, gradient, variable, learning_rate):
        index, dtype = self._get_variable_index(variable), variable.dtype
        gradient = ops.cast(tf.convert_to_tensor(gradient), dtype)
        if self.l2:
            gradient = gradient + self.l2 * variable
        for moments, beta in ((self._means, self.beta_1), (self._squares, self.beta_2)):
            # The operation below adds `(1 - beta) * (gradient - moment)` to the moment. With beta 0
            # a small gradient would be lost in the difference: start from a moment of 0.
            if beta == 0:
                self.assign(moments[index], tf.zeros_like(variable))
        rate = self.scaled_rate(learning_rate, variable)
        rate = ops.cast(rate, "float32") / self._mean_correction
        root, zero = ops.sqrt(self._square_correction), ops.cast(0, dtype)
        # A single operation updates variable and moments in place. With Keras's operations there
        # would be a dozen, and each would read and write the memory of all weights. The operation's
        # own bias corrections lose digits; powers of zero disable them.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._means[index].value.handle,
            v=self._squares[index].value.handle,
            beta1_power=zero,
            beta2_power=zero,
            lr=ops.cast(rate * root, dtype),
            beta1=ops.cast(self.beta_1, dtype),
            beta2=ops.cast(self.beta_2, dtype),
            epsilon=ops.cast(self.epsilon * root, dtype),
            grad=gradient,
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "beta_1": self.beta_1,
                "beta_2": self.beta_2,
                "epsilon": self.epsilon,
                "l2": self.l2,
            }
        )
        return config


@keras.saving.register_keras_serializable(package="ast_keras")
class AdamW(LearningRateFactors, keras.optimizers.AdamW):
    """Keras's AdamW with other learning rates for parts of the model.

    Args:
        learning_rate: A number or a `keras.optimizers.schedules.LearningRateSchedule`.
        learning_rate_factors: Factors of the learning rate, and thereby of the weight decay, by
            name of a layer, as `AudioClassifier.learning_rate_factors` returns them.
        **kwargs: Other arguments of `keras.optimizers.AdamW`.

    Raises:
        ArgumentError: If a factor is not positive, or none applies to a variable of the model.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> factors = model.learning_rate_factors(layer_decay=0.75, head_factor=50)
    >>> model.compile(AdamW(1e-5, learning_rate_factors=factors))
    """

    def __init__(self, learning_rate=0.001, learning_rate_factors=None, **kwargs):
        super().__init__(
            learning_rate=learning_rate, learning_rate_factors=learning_rate_factors, **kwargs
        )

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, self.scaled_rate(learning_rate, variable))


def _bias_correction(beta, step):
    """Returns `1 - beta ** step` without cancellation.

    Computed directly in float32, the relative error would be up to 5e-5 for a beta of 0.999. Beta
    is rounded to float32 first, since the moments use the rounded value.
    """
    return -ops.expm1(step * (math.log(np.float32(beta)) if beta else -math.inf))

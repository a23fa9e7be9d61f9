"""Learning-rate schedules: the published step decay with warm-up, and a cosine with warm-up."""

import math

import keras
import numpy as np
from keras import ops

from ast_keras.errors import ArgumentError


@keras.saving.register_keras_serializable(package="ast_keras")
class EpochDecaySchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Lowers the learning rate at the end of chosen epochs, after a stepped warm-up.

    Equals the published schedule at every step. The warm-up sets the rate at every
    `warmup_update_steps`-th step and holds it in between: during the first `warmup_update_steps`
    steps the rate is 0. A decay within the warm-up lasts only until the next update. If
    `warmup_steps` is not a multiple of `warmup_update_steps`, the base rate is never reached.
    After the last epoch the rate stays constant.

    A step is one call of the optimizer. With Keras's `gradient_accumulation_steps` that is one
    batch, so pass the number of batches.

    Args:
        base_learning_rate: Rate before any decay.
        steps_per_epoch: Number of optimizer calls in one epoch.
        num_epochs: Number of epochs of the run.
        decay_start_epoch: Epoch after which the rate first decays, counted from 1.
        decay_every_epochs: Number of epochs from one decay to the next.
        decay_rate: Factor of the rate at each decay.
        warmup_steps: Step at which the warm-up ends (published for AudioSet: 1000). 0 disables it.
        warmup_update_steps: Number of steps between two updates of the rate during the warm-up.

    Call arguments:
        step: Scalar integer counted from 0, as a number, a tensor or a variable.

    Returns:
        The learning rate of that step, a float32 scalar.

    Raises:
        ArgumentError: If a rate or a count is not positive, or `warmup_steps` is negative.

    Reference:
        Gong, Chung and Glass (2021), section 3; `src/traintest.py` of YuanGongND/ast.

    Example:

    >>> schedule = EpochDecaySchedule(
    ...     1e-5, steps_per_epoch=40, num_epochs=25,
    ...     decay_start_epoch=5, decay_every_epochs=1, decay_rate=0.85)
    >>> [f"{float(schedule(epoch * 40)):.3e}" for epoch in (0, 4, 5, 24)]
    ['1.000e-05', '1.000e-05', '8.500e-06', '3.876e-07']
    """

    def __init__(
        self,
        base_learning_rate,
        steps_per_epoch,
        num_epochs,
        decay_start_epoch,
        decay_every_epochs,
        decay_rate,
        warmup_steps=0,
        warmup_update_steps=50,
    ):
        _require_positive(
            base_learning_rate=base_learning_rate,
            steps_per_epoch=steps_per_epoch,
            num_epochs=num_epochs,
            decay_start_epoch=decay_start_epoch,
            decay_every_epochs=decay_every_epochs,
            decay_rate=decay_rate,
            warmup_update_steps=warmup_update_steps,
        )
        _require_not_negative(warmup_steps=warmup_steps)
        super().__init__()
        self.base_learning_rate = base_learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.num_epochs = num_epochs
        self.decay_start_epoch = decay_start_epoch
        self.decay_every_epochs = decay_every_epochs
        self.decay_rate = decay_rate
        self.warmup_steps = warmup_steps
        self.warmup_update_steps = warmup_update_steps
        self._starts, self._rates = self._intervals()

    def __call__(self, step):
        interval = ops.sum(ops.cast(ops.cast(step, "int64") >= self._starts, "int32")) - 1
        return ops.take(ops.convert_to_tensor(self._rates), ops.maximum(interval, 0))

    def get_config(self):
        return {
            "base_learning_rate": self.base_learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "num_epochs": self.num_epochs,
            "decay_start_epoch": self.decay_start_epoch,
            "decay_every_epochs": self.decay_every_epochs,
            "decay_rate": self.decay_rate,
            "warmup_steps": self.warmup_steps,
            "warmup_update_steps": self.warmup_update_steps,
        }

    def _intervals(self):
        """Returns first step and rate of each interval of constant rate, int64 and float32."""
        decays = range(self.decay_start_epoch, self.num_epochs, self.decay_every_epochs)
        decays = {epoch * self.steps_per_epoch for epoch in decays}
        updates = set()
        if self.warmup_steps:
            updates.update(range(0, self.warmup_steps + 1, self.warmup_update_steps))
        rate, intervals = self.base_learning_rate, {0: self.base_learning_rate}
        for step in sorted(decays | updates):
            if step in updates:
                # As in the original: the warm-up sets the rate, which reverts an earlier decay.
                rate = step / self.warmup_steps * self.base_learning_rate
            else:
                rate = rate * self.decay_rate
            intervals[step] = rate
        return np.array(list(intervals), "int64"), np.array(list(intervals.values()), "float32")


@keras.saving.register_keras_serializable(package="ast_keras")
class WarmupCosineSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Raises the learning rate linearly from 0, then lowers it along half a cosine.

    The rate is 0 at step 0, `base_learning_rate` at `warmup_steps`, and
    `final_fraction * base_learning_rate` from `total_steps` on.

    Args:
        base_learning_rate: Highest rate.
        warmup_steps: Number of steps of the warm-up. 0 starts at the highest rate.
        total_steps: Step at which the rate is lowest, greater than `warmup_steps`.
        final_fraction: Lowest rate as a fraction of the highest, in [0, 1].

    Call arguments:
        step: Scalar integer counted from 0, as a number, a tensor or a variable.

    Returns:
        The learning rate of that step, a float32 scalar.

    Raises:
        ArgumentError: If a value is outside its range.

    Example:

    >>> schedule = WarmupCosineSchedule(1e-3, warmup_steps=10, total_steps=110)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.0005, 0.001, 0.0005, 0.0]
    """

    def __init__(self, base_learning_rate, warmup_steps, total_steps, final_fraction=0.0):
        _require_positive(base_learning_rate=base_learning_rate)
        _require_not_negative(warmup_steps=warmup_steps)
        if not total_steps > warmup_steps:
            raise ArgumentError(
                "total_steps includes the warm-up and must exceed warmup_steps. "
                f"Received: total_steps={total_steps}, warmup_steps={warmup_steps}"
            )
        if not 0.0 <= final_fraction <= 1.0:
            raise ArgumentError(
                f"final_fraction must lie in [0, 1]. Received: final_fraction={final_fraction}"
            )
        super().__init__()
        self.base_learning_rate = base_learning_rate
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final_fraction = final_fraction

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = step / max(self.warmup_steps, 1)
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * ops.minimum(progress, 1.0)))
        fall = self.final_fraction + (1.0 - self.final_fraction) * cosine
        return self.base_learning_rate * ops.where(step < self.warmup_steps, rise, fall)

    def get_config(self):
        return {
            "base_learning_rate": self.base_learning_rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "final_fraction": self.final_fraction,
        }


def _require_positive(**values):
    for name, value in values.items():
        if not value > 0:
            raise ArgumentError(f"{name} must be positive. Received: {name}={value}")


def _require_not_negative(**values):
    for name, value in values.items():
        if not value >= 0:
            raise ArgumentError(f"{name} must not be negative. Received: {name}={value}")

"""One training step on any number of devices, as an Orbit trainer."""

from __future__ import annotations

import keras
import orbit
import tensorflow as tf


class ASTTrainer(orbit.StandardTrainer):
    """Trains a classifier on distributed batches of `Pipeline`.

    The loss is the sum of `weight * loss` over the examples on all devices, with weights that add
    up to one in a batch. It depends neither on the number of devices nor on the rows that fill up
    a last batch. With gradient accumulation, the gradients of the parts of a batch are added up and
    the optimizer is applied once.

    Args:
        model: An `ASTClassifier`, built in the strategy's scope.
        optimizer: A Keras optimizer, made in the same scope. On several devices it must not clip
            gradients itself, because it sees only one device's part of a gradient.
        loss: A Keras loss from logits with `reduction=None`.
        dataset: Distributed batches (`training.distribution.distribute`). None if
            `train_dataset` is set later.
        strategy: A `tf.distribute.Strategy`. None for the current one.
        accumulate_steps: Number of parts in which each device computes its rows of a batch, one
            after the other. Memory falls about in proportion.
        clip_norm: Maximum global norm of the gradient over all devices. None does not clip.
        jit_compile: Whether XLA compiles the loss and its gradient.

    Attributes:
        global_step: Number of batches trained, an int64 variable.
        loss_sum: Sum of the losses of the current epoch, a float32 variable.
        loss_steps: Number of batches in `loss_sum`, a float32 variable.
    """

    def __init__(
        self,
        model,
        optimizer,
        loss,
        dataset,
        strategy=None,
        accumulate_steps=1,
        clip_norm=None,
        jit_compile=False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.strategy = strategy or tf.distribute.get_strategy()
        self.accumulate_steps = accumulate_steps
        self.clip_norm = clip_norm
        self._scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        self._variables = [v.value for v in model.trainable_variables]
        self._gradients = self._loss_and_gradients
        if jit_compile:
            self._gradients = tf.function(self._loss_and_gradients, jit_compile=True)
        with self.strategy.scope():
            optimizer.build(model.trainable_variables)
            # Counts batches. Under loss scaling the optimizer does not count those it skips.
            self.global_step = tf.Variable(0, dtype=tf.int64, name="global_step")
            # In the checkpoint, so that the mean of a resumed epoch covers the whole epoch.
            self.loss_sum = tf.Variable(0.0, name="loss_sum")
            self.loss_steps = tf.Variable(0.0, name="loss_steps")
            self.last_loss = tf.Variable(0.0, name="last_loss")
        options = orbit.StandardTrainerOptions(use_tf_while_loop=False)
        super().__init__(dataset, options)

    @tf.autograph.experimental.do_not_convert  # AutoGraph has nothing to do here and takes seconds
    def train_step(self, iterator):
        per_replica = self.strategy.run(self._replica_step, args=(next(iterator),))
        loss = self.strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)
        self.global_step.assign_add(1)
        self.loss_sum.assign_add(loss)
        self.loss_steps.assign_add(1.0)
        self.last_loss.assign(loss)

    def train_loop_end(self):
        return {"loss": self.last_loss.numpy(), "epoch_loss": self.mean_loss()}

    def mean_loss(self):
        """Returns the mean loss of the current epoch."""
        return float(self.loss_sum.numpy() / max(self.loss_steps.numpy(), 1.0))

    def reset_epoch(self):
        """Starts the mean loss of the next epoch."""
        self.loss_sum.assign(0.0)
        self.loss_steps.assign(0.0)

    def _replica_step(self, batch):
        if self.accumulate_steps == 1:
            loss, gradients = self._gradients(batch)
        else:
            loss, gradients = self._accumulate(batch)
        if self.clip_norm is not None or self._scales_loss:
            loss_scale = self.optimizer.scale_loss(tf.constant(1.0))
            factor = gradient_factor(gradients, self.clip_norm, loss_scale)
            gradients = [gradient * factor for gradient in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def _accumulate(self, batch):
        """Returns loss and gradients of a batch, computed part by part."""
        parts = {
            name: tf.reshape(value, [self.accumulate_steps, -1, *_shape(value)[1:]])
            for name, value in batch.items()
        }

        def add(part, loss, sums):
            more, gradients = self._gradients({name: parts[name][part] for name in parts})
            return part + 1, loss + more, [s + g for s, g in zip(sums, gradients, strict=True)]

        zeros = [tf.zeros(v.shape, v.dtype) for v in self._variables]
        _, loss, sums = tf.while_loop(
            lambda part, *_: part < self.accumulate_steps,
            add,
            (tf.constant(0), tf.constant(0.0), zeros),
            parallel_iterations=1,  # parallel parts would need the memory of a whole batch
        )
        return loss, sums

    def _loss_and_gradients(self, batch):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)  # what is frozen is not recorded
            logits = self.model(
                batch["waveform"], training=True, lengths=batch["lengths"], seeds=batch["seeds"]
            )
            loss = tf.reduce_sum(self.loss(batch["target"], logits) * batch["weight"])
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, self._variables)


def gradient_factor(gradients, clip_norm=None, loss_scale=1.0):
    """Returns the factor to apply to each device's gradients, the same on all devices.

    The factor is NaN if any gradient on any device is not finite. Keras then skips the step and
    halves the loss scale, which must happen on all devices or on none, although Keras looks only at
    the gradients of one device.

    Args:
        gradients: This device's gradients, a list of tensors, multiplied by `loss_scale`.
        clip_norm: Maximum global norm of the sum of all devices' gradients. None does not clip.
        loss_scale: Scale of the loss under mixed precision.

    Returns:
        A float32 scalar; 1 if the norm is below the maximum.
    """
    context = tf.distribute.get_replica_context()
    if clip_norm is None:
        norm, factor = context.all_reduce("SUM", tf.linalg.global_norm(gradients)), 1.0
    else:
        norm = tf.linalg.global_norm(context.all_reduce("SUM", gradients))
        norm /= loss_scale
        factor = clip_norm / tf.maximum(norm, clip_norm)
    return tf.where(tf.math.is_finite(norm), factor, float("nan"))


def _shape(tensor):
    """Returns the shape as a list, with numbers where it is static."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if n is None else n for i, n in enumerate(tensor.shape)]

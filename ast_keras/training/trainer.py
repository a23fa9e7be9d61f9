"""One training step and one evaluation on any number of devices, in Orbit's terms."""

from __future__ import annotations

import keras
import orbit
import tensorflow as tf


class ASTTrainer(orbit.StandardTrainer):
    """Trains a classifier on distributed batches of `Pipeline`.

    The loss is the sum over all devices of `weight * loss` per example, with weights that add up
    to one in a batch, so neither the number of devices nor a filled-up last batch changes it.
    Nor does gradient accumulation: the gradients of the parts of a batch are added up, and the
    optimizer is applied once.

    Args:
      model: An `ASTClassifier`, made under the strategy's scope.
      optimizer: Made under the same scope; on several devices without clipping of its own, which
        would see one device's share of a gradient.
      loss: A Keras loss from logits with `reduction=None`.
      dataset: Batches as `Pipeline.dataset` makes them, distributed.
      strategy: A `tf.distribute.Strategy`.
      accumulate_steps: In how many parts, one after another, each device computes its share of a
        batch; needs about as many times less memory.
      clip_norm: Largest global norm of a batch's gradient, over all devices; None for any.
      jit_compile: Whether XLA compiles loss and gradients.
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
            # Counts batches: under loss scaling the optimizer does not count those it skips.
            self.global_step = tf.Variable(0, dtype=tf.int64, name="global_step")
            # Of the epoch so far; checkpointed, so that a resumed epoch reports all of itself.
            self.loss_sum = tf.Variable(0.0, name="loss_sum")
            self.loss_steps = tf.Variable(0.0, name="loss_steps")
            self.last_loss = tf.Variable(0.0, name="last_loss")
        options = orbit.StandardTrainerOptions(use_tf_while_loop=False)
        super().__init__(dataset, options)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and seconds to find that out
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
        """Returns the mean loss of the epoch so far."""
        return float(self.loss_sum.numpy() / max(self.loss_steps.numpy(), 1.0))

    def reset_epoch(self):
        """Starts a new mean."""
        self.loss_sum.assign(0.0)
        self.loss_steps.assign(0.0)

    def _replica_step(self, batch):
        if self.accumulate_steps == 1:
            loss, gradients = self._gradients(batch)
        else:
            loss, gradients = self._accumulated(batch)
        if self.clip_norm is not None or self._scales_loss:
            factor = self._factor(gradients)
            gradients = [gradient * factor for gradient in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def _accumulated(self, batch):
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
            parallel_iterations=1,  # else parts are computed at once, in the memory of all
        )
        return loss, sums

    def _factor(self, gradients):
        """Returns what to multiply each device's gradients with, the same on all of them.

        Not a number if any is not finite: a loss scale must be halved on all devices or on none,
        but Keras looks at each device's share.
        """
        context = tf.distribute.get_replica_context()
        if self.clip_norm is None:
            norm, factor = context.all_reduce("SUM", tf.linalg.global_norm(gradients)), 1.0
        else:
            norm = tf.linalg.global_norm(context.all_reduce("SUM", gradients))
            norm /= self.optimizer.scale_loss(tf.constant(1.0))
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
        return tf.where(tf.math.is_finite(norm), factor, float("nan"))

    def _loss_and_gradients(self, batch):
        with tf.GradientTape() as tape:
            logits = self.model(
                batch["waveform"], training=True, lengths=batch["lengths"], seeds=batch["seeds"]
            )
            loss = tf.reduce_sum(self.loss(batch["target"], logits) * batch["weight"])
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, self._variables)


def _shape(tensor):
    """Returns the shape as a list, with numbers where it is known."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if n is None else n for i, n in enumerate(tensor.shape)]

"""One training step and one evaluation on any number of devices, in Orbit's terms."""

from __future__ import annotations

import orbit
import tensorflow as tf

from ast_keras.metrics import evaluate_predictions


def distribute(strategy, pipeline, first_step, last_step):
    """Returns the pipeline's global batches, each split over the strategy's devices."""
    return strategy.experimental_distribute_dataset(pipeline.dataset(first_step, last_step))


class ASTTrainer(orbit.StandardTrainer):
    """Trains a classifier on distributed batches of `Pipeline`.

    The loss is the sum over all devices of `weight * loss` per example, with weights that add up
    to one in a batch, so neither the number of devices nor a filled-up last batch changes it.

    Args:
      model: An `ASTClassifier`, made under the strategy's scope.
      optimizer: Made under the same scope.
      loss: A Keras loss from logits with `reduction=None`.
      dataset: Batches as `Pipeline.dataset` makes them, distributed.
      strategy: A `tf.distribute.Strategy`.
      jit_compile: Whether XLA compiles loss and gradients.
    """

    def __init__(self, model, optimizer, loss, dataset, strategy=None, jit_compile=False):
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.strategy = strategy or tf.distribute.get_strategy()
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
        loss, gradients = self._gradients(batch)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def _loss_and_gradients(self, batch):
        with tf.GradientTape() as tape:
            logits = self.model(
                batch["waveform"], training=True, lengths=batch["length"], seeds=batch["seed"]
            )
            loss = tf.reduce_sum(self.loss(batch["target"], logits) * batch["weight"])
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, self._variables)


class ASTEvaluator(orbit.StandardEvaluator):
    """Scores a split with a classifier, every example once.

    Args:
      model: An `ASTClassifier`.
      dataset: Batches as `Pipeline.dataset` makes them, distributed.
      multi_label: Whether an example may have several labels, or none.
      strategy: A `tf.distribute.Strategy`.
      watch: Called before every batch; it may raise to stop.
      classes: For each class of the targets its index in the model's output
        (`LabelSet.indices_of`); None where the order is the same.

    Output: `evaluate(-1)` returns the `Evaluation`'s summary; `evaluation`, `scores` and `targets`
      (`[examples, classes]`, in the order of the split and of the targets' classes) hold the rest.
    """

    def __init__(self, model, dataset, multi_label, strategy=None, watch=None, classes=None):
        self.model = model
        self.multi_label = multi_label
        self.strategy = strategy or tf.distribute.get_strategy()
        self.watch = watch or (lambda: None)
        self.classes = classes
        self.evaluation = self.scores = self.targets = None
        super().__init__(dataset)

    def eval_begin(self):
        return []

    def eval_step(self, iterator):
        parts = self.strategy.run(self._replica_scores, args=(next(iterator),))
        return [self.strategy.gather(part, axis=0) for part in parts]

    def eval_reduce(self, state=None, step_outputs=None):
        self.watch()
        scores, targets, weights = (part.numpy() for part in step_outputs)
        real = weights > 0
        state.append((scores[real], targets[real]))
        return state

    def eval_end(self, state=None):
        self.scores, self.targets = (
            tf.concat(part, 0).numpy() for part in zip(*state, strict=True)
        )
        if self.classes is not None:
            self.scores = self.scores[:, self.classes]
        self.evaluation = evaluate_predictions(self.scores, self.targets, self.multi_label)
        return self.evaluation.summary()

    def _replica_scores(self, batch):
        logits = self.model(batch["waveform"], training=False, lengths=batch["length"])
        return self.model.scores(logits), batch["target"], batch["weight"]


def evaluate(model, pipeline, multi_label, classes=None):
    """Scores a model on all examples of a pipeline, on one device; returns the `ASTEvaluator`.

    Raises:
      AudioError: If a sound cannot be read.
    """
    dataset = pipeline.dataset(0, pipeline.steps_per_epoch)
    evaluator = ASTEvaluator(model, dataset, multi_label, classes=classes)
    with pipeline.clear_errors():
        evaluator.evaluate(tf.constant(-1))
    return evaluator

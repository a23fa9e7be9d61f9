"""Scores a split with a classifier, every example once."""

from __future__ import annotations

import orbit
import tensorflow as tf

from ast_keras.evaluation.metrics import evaluate_predictions


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
      (`[examples, classes]`, in the order of the split and of the targets' classes) hold the rest,
      `real` of each batch which rows they were: others are filling, or could not be read.
    """

    def __init__(self, model, dataset, multi_label, strategy=None, watch=None, classes=None):
        self.model = model
        self.multi_label = multi_label
        self.strategy = strategy or tf.distribute.get_strategy()
        self.watch = watch or (lambda: None)
        self.classes = classes
        self.evaluation = self.scores = self.targets = self.real = None
        super().__init__(dataset)

    def eval_begin(self):
        return []

    @tf.autograph.experimental.do_not_convert
    def eval_step(self, iterator):
        parts = self.strategy.run(self._replica_scores, args=(next(iterator),))
        return [self.strategy.gather(part, axis=0) for part in parts]

    def eval_reduce(self, state=None, step_outputs=None):
        self.watch()
        scores, targets, weights = (part.numpy() for part in step_outputs)
        real = weights > 0
        state.append((scores[real], targets[real], real))
        return state

    def eval_end(self, state=None):
        scores, targets, self.real = zip(*state, strict=True)
        self.scores, self.targets = tf.concat(scores, 0).numpy(), tf.concat(targets, 0).numpy()
        if self.classes is not None:
            self.scores = self.scores[:, self.classes]
        self.evaluation = evaluate_predictions(self.scores, self.targets, self.multi_label)
        return self.evaluation.summary()

    def _replica_scores(self, batch):
        logits = self.model(batch["waveform"], training=False, lengths=batch["lengths"])
        return self.model.scores(logits), batch["target"], batch["weight"]


def evaluate(model, pipeline, multi_label, classes=None):
    """Scores a model on all examples of a pipeline, on one device; returns the `ASTEvaluator`.

    Raises:
      AudioError: If a sound cannot be read.
    """
    dataset = pipeline.dataset(0, pipeline.steps_per_epoch)
    evaluator = ASTEvaluator(model, dataset, multi_label, classes=classes)
    with pipeline.translate_errors():
        evaluator.evaluate(tf.constant(-1))
    return evaluator

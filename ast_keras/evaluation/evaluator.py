"""Evaluation of a classifier on a data set, every example once."""

from __future__ import annotations

import numpy as np
import orbit
import tensorflow as tf

from ast_keras.evaluation.metrics import evaluate_predictions


class ASTEvaluator(orbit.StandardEvaluator):
    """Computes the scores of a classifier on a data set, every example once.

    `evaluate(-1)` processes the whole data set and returns `Evaluation.summary()`. With several
    labels, precision, recall and F1 are those at the thresholds stored with the model, if any.

    Args:
        model: An `ASTClassifier`.
        dataset: Batches from `Pipeline.dataset`, distributed if there is a strategy.
        multi_label: Whether an example may have several labels or none.
        strategy: A `tf.distribute.Strategy`; None uses the current one.
        watch: Function called before every batch. It may raise an exception to stop.
        classes: For each class of the targets, its index in the model's output, from
            `LabelSet.indices_of`. None if the order is the same.

    Attributes:
        evaluation: The `Evaluation`.
        scores: Probabilities `[examples, classes]`, in the order of the data set and of the
            targets' classes.
        targets: Labels `[examples, classes]`.
        real: For each batch, a boolean array `[rows]`: whether the row was scored. Rows that only
            fill the batch, and sounds that could not be read, were not.
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
        self.evaluation = evaluate_predictions(
            self.scores, self.targets, self.multi_label, self._thresholds()
        )
        return self.evaluation.summary()

    def _thresholds(self):
        """Returns the thresholds stored with the model, in the order of the targets' classes."""
        thresholds = self.model.thresholds
        if thresholds is None or self.classes is None:
            return thresholds
        return [thresholds[index] for index in self.classes]

    def _replica_scores(self, batch):
        logits = self.model(batch["waveform"], training=False, lengths=batch["lengths"])
        return self.model.scores(logits), batch["target"], batch["weight"]


def evaluate(model, pipeline, multi_label, classes=None):
    """Scores a model on all examples of a pipeline, on one device.

    Args:
        model: An `ASTClassifier`.
        pipeline: A `Pipeline` that is not for training.
        multi_label: Whether an example may have several labels or none.
        classes: For each class of the targets, its index in the model's output. None if the order
            is the same.

    Returns:
        The `ASTEvaluator`, with the results in its attributes.

    Raises:
        AudioError: If a sound cannot be read.
    """
    dataset = pipeline.dataset(0, pipeline.steps_per_epoch)
    evaluator = ASTEvaluator(model, dataset, multi_label, classes=classes)
    with pipeline.translate_errors():
        evaluator.evaluate(tf.constant(-1))
    return evaluator


def scored_examples(real, batch_size):
    """Returns the indices of the examples of a split that were scored, in the order of scores.

    Args:
        real: For each batch, a boolean array `[rows]`: whether the row was scored. A batch that
            does not divide evenly among the devices has additional rows at its end.
        batch_size: Number of examples per batch.

    Example:

    >>> scored_examples([[True, False, True, False], [True, True, False, False]], batch_size=3)
    [0, 2, 3, 4]
    """
    rows = (batch_size * step + np.flatnonzero(part) for step, part in enumerate(real))
    return np.concatenate(list(rows)).tolist()

"""Mean average precision and d' as Keras metrics, for `model.compile`."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from ast_keras.errors import ArgumentError
from ast_keras.evaluation.metrics import evaluate_predictions

# Up to this number of stored scores a result inside a graph is computed at every step.
_ALWAYS_EXACT_SCORES = 2**17
_ACTIVATIONS = ("sigmoid", "softmax")


class _Predictions:
    """Stores predictions in host memory.

    Average precision and AUC depend on the order of all scores of a class, so that no state of
    fixed size gives their exact value.
    """

    def __init__(self):
        self._parts = []  # appended to by several replicas at once: one append is atomic
        self._evaluation = None
        self._num_evaluated = 0

    def add(self, targets, scores, weights):
        """Adds `targets` and `scores`, `[batch, classes]`, of the rows with a weight above 0."""
        kept = weights > 0
        self._parts.append((targets[kept] >= 0.5, np.asarray(scores[kept], np.float32)))

    def clear(self):
        """Removes all predictions."""
        self.__init__()

    def evaluation(self):
        """Returns the `Evaluation` of everything stored; None if it is empty or not finite."""
        parts = list(self._parts)
        num_examples = sum(len(targets) for targets, _ in parts)
        if num_examples != self._num_evaluated:
            targets, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
            self._parts[: len(parts)] = [(targets, scores)]
            self._num_evaluated = num_examples
            finite = np.isfinite(scores).all()
            self._evaluation = evaluate_predictions(scores, targets, True) if finite else None
        return self._evaluation

    def recent_evaluation(self):
        """Returns the evaluation, recomputed for few scores or twice as many examples."""
        num_examples = sum(len(targets) for targets, _ in self._parts)
        num_scores = sum(scores.size for _, scores in self._parts)
        if num_scores <= _ALWAYS_EXACT_SCORES or num_examples >= 2 * self._num_evaluated:
            return self.evaluation()
        return self._evaluation


class _RankingMetric(keras.metrics.Metric):
    """Base class of metrics that need all scores of an epoch at once."""

    runs_on_host = True  # `AudioClassifier` then leaves XLA off

    def __init__(self, *, from_logits=False, activation="sigmoid", name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        if activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"activation must be one of {_ACTIVATIONS}. Received: activation={activation!r}"
            )
        self.from_logits = bool(from_logits)
        self.activation = activation
        self._predictions = _Predictions()

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Stores one batch.

        Args:
            y_true: Labels `[batch, classes]`, 0 or 1. Fractions, as mixup makes them, count as 1
                from 0.5 on.
            y_pred: Scores or logits `[batch, classes]`.
            sample_weight: `[batch]` or `[batch, 1]`; an example with weight 0 is left out, any
                other weight counts as 1. None counts every example.

        Raises:
            ArgumentError: If the shapes of `y_true` and `y_pred` differ, or XLA compiles the step.
        """
        y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
        if y_pred.shape.rank != 2 or not y_true.shape.is_compatible_with(y_pred.shape):
            raise ArgumentError(
                "y_true and y_pred must both be [batch, classes]; encode integer classes with "
                f"keras.utils.to_categorical. Received: y_true.shape={y_true.shape}, "
                f"y_pred.shape={y_pred.shape}"
            )
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        # A sigmoid keeps the order of one class's scores; only rounding would make ties of them.
        if self.from_logits and self.activation == "softmax":
            y_pred = tf.nn.softmax(y_pred)
        if sample_weight is None:
            sample_weight = tf.ones(tf.shape(y_pred)[:1])
        sample_weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        self._on_host(self._predictions.add, y_true, y_pred, sample_weight)

    def result(self):
        """Returns the metric over everything stored, a scalar; NaN if no class defines it."""
        if tf.executing_eagerly():
            return tf.cast(self._value(self._predictions.evaluation()), self.dtype)
        value = tf.numpy_function(
            lambda: np.float32(self._value(self._predictions.recent_evaluation())), [], tf.float32
        )
        return tf.cast(tf.ensure_shape(value, []), self.dtype)

    def reset_state(self):
        """Removes everything stored."""
        self._on_host(self._predictions.clear)

    def get_config(self):
        config = {"from_logits": self.from_logits, "activation": self.activation}
        return {**super().get_config(), **config}

    def _value(self, evaluation):
        return math.nan if evaluation is None else self._select(evaluation)

    def _select(self, evaluation):
        raise NotImplementedError

    def _on_host(self, function, *tensors):
        """Calls a function with the tensors as arrays, now or whenever the graph runs."""
        if tf.executing_eagerly():
            function(*(tensor.numpy() for tensor in tensors))
            return
        if _is_compiled_by_xla():
            raise ArgumentError(
                f"{type(self).__name__} stores predictions in host memory, which XLA cannot "
                "compile: use model.compile(..., jit_compile=False). Received: jit_compile=True"
            )
        tf.numpy_function(lambda *arrays: function(*arrays), tensors, [])


def _is_compiled_by_xla():
    from tensorflow.python.ops import control_flow_util  # TensorFlow has no public function

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@keras.saving.register_keras_serializable(package="ast_keras")
class MeanAveragePrecision(_RankingMetric):
    """Computes the mean average precision (mAP) over the classes.

    The value at the end of an epoch equals `evaluate_predictions(...).mean_average_precision`, up
    to float32. During an epoch of more than 131,072 scores the value in the progress bar is
    recomputed whenever the number of examples has doubled, because each computation sorts all
    scores.

    All predictions of the epoch are stored in host memory: 5 bytes for each example and class,
    54 MB for AudioSet's evaluation set. Keras passes `sample_weight` to `weighted_metrics` only:
    list the metric there when batches hold filling rows with weight 0. XLA cannot compile the
    metric: an `ASTClassifier` runs without XLA when the metric is listed, other models need
    `compile(..., jit_compile=False)` on a GPU. Under `MirroredStrategy` the examples of all
    replicas count; with several workers each worker's value covers its own examples.

    Args:
        from_logits: Whether `y_pred` holds logits.
        activation: `"sigmoid"` or `"softmax"`, what turns the logits into scores. Used with
            `from_logits=True`.
        name: Name of the metric, `"mean_average_precision"` by default.
        dtype: Dtype of the result.

    Reference:
        Gong, Chung and Glass (2021), section 3.

    Example:

    >>> metric = MeanAveragePrecision()
    >>> metric.update_state([[1, 0], [1, 0], [0, 1]], [[0.9, 0.1], [0.4, 0.7], [0.5, 0.5]])
    >>> round(float(metric.result()), 4)
    0.6667
    """

    def __init__(
        self,
        *,
        from_logits=False,
        activation="sigmoid",
        name="mean_average_precision",
        dtype=None,
    ):
        super().__init__(from_logits=from_logits, activation=activation, name=name, dtype=dtype)

    def _select(self, evaluation):
        return evaluation.mean_average_precision


@keras.saving.register_keras_serializable(package="ast_keras")
class DPrime(_RankingMetric):
    """Computes d' of the mean area under the ROC curve over the classes.

    The value at the end of an epoch equals `evaluate_predictions(...).d_prime`, up to float32. For
    memory, filling rows, XLA and distribution see `MeanAveragePrecision`; each of the two metrics
    stores its own predictions.

    Args:
        from_logits: Whether `y_pred` holds logits.
        activation: `"sigmoid"` or `"softmax"`, what turns the logits into scores. Used with
            `from_logits=True`.
        name: Name of the metric, `"d_prime"` by default.
        dtype: Dtype of the result.

    Reference:
        `sqrt(2) * Phi^-1(mean AUC)`, with Phi the standard normal distribution.

    Example:

    >>> metric = DPrime()
    >>> metric.update_state([[1], [0], [1], [0]], [[0.9], [0.6], [0.5], [0.1]])
    >>> round(float(metric.result()), 4)
    0.9539
    """

    def __init__(self, *, from_logits=False, activation="sigmoid", name="d_prime", dtype=None):
        super().__init__(from_logits=from_logits, activation=activation, name=name, dtype=dtype)

    def _select(self, evaluation):
        return evaluation.d_prime

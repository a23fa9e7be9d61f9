"""The methods of `keras.Model` that a classifier extends: `compile`, and those that take sounds."""

import warnings

import keras

from ast_keras.models.classifier_inputs import check_call, checked_data, one_line_errors
from ast_keras.models.score_activation import activation_of_loss


class KerasMethods:
    """The base of `AudioClassifier`, before `keras.Model`: methods of that class, with more checks.

    `compile` fits a classifier that returns logits. A call, `fit`, `evaluate`, `predict` and their
    variants for one batch first check the sounds (see `classifier_inputs`).
    """

    @property
    def jit_compile(self):
        """Whether XLA compiles the steps of `fit`; False if a metric runs outside of the graph.

        `MeanAveragePrecision` and `DPrime` are such metrics, and XLA is Keras's default on a GPU.
        """
        compiled = getattr(self, "_compile_metrics", None)
        # `compiled.metrics` is empty until the first batch, when the step is compiled already.
        kinds = ("_user_metrics", "_user_weighted_metrics")
        metrics = keras.tree.flatten([getattr(compiled, kind, None) for kind in kinds])
        on_host = any(getattr(metric, "runs_on_host", False) for metric in metrics)
        return keras.Model.jit_compile.fget(self) and not on_host

    @jit_compile.setter
    def jit_compile(self, value):
        keras.Model.jit_compile.fset(self, value)

    def compile(self, optimizer="rmsprop", loss=None, *args, auto_scale_loss=True, **kwargs):
        """Configures training, as `keras.Model.compile` does, and two things more.

        `scores` applies the activation that belongs to the loss, unless `score_activation` is
        given. With a backbone in float16, the optimizer scales the loss, although the classifier
        around the backbone is float32.

        Args:
            optimizer: An optimizer or its name.
            loss: A loss from logits, such as `keras.losses.BinaryCrossentropy(from_logits=True)`.
            *args: Further arguments of `keras.Model.compile`.
            auto_scale_loss: Whether the optimizer of a model with a float16 backbone is made a
                `LossScaleOptimizer`.
            **kwargs: Further arguments of `keras.Model.compile`.
        """
        optimizer = keras.optimizers.get(optimizer)
        scaler = keras.mixed_precision.LossScaleOptimizer
        in_half = self.backbone.policy.compute_dtype == "float16"
        if auto_scale_loss and in_half and not isinstance(optimizer, scaler | None):
            optimizer = scaler(optimizer, name="loss_scale_optimizer")
        super().compile(optimizer, loss, *args, auto_scale_loss=False, **kwargs)
        activation, from_logits = activation_of_loss(loss)
        if activation is None:
            return
        self.suggest_score_activation(activation)
        if not from_logits:
            warnings.warn(
                "The output of the model is logits, which this loss takes for probabilities: use a "
                "loss of keras.losses with from_logits=True. "
                f"Received: loss={getattr(loss, 'name', loss)}",
                stacklevel=2,
            )

    def compile_from_config(self, config):
        # The config holds the optimizer as it was, scaling or not, and the model its activation.
        config = keras.saving.deserialize_keras_object(config)
        activation = self.score_activation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.compile(**config, auto_scale_loss=False)
        self.suggest_score_activation(activation)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    # --- Methods that take sounds ---

    def __call__(self, *args, **kwargs):
        check_call(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple | list):
            kwargs["validation_data"] = (checked_data(self, validation[0]), *validation[1:])
        elif validation is not None:
            kwargs["validation_data"] = checked_data(self, validation)
        with one_line_errors():
            return super().fit(checked_data(self, x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        # `fit` has checked its validation data, and evaluates what it has stored.
        if not kwargs.get("_use_cached_eval_dataset"):
            x = checked_data(self, x)
        with one_line_errors():
            return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        with one_line_errors():
            return super().predict(checked_data(self, x), *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        return super().train_on_batch(checked_data(self, x), *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        return super().test_on_batch(checked_data(self, x), *args, **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(checked_data(self, x))

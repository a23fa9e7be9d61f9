"""`LearningRateFactors`: other learning rates for parts of a model, in any Keras optimizer."""

from collections.abc import Mapping

from keras import ops

from ast_keras.errors import ArgumentError


class LearningRateFactors:
    """Base class of optimizers with a factor of the learning rate for each variable.

    A subclass uses `scaled_rate` in `update_step`. Decoupled weight decay is multiplied by the same
    factor, because it is a fraction of the learning rate.

    Args:
        learning_rate_factors: Factor of the learning rate by name of a layer, as
            `AudioClassifier.learning_rate_factors` returns them. A name, or several joined by
            slashes, applies to the variables whose path contains it. Variables without one have
            the factor 1. None for no factors.
        **kwargs: Arguments of the optimizer.

    Raises:
        ArgumentError: If a factor is not a positive number; in `build` if no variable has one.
    """

    def __init__(self, learning_rate_factors=None, **kwargs):
        if not isinstance(learning_rate_factors, Mapping | None):
            raise ArgumentError(
                "learning_rate_factors must be a dictionary from names of layers to factors. "
                f"Received: learning_rate_factors={learning_rate_factors!r}"
            )
        for name, factor in (learning_rate_factors or {}).items():
            if not 0 < factor < float("inf"):
                raise ArgumentError(
                    f"learning_rate_factors must be positive. Received: {name!r}: {factor}"
                )
        super().__init__(**kwargs)
        self.learning_rate_factors = dict(learning_rate_factors or {})
        self._weight_decay = self.weight_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        if not self.learning_rate_factors:
            return
        factors = [self._factor_of_path(variable.path) for variable in variables]
        if factors == [None] * len(factors):
            raise ArgumentError(
                "learning_rate_factors must name layers of the model, as "
                "model.learning_rate_factors() does. Received: learning_rate_factors="
                f"{self.learning_rate_factors}, variables such as {variables[0].path!r}"
            )
        self._factors = [1.0 if factor is None else float(factor) for factor in factors]

    def _factor_of_path(self, path):
        found = [n for n in self.learning_rate_factors if f"/{n}/" in f"/{path}/"]
        return self.learning_rate_factors[max(found, key=len)] if found else None

    def scaled_rate(self, learning_rate, variable):
        """Returns the learning rate of a variable.

        Args:
            learning_rate: The learning rate of the step.
            variable: One of the variables of `build`.
        """
        if not self.learning_rate_factors:
            return learning_rate
        factor = self._factors[self._get_variable_index(variable)]
        return ops.cast(learning_rate, "float32") * factor

    def _apply_weight_decay(self, variables):
        if self.weight_decay is None or not self.learning_rate_factors:
            super()._apply_weight_decay(variables)
            return
        # The replicas of a mirrored strategy set the attribute one after the other, before one of
        # them applies the decay: none may start from the value that another has set.
        weight_decay = self._weight_decay
        try:
            for variable in variables:
                factor = self._factors[self._get_variable_index(variable)]
                self.weight_decay = weight_decay * factor
                super()._apply_weight_decay([variable])
        finally:
            self.weight_decay = weight_decay

    def get_config(self):
        return {**super().get_config(), "learning_rate_factors": self.learning_rate_factors or None}

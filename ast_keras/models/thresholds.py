"""`Thresholds`: the score of each class from which it counts as found, stored with a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ast_keras.errors import ArgumentError


class Thresholds:
    """Attribute of a classifier: one threshold for each class, a tuple of floats, or None.

    Assigning checks the values. `Predictor` and the commands report a class whose score is at least
    its threshold; `scores` is unaffected.

    Raises:
        ArgumentError: On assignment, unless there is one number in [0, 1] for each class.

    Example:

    >>> class Model:
    ...     thresholds = Thresholds()
    ...     num_classes = 2
    >>> model = Model()
    >>> model.thresholds = [0.5, 0.25]
    >>> model.thresholds
    (0.5, 0.25)
    """

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        return self if model is None else model.__dict__.get("_thresholds")

    def __set__(self, model: Any, thresholds: Iterable[float] | None) -> None:
        if thresholds is not None:
            thresholds = _checked(thresholds, model.num_classes)
        model.__dict__["_thresholds"] = thresholds


def _checked(thresholds: Iterable[float], num_classes: int) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in thresholds)
    except (TypeError, ValueError):
        raise ArgumentError(
            "Thresholds are a sequence of numbers, one for each class, or None. "
            f"Received: thresholds={thresholds!r}"
        ) from None
    if len(values) != num_classes:
        raise ArgumentError(
            "There must be one threshold for each class. "
            f"Received: {len(values)} thresholds for {num_classes} classes"
        )
    wrong = [value for value in values if not (math.isfinite(value) and 0 <= value <= 1)]
    if wrong:
        raise ArgumentError(f"A threshold lies in [0, 1]. Received: thresholds with {wrong[0]}")
    return values

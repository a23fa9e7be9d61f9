"""The history of a run: its best epoch, and whether it has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ast_keras.recipe import Train

Row = Mapping[str, Any]


def best_epoch(history: Sequence[Row], metric: str) -> Row:
    """Returns the row of the epoch with the highest score, the first of several equal ones.

    Args:
        history: One row for each epoch.
        metric: Name of the score.

    Example:

    >>> rows = [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.5}]
    >>> best_epoch(rows, "accuracy")["epoch"]
    1
    """
    return max(history, key=lambda row: -math.inf if math.isnan(row[metric]) else row[metric])


def has_ended(history: Sequence[Row], train: Train) -> bool:
    """Returns whether a run trains no further epoch.

    It has ended after `num_epochs` epochs, or when the last `patience` epochs were not better than
    the best one before them. This depends on the history alone, so that a resumed run ends where an
    uninterrupted one does.

    Args:
        history: One row for each finished epoch.
        train: Training settings of the recipe.

    Example:

    >>> rows = [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.4}]
    >>> has_ended(rows, Train(num_epochs=9, patience=1)), has_ended(rows, Train(num_epochs=9))
    (True, False)
    """
    return len(history) >= train.num_epochs or ended_early(history, train)


def ended_early(history: Sequence[Row], train: Train) -> bool:
    """Returns whether `patience` ended a run before its last epoch.

    Args:
        history: One row for each finished epoch.
        train: Training settings of the recipe.
    """
    if train.patience is None or not 0 < len(history) < train.num_epochs:
        return False
    return len(history) - int(best_epoch(history, train.metric)["epoch"]) >= train.patience


def describe_early_end(history: Sequence[Row], train: Train) -> str:
    """Returns why a run ended before its last epoch, without a full stop.

    Args:
        history: One row for each finished epoch.
        train: Training settings of the recipe.

    Example:

    >>> rows = [{"epoch": 1, "accuracy": 0.5}, {"epoch": 2, "accuracy": 0.4}]
    >>> describe_early_end(rows, Train(num_epochs=9, patience=1))
    'ended after epoch 2 of 9: no better accuracy than in epoch 1 (train.patience=1)'
    """
    best = best_epoch(history, train.metric)["epoch"]
    return (
        f"ended after epoch {len(history)} of {train.num_epochs}: no better "
        f"{train.metric.replace('_', ' ')} than in epoch {best} (train.patience={train.patience})"
    )

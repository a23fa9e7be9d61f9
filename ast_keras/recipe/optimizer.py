"""`Optimizer`: the settings of a recipe for Adam and its learning rates."""

from __future__ import annotations

import dataclasses

from ast_keras.recipe.fields import (
    FRACTION,
    LAYER_DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_AUTO,
    RATE,
    setting,
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam and its learning-rate schedule."""

    learning_rate: float = setting(1e-4, "Base learning rate.", range=POSITIVE)
    head_learning_rate: float | str | None = setting(
        None,
        "Base learning rate of the head and its LayerNorm; it follows the same schedule. None is "
        "learning_rate. auto is 50 times learning_rate if a new head is put on published weights, "
        "otherwise learning_rate.",
        range=POSITIVE_OR_AUTO,
    )
    layer_decay: float | str = setting(
        1.0,
        "Layer-wise decay of the learning rate: the last transformer block has this fraction of "
        "it, and each layer before a block this fraction of the block's. 1 is off. auto is 0.75 if "
        "the start weights are published ones, otherwise 1.",
        range=LAYER_DECAY,
    )
    beta_1: float = setting(0.95, "Decay rate of Adam's mean of gradients.", range=RATE)
    beta_2: float = setting(0.999, "Decay rate of Adam's mean of squared gradients.", range=RATE)
    epsilon: float = setting(
        1e-8, "Constant added to the denominator of Adam's update.", range=NOT_NEGATIVE
    )
    l2: float = setting(
        5e-7,
        "L2 regularisation: this factor times the weight is added to its gradient. Excludes "
        "weight_decay.",
        range=NOT_NEGATIVE,
    )
    weight_decay: float = setting(
        0.0,
        "Decoupled weight decay (AdamW), multiplied by the learning rate. Excludes l2.",
        range=NOT_NEGATIVE,
    )
    gradient_clip_norm: float | None = setting(
        None, "Maximum global norm of the gradient. None does not clip.", range=POSITIVE
    )
    schedule: str = setting(
        "epoch_decay",
        "epoch_decay multiplies the rate by decay_rate after chosen epochs (`EpochDecaySchedule`). "
        "warmup_cosine follows half a cosine (`WarmupCosineSchedule`).",
        choices=("epoch_decay", "warmup_cosine"),
    )
    decay_start_epoch: int = setting(
        5, "epoch_decay: the epoch after which the rate first decays.", range=POSITIVE
    )
    decay_every_epochs: int = setting(
        1, "epoch_decay: number of epochs from one decay to the next.", range=POSITIVE
    )
    decay_rate: float = setting(
        0.85, "epoch_decay: factor of the rate at each decay.", range=POSITIVE
    )
    warmup_steps: int = setting(
        0, "Number of steps over which the rate rises from 0.", range=NOT_NEGATIVE
    )
    final_fraction: float = setting(
        0.0,
        "warmup_cosine: rate at the last step, as a fraction of learning_rate.",
        range=FRACTION,
    )

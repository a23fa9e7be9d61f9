"""What the values of a recipe may be. Standard library only."""

from __future__ import annotations

from typing import Any

from ast_keras.errors import RecipeError

_CHOICES = {
    ("model", "rgb_reduction"): ("sum", "mean"),
    ("model", "position_resize"): ("bilinear", "nearest", "reinit"),
    ("model", "padding"): ("original", "masked"),
    ("frontend", "window"): ("hann", "hamming"),
    ("data", "sampling"): ("shuffled", "weighted"),
    ("optimizer", "schedule"): ("epoch_decay", "warmup_cosine"),
    ("train", "loss"): ("categorical", "binary", "auto"),
    ("train", "metric"): ("accuracy", "mean_average_precision", "auto"),
    ("train", "final_model"): ("best", "last", "average"),
    ("train", "precision"): ("float32", "mixed_float16", "mixed_bfloat16", "auto"),
}
_POSITIVE = (
    ("frontend", "sample_rate"),
    ("frontend", "num_mel_bins"),
    ("frontend", "num_frames"),
    ("frontend", "std"),
    ("data", "clip_seconds"),
    ("train", "num_epochs"),
    ("train", "batch_size"),
    ("train", "accumulate_steps"),
    ("train", "steps_per_loop"),
    ("train", "keep_checkpoints"),
    ("train", "eval_batch_size"),
    ("train", "checkpoint_minutes"),
    ("model", "num_layers"),
    ("model", "block_columns"),
    ("optimizer", "decay_start_epoch"),
    ("optimizer", "decay_every_epochs"),
    ("optimizer", "decay_rate"),
    ("optimizer", "gradient_clip_norm"),
    ("optimizer", "learning_rate"),
)
_NOT_NEGATIVE = (
    ("data", "num_workers"),
    ("data", "cache_megabytes"),
    ("model", "past_blocks"),
    ("augment", "freq_mask_bins"),
    ("augment", "time_mask_frames"),
    ("augment", "roll_frames"),
    ("augment", "shift_seconds"),
    ("augment", "gain_db"),
    ("optimizer", "warmup_steps"),
    ("optimizer", "l2"),
    ("optimizer", "weight_decay"),
    ("optimizer", "epsilon"),
)
_FRACTIONS = (
    ("augment", "mixup_rate"),
    ("model", "dropout"),
    ("model", "attention_dropout"),
    ("model", "drop_path"),
    ("model", "patchout"),
    ("model", "patchout_mel"),
    ("model", "patchout_time"),
    ("train", "label_smoothing"),
    ("optimizer", "final_fraction"),
    ("optimizer", "beta_1"),
    ("optimizer", "beta_2"),
)
_BELOW_ONE = (
    ("model", "dropout"),
    ("model", "attention_dropout"),
    ("model", "drop_path"),
    ("model", "patchout"),
    ("model", "patchout_mel"),
    ("model", "patchout_time"),
    ("optimizer", "beta_1"),
    ("optimizer", "beta_2"),
)


def check_recipe(recipe: Any) -> None:
    """Checks every value of a `Recipe` against its range, and those that depend on each other.

    Raises:
      RecipeError: At the first that is wrong, with the rule.
    """

    def value(group: str, field: str) -> Any:
        return getattr(getattr(recipe, group), field)

    for (group, field), choices in _CHOICES.items():
        if value(group, field) not in choices:
            raise RecipeError(
                f"{group}.{field} must be one of {', '.join(choices)}. "
                f"Received: {group}.{field}={value(group, field)!r}"
            )
    for group, field in _POSITIVE:
        if value(group, field) is not None and not value(group, field) > 0:
            raise RecipeError(
                f"{group}.{field} must be positive. "
                f"Received: {group}.{field}={value(group, field)!r}"
            )
    for group, field in _NOT_NEGATIVE:
        if value(group, field) < 0:
            raise RecipeError(
                f"{group}.{field} must not be negative. "
                f"Received: {group}.{field}={value(group, field)!r}"
            )
    for group, field in _FRACTIONS:
        if not 0 <= value(group, field) <= 1:
            raise RecipeError(
                f"{group}.{field} must lie between 0 and 1. "
                f"Received: {group}.{field}={value(group, field)!r}"
            )
    for group, field in _BELOW_ONE:
        if value(group, field) == 1:
            raise RecipeError(f"{group}.{field} must be below 1. Received: {group}.{field}=1.0")
    for field in ("patch_size", "strides"):
        if min(value("model", field) or (1, 1)) < 1:
            raise RecipeError(
                f"model.{field} must be positive. Received: model.{field}={value('model', field)}"
            )
    _check_dials(recipe.model)
    kept, epochs = recipe.train.keep_epochs, recipe.train.num_epochs
    if kept is not None and not 1 <= kept[0] <= kept[1] <= epochs:
        raise RecipeError(
            "train.keep_epochs must be the first and the last epoch to keep, from 1 to "
            f"train.num_epochs={epochs}. Received: train.keep_epochs={kept[0]},{kept[1]}"
        )
    if recipe.train.final_model == "average" and kept is None:
        raise RecipeError(
            "train.final_model=average needs the first and the last epoch to average: "
            "--set train.keep_epochs=6,25. Received: train.keep_epochs=None"
        )
    if not 0 <= recipe.seed < 2**31:
        raise RecipeError(f"seed must lie between 0 and 2**31 - 1. Received: seed={recipe.seed}")
    if recipe.optimizer.l2 and recipe.optimizer.weight_decay:
        raise RecipeError(
            "optimizer.l2 (in the gradient) and optimizer.weight_decay (decoupled) exclude each "
            f"other: set one to 0. Received: l2={recipe.optimizer.l2}, "
            f"weight_decay={recipe.optimizer.weight_decay}"
        )


def _check_dials(model: Any) -> None:
    thinned = model.patchout or model.patchout_mel or model.patchout_time
    if model.attention_window is not None and (model.attention_window < 1 or thinned):
        raise RecipeError(
            "model.attention_window must be at least 1, and all patches in their places: set "
            "model.patchout, patchout_mel and patchout_time to 0. "
            f"Received: model.attention_window={model.attention_window}"
        )
    if model.attention_window is not None and model.attention_dropout:
        raise RecipeError(
            "Within model.attention_window nothing is dropped: --set model.attention_dropout=0. "
            f"Received: model.attention_dropout={model.attention_dropout}"
        )
    for field in ("dropout", "attention_dropout", "drop_path"):
        if model.gradient_checkpointing and getattr(model, field):
            raise RecipeError(
                "model.gradient_checkpointing computes blocks twice, and what is dropped would "
                f"differ: --set model.{field}=0. Received: model.{field}={getattr(model, field)}"
            )
    if model.block_columns is not None and (thinned or model.attention_window is not None):
        raise RecipeError(
            "A causal model (model.block_columns) needs all of its tokens in their places: leave "
            "model.patchout, patchout_mel, patchout_time and attention_window out"
        )

"""Rules between fields of a recipe; ranges of single fields are declared with the fields.

Only what can be decided without data, start weights and TensorFlow is checked here. The backbone
checks its options again; the rules that users break most are also here, so that a run does not
download data before it fails.
"""

from __future__ import annotations

from typing import Any

from ast_keras.errors import RecipeError


def check_combinations(recipe: Any) -> None:
    """Checks the fields of a `Recipe` that depend on each other.

    Raises:
        RecipeError: If two fields contradict each other. The message states the rule.
    """
    _check_epochs(recipe.train)
    _check_network(recipe.model)
    _check_frontend(recipe.frontend)
    if recipe.train.class_weights != "none" and recipe.data.sampling == "weighted":
        raise RecipeError(
            "train.class_weights and data.sampling=weighted each make up for rare classes, and "
            "together they would do so twice: --set train.class_weights=none or "
            "--set data.sampling=shuffled. "
            f"Received: train.class_weights={recipe.train.class_weights}, data.sampling=weighted"
        )
    if recipe.model.lora_rank is not None and recipe.train.freeze == "backbone":
        raise RecipeError(
            "model.lora_rank trains factors in the backbone, and train.freeze=backbone freezes "
            "them: --set train.freeze=none or --set model.lora_rank=none. "
            f"Received: model.lora_rank={recipe.model.lora_rank}, train.freeze=backbone"
        )
    if recipe.optimizer.l2 and recipe.optimizer.weight_decay:
        raise RecipeError(
            "optimizer.l2 (added to the gradient) and optimizer.weight_decay (decoupled) exclude "
            f"each other: set one to 0. Received: l2={recipe.optimizer.l2}, "
            f"weight_decay={recipe.optimizer.weight_decay}"
        )


def _check_frontend(frontend: Any) -> None:
    nyquist = frontend.sample_rate / 2
    top = nyquist if frontend.f_max_hz is None else frontend.f_max_hz
    if not frontend.f_min_hz < top <= nyquist:
        raise RecipeError(
            "frontend.f_min_hz must be below frontend.f_max_hz, and that at most half of "
            f"frontend.sample_rate ({nyquist:g} Hz): set a range within it or a higher rate. "
            f"Received: frontend.f_min_hz={frontend.f_min_hz:g}, "
            f"frontend.f_max_hz={frontend.f_max_hz}, frontend.sample_rate={frontend.sample_rate}"
        )
    for field, least in (("frame_length_seconds", 2), ("frame_step_seconds", 1)):
        seconds = getattr(frontend, field)
        if seconds * frontend.sample_rate < least:
            raise RecipeError(
                f"frontend.{field} must last at least {least} samples, which is "
                f"{least / frontend.sample_rate:.3g} s at frontend.sample_rate="
                f"{frontend.sample_rate}. Received: frontend.{field}={seconds:g}"
            )


def _check_network(model: Any) -> None:
    for field in ("dropout", "attention_dropout", "drop_path"):
        if model.gradient_checkpointing and getattr(model, field):
            raise RecipeError(
                "model.gradient_checkpointing computes blocks twice, and dropout would draw "
                f"differently the second time: --set model.{field}=0. "
                f"Received: model.{field}={getattr(model, field)}"
            )
    for field in ("patchout", "patchout_mel", "patchout_time"):
        if model.block_columns is not None and getattr(model, field):
            raise RecipeError(
                "A causal model (model.block_columns) needs all of its tokens: "
                f"--set model.{field}=0. Received: model.{field}={getattr(model, field)}"
            )


def _check_epochs(train: Any) -> None:
    kept = train.keep_epochs
    if kept is not None and not 1 <= kept[0] <= kept[1] <= train.num_epochs:
        raise RecipeError(
            "train.keep_epochs must be the first and the last epoch to keep, from 1 to "
            f"train.num_epochs={train.num_epochs}. Received: train.keep_epochs={kept[0]},{kept[1]}"
        )
    if train.final_model == "average" and kept is None:
        raise RecipeError(
            "train.final_model=average needs the first and the last epoch to average, such as "
            "--set train.keep_epochs=6,25. Received: train.keep_epochs=None"
        )
    if train.final_model == "average" and train.patience is not None:
        raise RecipeError(
            "train.final_model=average needs all epochs of train.keep_epochs, and train.patience "
            "may end the run before them: --set train.patience=none or "
            f"--set train.final_model=best. Received: train.patience={train.patience}"
        )

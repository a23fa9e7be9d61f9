"""A recipe's parts made into objects: data, pipelines, model, optimizer."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import keras

from ast_keras.augment import SpectrogramAugment
from ast_keras.datasets import SoundDataset, load_dataset
from ast_keras.frontend import LogMelFilterbank
from ast_keras.labels import LabelSet
from ast_keras.model import ASTBackbone, ASTClassifier
from ast_keras.optimizers import AdamL2
from ast_keras.pipeline import Pipeline
from ast_keras.presets import SIZES, from_preset
from ast_keras.recipe import Recipe, RecipeError
from ast_keras.schedules import EpochDecaySchedule, WarmupCosineSchedule

# Settings of `recipe.Data` that a reader may take; None leaves the reader's default.
_READER_SETTINGS = (
    "fold", "subset", "words", "labels_path", "multi_label", "allow_missing", "test_fraction",
    "validation_fraction", "num_train", "num_validation", "num_test",
)  # fmt: skip


def make_dataset(recipe: Recipe) -> SoundDataset:
    """Reads the recipe's data set.

    Raises:
      DatasetError: If the data is not there or not as expected.
      RecipeError: If the recipe's loss does not fit its labels.
    """
    data = recipe.data
    settings = {name: getattr(data, name) for name in _READER_SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    if data.kind == "synthetic":
        settings |= {
            "seed": recipe.seed,
            "clip_seconds": data.clip_seconds,
            "sample_rate": recipe.frontend.sample_rate,
        }
    dataset = load_dataset(data.kind, data.path, **settings)
    if dataset.multi_label and recipe.train.loss == "categorical":
        raise RecipeError(
            "Examples with several labels (or none) need binary cross-entropy: "
            "--set train.loss=binary --set train.metric=mean_average_precision. "
            f"Received: train.loss=categorical, {dataset.name}"
        )
    return dataset


def validation_split(recipe: Recipe, dataset: SoundDataset) -> str:
    """Returns the name of the split that is scored after every epoch and chooses the best one."""
    wanted = recipe.data.validation_split
    # Data without a validation split is scored on its test split, as the ESC-50 protocol does.
    name = "test" if wanted == "validation" and wanted not in dataset.splits else wanted
    dataset.split(name)
    return name


def make_pipeline(
    recipe: Recipe, dataset: SoundDataset, split: str, training: bool = False
) -> Pipeline:
    """Makes the batches of one split, augmented only for training."""
    rate = recipe.frontend.sample_rate
    common = {
        "num_classes": len(dataset.labels),
        "sample_rate": rate,
        "clip_samples": math.floor(recipe.data.clip_seconds * rate),
        "num_workers": recipe.data.num_workers,
        "cache_bytes": recipe.data.cache_megabytes << 20,
        "seed": recipe.seed,
    }
    examples = dataset.split(split)
    if not training:
        size = recipe.train.eval_batch_size or 2 * recipe.train.batch_size
        return Pipeline(examples, batch_size=min(size, len(examples)), **common)
    return Pipeline(
        examples,
        batch_size=recipe.train.batch_size,
        training=True,
        mixup_rate=recipe.augment.mixup_rate,
        shift_samples=round(recipe.augment.shift_seconds * rate),
        gain_db=recipe.augment.gain_db,
        **common,
    )


def make_model(recipe: Recipe, labels: LabelSet) -> ASTClassifier:
    """Makes the classifier with the recipe's start weights.

    Raises:
      PresetError: If the start weights cannot be had.
    """
    frontend = LogMelFilterbank(
        sample_rate=recipe.frontend.sample_rate,
        num_mel_bins=recipe.frontend.num_mel_bins,
        num_frames=recipe.frontend.num_frames,
        window=recipe.frontend.window,
        mean=recipe.frontend.mean,
        std=recipe.frontend.std,
        name="fbank",
    )
    augment = SpectrogramAugment(
        freq_mask_bins=recipe.augment.freq_mask_bins,
        time_mask_frames=recipe.augment.time_mask_frames,
        noise=recipe.augment.noise,
        roll_frames=recipe.augment.roll_frames,
        fill_value=frontend.padding_value,
        seed=recipe.seed,
        dtype="float32",
        name="augment",
    )
    parts = {
        "labels": labels,
        "frontend": frontend,
        "augment": augment,
        "score_activation": "softmax" if recipe.train.loss == "categorical" else "sigmoid",
    }
    if recipe.model.start != "random":
        return _started_model(recipe, parts)
    settings = recipe.model
    depth = {} if settings.num_layers is None else {"num_layers": settings.num_layers}
    return from_preset(
        settings.size,
        num_mel_bins=recipe.frontend.num_mel_bins,
        num_frames=recipe.frontend.num_frames,
        patch_size=settings.patch_size,
        strides=settings.strides,
        use_distillation_token=settings.use_distillation_token,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        drop_path=settings.drop_path,
        dtype=recipe.train.precision,
        **depth,
        **parts,
    )


def _started_model(recipe: Recipe, parts: dict[str, Any]) -> ASTClassifier:
    """Takes a saved model's backbone, and its head where the labels are the same."""
    start = recipe.model.start
    if not pathlib.Path(start).is_dir():
        raise RecipeError(
            "Published start weights cannot be loaded by this version: start from random weights "
            "with --set model.start=random, or from the folder of a saved model. "
            f"Received: model.start={start!r}"
        )
    saved = from_preset(start)
    if saved.backbone.policy.name != recipe.train.precision:
        raise RecipeError(
            f"The start model computes in {saved.backbone.policy.name}: set train.precision to "
            f"that. Received: train.precision={recipe.train.precision!r}"
        )
    _require_same_backbone(recipe, saved.backbone)
    model = ASTClassifier(
        saved.backbone,
        len(parts["labels"]),
        head_layer_norm_epsilon=saved.head_layer_norm_epsilon,
        name=saved.name,
        **parts,
    )
    if saved.labels == parts["labels"]:
        for layer in ("head_norm", "head"):
            getattr(model, layer).set_weights(getattr(saved, layer).get_weights())
    return model


def _require_same_backbone(recipe: Recipe, backbone: ASTBackbone) -> None:
    """Refuses settings that the saved model would silently overrule."""
    settings = recipe.model
    wanted = dict(SIZES[settings.size]) if settings.size in SIZES else {}
    if settings.num_layers is not None:
        wanted["num_layers"] = settings.num_layers
    kept = ("patch_size", "strides", "use_distillation_token", "dropout", "attention_dropout",
            "drop_path")  # fmt: skip
    wanted |= {name: getattr(settings, name) for name in kept}
    wanted |= {name: getattr(recipe.frontend, name) for name in ("num_frames", "num_mel_bins")}
    for name, value in wanted.items():
        if getattr(backbone, name) != value:
            raise RecipeError(
                f"The start model keeps its architecture: its {name} is {getattr(backbone, name)}, "
                f"the recipe's {value}. Change the recipe's model and frontend settings to it. "
                f"Received: model.start={settings.start!r}"
            )


def make_schedule(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes the recipe's learning rate as a function of the step."""
    settings, epochs = recipe.optimizer, recipe.train.num_epochs
    if settings.schedule == "warmup_cosine":
        return WarmupCosineSchedule(
            settings.learning_rate,
            warmup_steps=min(settings.warmup_steps, steps_per_epoch * epochs - 1),
            total_steps=steps_per_epoch * epochs,
            final_fraction=settings.final_fraction,
        )
    return EpochDecaySchedule(
        settings.learning_rate,
        steps_per_epoch=steps_per_epoch,
        num_epochs=epochs,
        decay_start_epoch=settings.decay_start_epoch,
        decay_every_epochs=settings.decay_every_epochs,
        decay_rate=settings.decay_rate,
        warmup_steps=settings.warmup_steps,
    )


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Makes Adam with L2 in the gradient, or AdamW if the recipe decays decoupled."""
    settings = recipe.optimizer
    common = {
        "learning_rate": make_schedule(recipe, steps_per_epoch),
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
        "global_clipnorm": settings.gradient_clip_norm,
    }
    if settings.weight_decay:
        optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **common)
        # Gains, offsets, tokens and positions are not shrunk, as is usual for transformers.
        optimizer.exclude_from_weight_decay(
            var_names=["bias", "gamma", "beta", "tokens", "embedding"]
        )
    else:
        optimizer = AdamL2(l2=settings.l2, **common)
    if recipe.train.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_loss(recipe: Recipe) -> keras.losses.Loss:
    """Makes the loss of each example, from logits."""
    kind = {
        "categorical": keras.losses.CategoricalCrossentropy,
        "binary": keras.losses.BinaryCrossentropy,
    }[recipe.train.loss]
    return kind(from_logits=True, label_smoothing=recipe.train.label_smoothing, reduction=None)

"""Makes the objects of a run from its recipe: data set, pipelines, model, optimizer and loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.downloads.public_data import find_data
from ast_keras.data.pipeline import Pipeline
from ast_keras.data.readers import load_dataset
from ast_keras.errors import RecipeError
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import SIZES, from_preset, read_preset
from ast_keras.recipe import Model, Recipe
from ast_keras.training.frontend import make_frontend, warn_of_another_range
from ast_keras.training.optimizers import AdamL2, AdamW
from ast_keras.training.schedules import EpochDecaySchedule, WarmupCosineSchedule
from ast_keras.weights.build import build_classifier, to_causal
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import choose_head
from ast_keras.weights.pretrained import PretrainedNetwork

# Fields of `recipe.Data` that are arguments of readers. None leaves the reader's default.
_READER_SETTINGS = (
    "fold", "subset", "words", "labels_path", "multi_label", "allow_missing", "test_fraction",
    "validation_fraction", "num_train", "num_validation", "num_test", "clips_path", "test_path",
    "enhanced_labels", "label_column", "group_pattern", "unknown_fraction", "silence_fraction",
)  # fmt: skip
# Fields of `recipe.Model` that are arguments of the backbone, which checks their combination.
_BACKBONE_OPTIONS = (
    "dropout", "attention_dropout", "drop_path", "padding", "patchout", "patchout_mel",
    "patchout_time", "gradient_checkpointing",
)  # fmt: skip


def make_dataset(recipe: Recipe) -> SoundDataset:
    """Reads the recipe's data set. Public data is downloaded if the recipe gives no path.

    Args:
        recipe: The recipe.

    Raises:
        DatasetError: If the data cannot be read or fetched.
        RecipeError: If the recipe's loss or class weights do not fit the labels.
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
    path = find_data(data.kind) if data.path is None else data.path
    dataset = load_dataset(data.kind, path, **settings)
    if dataset.multi_label and recipe.train.loss == "categorical":
        raise RecipeError(
            "Examples with several labels (or none) need binary cross-entropy: "
            "--set train.loss=binary --set train.metric=mean_average_precision. "
            f"Received: train.loss=categorical, {dataset.name}"
        )
    if dataset.multi_label and recipe.train.class_weights != "none":
        raise RecipeError(
            "Class weights need one label for each example: with several labels (or none), use "
            "--set train.class_weights=none --set data.sampling=weighted. "
            f"Received: train.class_weights={recipe.train.class_weights}, {dataset.name}"
        )
    return dataset


def validation_split(recipe: Recipe, dataset: SoundDataset) -> str:
    """Returns the name of the split that is scored after every epoch.

    Data without a validation split is scored on its test split, as in the ESC-50 protocol.

    Args:
        recipe: The recipe.
        dataset: The recipe's data set.

    Raises:
        DatasetError: If the data set has no such split.
    """
    name = recipe.data.validation_split
    if name == "validation" and name not in dataset.splits:
        name = "test"
    dataset.split(name)  # raises if there is none
    return name


def make_pipeline(
    recipe: Recipe, dataset: SoundDataset, split: str, training: bool = False
) -> Pipeline:
    """Makes the batches of one split.

    Args:
        recipe: The resolved recipe.
        dataset: The recipe's data set.
        split: Name of the split.
        training: Whether examples are sampled and augmented. Otherwise every example comes once,
            in the order of the split.

    Raises:
        DatasetError: If the data set has no such split.
    """
    rate = recipe.frontend.sample_rate
    common = {
        "num_classes": len(dataset.labels),
        "sample_rate": rate,
        "clip_samples": math.floor(recipe.data.clip_seconds * rate),
        "num_workers": recipe.data.num_workers,
        "cache_bytes": recipe.data.cache_megabytes << 20,
        "seed": recipe.seed,
        "skip_unreadable": recipe.data.skip_unreadable,
        "channel": "mix" if recipe.data.channel is None else recipe.data.channel,
        "by_length": recipe.model.padding == "masked" or recipe.model.block_columns is not None,
    }
    examples = dataset.split(split)
    if not training:
        size = recipe.train.eval_batch_size or 2 * recipe.train.batch_size
        return Pipeline(examples, batch_size=min(size, len(examples)), **common)
    return Pipeline(
        examples,
        batch_size=recipe.train.batch_size,
        training=True,
        sampling=recipe.data.sampling,
        class_weights=None if recipe.train.class_weights == "none" else recipe.train.class_weights,
        mixup_rate=recipe.augment.mixup_rate,
        shift_samples=round(recipe.augment.shift_seconds * rate),
        gain_db=recipe.augment.gain_db,
        **common,
    )


def make_model(recipe: Recipe, labels: LabelSet) -> ASTClassifier:
    """Makes the classifier with the recipe's start weights.

    Args:
        recipe: The resolved recipe.
        labels: Labels of the data set, one for each class.

    Raises:
        RecipeError: If the recipe's network is not that of its start weights.
        ArgumentError: If options of the network cannot be combined.
        WeightsError: If the start weights cannot be read or fetched.
    """
    if recipe.model.size not in (*SIZES, "auto"):
        raise RecipeError(
            f"model.size must be one of {', '.join(SIZES)}, auto. "
            f"Received: model.size={recipe.model.size!r}"
        )
    if recipe.model.start == "random":
        model = _random_classifier(recipe, labels)
    else:
        model = _pretrained_classifier(recipe, labels)
    model.suggest_score_activation(_score_activation(recipe))
    if recipe.model.block_columns is not None:
        model = to_causal(model, recipe.model.block_columns, recipe.model.past_blocks)
    if recipe.model.lora_rank is not None:
        model.enable_lora(recipe.model.lora_rank)
    model.freeze(None if recipe.train.freeze == "none" else recipe.train.freeze)
    return model


def _random_classifier(recipe: Recipe, labels: LabelSet) -> ASTClassifier:
    settings, frontend = recipe.model, make_frontend(recipe.frontend)
    depth = {} if settings.num_layers is None else {"num_layers": settings.num_layers}
    return from_preset(
        settings.size,
        num_mel_bins=recipe.frontend.num_mel_bins,
        num_frames=recipe.frontend.num_frames,
        patch_size=settings.patch_size,
        strides=settings.strides,
        use_distillation_token=settings.use_distillation_token,
        labels=labels,
        frontend=frontend,
        augment=_make_augment(recipe, frontend),
        **depth,
        **_backbone_options(recipe),
    )


def _pretrained_classifier(recipe: Recipe, labels: LabelSet) -> ASTClassifier:
    settings, frontend = recipe.model, make_frontend(recipe.frontend)
    network = read_preset(settings.start, fallback_geometry=requested_geometry(recipe)).network
    _require_same_network(settings, network)
    warn_of_another_range(recipe.frontend, network)
    # The head of the start weights is used if it has the same labels.
    head = choose_head(network, labels=labels)
    head = dataclasses.replace(head, thresholds=None)  # training changes the scores
    geometry = Geometry(
        num_frames=recipe.frontend.num_frames,
        num_mel_bins=recipe.frontend.num_mel_bins,
        patch_size=settings.patch_size,
        strides=settings.strides,
        rgb_reduction=settings.rgb_reduction,
        position_resize=settings.position_resize,
    )
    # The recipe, not the start weights, decides the class and the options of the backbone, and what
    # trains.
    network = dataclasses.replace(
        network, backbone_class=None, backbone_arguments={}, trainable_parts={}
    )
    return build_classifier(
        network,
        head,
        geometry,
        frontend=frontend,
        augment=_make_augment(recipe, frontend),
        **_backbone_options(recipe),
    )


def _backbone_options(recipe: Recipe) -> dict[str, Any]:
    options = {name: getattr(recipe.model, name) for name in _BACKBONE_OPTIONS}
    return {**options, "dtype": recipe.train.precision}


def _score_activation(recipe: Recipe) -> str:
    return "softmax" if recipe.train.loss == "categorical" else "sigmoid"


def _make_augment(recipe: Recipe, frontend: LogMelFilterbank) -> SpectrogramAugment:
    settings = recipe.augment
    return SpectrogramAugment(
        freq_mask_bins=settings.freq_mask_bins,
        time_mask_frames=settings.time_mask_frames,
        noise=settings.noise,
        roll_frames=settings.roll_frames,
        fill_value=frontend.padding_value,
        seed=recipe.seed,
        dtype="float32",
        name="augment",
    )


def requested_geometry(recipe: Recipe) -> Geometry:
    """Returns the strides and the spectrogram size that the recipe asks for.

    They are tried as the geometry of start weights whose files do not state one.

    Args:
        recipe: The recipe; settings that it leaves open are left out.
    """
    return Geometry(
        strides=recipe.model.strides,
        num_frames=recipe.frontend.num_frames,
        num_mel_bins=recipe.frontend.num_mel_bins,
    )


def _require_same_network(settings: Model, network: PretrainedNetwork) -> None:
    """Raises if the recipe asks for another network than that of its start weights."""
    block_columns = network.backbone_arguments.get("block_columns")
    if block_columns is not None and settings.block_columns is None:
        past_blocks = network.grid[1] // block_columns - 1
        raise RecipeError(
            "The start weights are those of a causal model, which would become bidirectional: add "
            f"--set model.block_columns={block_columns} --set model.past_blocks={past_blocks}. "
            f"Received: model.start={settings.start!r}, model.block_columns=None"
        )
    wanted: dict[str, Any] = {}
    if settings.size != "auto":
        wanted |= SIZES[settings.size]
        wanted["use_distillation_token"] = settings.use_distillation_token
    if settings.num_layers is not None:
        wanted["num_layers"] = settings.num_layers
    for name, value in wanted.items():
        if getattr(network, name) != value:
            raise RecipeError(
                f"The network of the start weights cannot be changed: its {name} is "
                f"{getattr(network, name)}, the recipe's {value}. Set model.size, num_layers and "
                "use_distillation_token to those of the start weights. "
                f"Received: model.start={settings.start!r}"
            )


def make_schedule(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes the learning-rate schedule.

    Args:
        recipe: The recipe.
        steps_per_epoch: Number of batches in an epoch.
    """
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


def make_optimizer(
    recipe: Recipe, steps_per_epoch: int, model: ASTClassifier | None = None
) -> keras.optimizers.Optimizer:
    """Makes `AdamL2`, or `AdamW` if the recipe has a decoupled weight decay.

    The optimizer does not apply `gradient_clip_norm`: the trainer does, since only it has the
    gradient of all devices.

    Args:
        recipe: The resolved recipe.
        steps_per_epoch: Number of batches in an epoch.
        model: The classifier. Without it, `head_learning_rate` and `layer_decay` have no effect.
    """
    settings = recipe.optimizer
    factors = None
    if model is not None:
        head_rate = settings.head_learning_rate or settings.learning_rate
        head_factor = head_rate / settings.learning_rate
        factors = model.learning_rate_factors(settings.layer_decay, head_factor)
    common = {
        "learning_rate": make_schedule(recipe, steps_per_epoch),
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
        "learning_rate_factors": factors,
    }
    if settings.weight_decay:
        optimizer = AdamW(weight_decay=settings.weight_decay, **common)
        # Biases, normalisation, tokens and positions do not decay, as is usual for transformers.
        optimizer.exclude_from_weight_decay(
            var_names=["bias", "gamma", "beta", "tokens", "embedding"]
        )
    else:
        optimizer = AdamL2(l2=settings.l2, **common)
    if recipe.train.precision == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_loss(recipe: Recipe) -> keras.losses.Loss:
    """Makes the loss from logits, one value per example.

    Args:
        recipe: The resolved recipe.
    """
    kind = {
        "categorical": keras.losses.CategoricalCrossentropy,
        "binary": keras.losses.BinaryCrossentropy,
    }[recipe.train.loss]
    return kind(from_logits=True, label_smoothing=recipe.train.label_smoothing, reduction=None)

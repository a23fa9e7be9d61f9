"""Fills in the settings that a recipe leaves open: from labels, start weights and devices."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.readers.recognise import recognise
from ast_keras.errors import RecipeError
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.presets.loading import SIZES, read_preset
from ast_keras.recipe import Data, Frontend, Model, Optimizer, Recipe, Train
from ast_keras.training.build import requested_geometry
from ast_keras.training.distribution import fast_precision
from ast_keras.weights.head import choose_head
from ast_keras.weights.pretrained import PretrainedNetwork

# What "auto" stands for with published start weights; recipes/finetune.py gives the sources.
_HEAD_FACTOR, _LAYER_DECAY = 50, 0.75
_PATHS = ("path", "labels_path", "clips_path", "test_path", "enhanced_labels")


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with absolute paths, `~` expanded.

    Args:
        recipe: A recipe whose paths are relative to the current folder.

    Example:

    >>> from ast_keras.recipe import load_recipe, override
    >>> recipe = override(load_recipe("esc10"), ["data.path=ESC-50-master"])
    >>> with_absolute_paths(recipe).data.path == os.path.abspath("ESC-50-master")
    True
    """

    def absolute(path: str) -> str:
        return os.path.abspath(os.path.expanduser(path))

    paths = {name: getattr(recipe.data, name) for name in _PATHS}
    paths = {name: absolute(path) for name, path in paths.items() if path is not None}
    start = recipe.model.start
    if os.path.exists(os.path.expanduser(start)):  # a path and not the name of a preset
        start = absolute(start)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, **paths),
        model=dataclasses.replace(recipe.model, start=start),
    )


def resolve(recipe: Recipe, dataset: SoundDataset) -> Recipe:
    """Returns the recipe with all of its "auto" and None settings decided.

    A size that has no name stays "auto".

    Args:
        recipe: A recipe with absolute paths.
        dataset: The recipe's data set.

    Raises:
        RecipeError: If random weights are to have the size of the start weights.
        WeightsError: If the start weights cannot be read or fetched.
    """
    recipe = dataclasses.replace(
        recipe,
        data=_resolve_data(recipe.data),
        train=_resolve_train(recipe.train, dataset),
    )
    model, frontend, optimizer = recipe.model, recipe.frontend, recipe.optimizer
    left_open = (model.patch_size, model.strides, frontend.mean, frontend.std)
    rates = (optimizer.head_learning_rate, optimizer.layer_decay)
    if model.size != "auto" and None not in left_open and "auto" not in rates:
        return recipe  # without reading the start weights
    if model.start != "random":
        network = read_preset(model.start, fallback_geometry=requested_geometry(recipe)).network
    elif model.size != "auto":
        network = None
    else:
        raise RecipeError(
            "Random weights have no size of their own: set model.size to one of "
            f"{', '.join(SIZES)}, or model.start. Received: model.size='auto', "
            "model.start='random'"
        )
    return dataclasses.replace(
        recipe,
        model=_resolve_model(model, network),
        frontend=_resolve_frontend(frontend, network),
        optimizer=_resolve_optimizer(optimizer, model.start, network, dataset),
    )


def _resolve_data(settings: Data) -> Data:
    if settings.kind != "auto" or settings.path is None:
        return settings
    return dataclasses.replace(settings, kind=recognise(settings.path))


def _resolve_train(settings: Train, dataset: SoundDataset) -> Train:
    loss, metric, precision = settings.loss, settings.metric, settings.precision
    if loss == "auto":
        loss = "binary" if dataset.multi_label else "categorical"
    if metric == "auto":
        metric = "mean_average_precision" if dataset.multi_label else "accuracy"
    if precision == "auto":
        precision = fast_precision()
    return dataclasses.replace(settings, loss=loss, metric=metric, precision=precision)


def _resolve_model(settings: Model, network: PretrainedNetwork | None) -> Model:
    changes: dict[str, Any] = {
        "patch_size": settings.patch_size or (network.patch_size if network else (16, 16)),
        "strides": settings.strides or (network and network.strides) or (10, 10),
    }
    if network and settings.size == "auto":
        width = {name: getattr(network, name) for name in ("embed_dim", "num_heads", "mlp_dim")}
        for name, size in SIZES.items():
            if width.items() <= size.items():
                changes |= {"size": name, "use_distillation_token": network.use_distillation_token}
                if settings.num_layers is None and size["num_layers"] != network.num_layers:
                    changes["num_layers"] = network.num_layers
    return dataclasses.replace(settings, **changes)


def _resolve_optimizer(
    settings: Optimizer, start: str, network: PretrainedNetwork | None, dataset: SoundDataset
) -> Optimizer:
    head, layer_decay = settings.head_learning_rate, settings.layer_decay
    # The folder of a saved model does not tell whether its weights are published ones.
    published = network is not None and network.weights.format != "ours"
    if head == "auto":
        new_head = published and not choose_head(network, labels=dataset.labels).tensors
        head = _HEAD_FACTOR * settings.learning_rate if new_head else None
    if layer_decay == "auto":
        layer_decay = _LAYER_DECAY if published else 1.0
    return dataclasses.replace(settings, head_learning_rate=head, layer_decay=layer_decay)


def _resolve_frontend(settings: Frontend, network: PretrainedNetwork | None) -> Frontend:
    mean, std = AUDIOSET_MEAN, AUDIOSET_STD
    if network is not None and network.mean is not None:
        mean, std = network.mean, network.std
    return dataclasses.replace(
        settings,
        mean=mean if settings.mean is None else settings.mean,
        std=std if settings.std is None else settings.std,
    )

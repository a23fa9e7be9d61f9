"""What a recipe leaves open, decided by the data's labels, the start weights and the devices."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ast_keras.data.dataset import SoundDataset
from ast_keras.errors import RecipeError
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.presets.loading import SIZES, read_preset
from ast_keras.recipe import Frontend, Model, Recipe
from ast_keras.training import precision
from ast_keras.training.build import likely_spectrogram
from ast_keras.weights.pretrained import PretrainedNetwork

_PATHS = ("path", "labels_path", "clips_path", "test_path", "enhanced_labels")


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with its paths as seen from any folder; `~` is understood.

    Example:

    >>> from ast_keras.recipe import load_recipe, override
    >>> recipe = override(load_recipe("esc10"), ["data.path=ESC-50-master"])
    >>> with_absolute_paths(recipe).data.path == os.path.abspath("ESC-50-master")
    True
    """

    def absolute(path: str) -> str:
        return os.path.abspath(os.path.expanduser(path))

    found = {name: getattr(recipe.data, name) for name in _PATHS}
    data = {name: absolute(path) for name, path in found.items() if path is not None}
    start = recipe.model.start
    if os.path.exists(os.path.expanduser(start)):  # a file, not a preset's name
        start = absolute(start)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, **data),
        model=dataclasses.replace(recipe.model, start=start),
    )


def resolve(recipe: Recipe, dataset: SoundDataset) -> Recipe:
    """Returns the recipe with what it leaves to the data and to the start weights decided.

    Raises:
      RecipeError: If a size is wanted of random weights.
      WeightsError: If the start weights cannot be had.
    """
    loss, metric = recipe.train.loss, recipe.train.metric
    if loss == "auto":
        loss = "binary" if dataset.multi_label else "categorical"
    if metric == "auto":
        metric = "mean_average_precision" if dataset.multi_label else "accuracy"
    wanted = recipe.train.precision
    wanted = precision.fast_precision() if wanted == "auto" else wanted
    train = dataclasses.replace(recipe.train, loss=loss, metric=metric, precision=wanted)
    recipe = dataclasses.replace(recipe, train=train)
    model, frontend = recipe.model, recipe.frontend
    left_open = (model.patch_size, model.strides, frontend.mean, frontend.std)
    if model.size != "auto" and None not in left_open:
        return recipe
    if model.start == "random":
        if model.size == "auto":
            raise RecipeError(
                "Random weights have no size of their own: set model.size to one of "
                f"{', '.join(SIZES)}, or model.start. Received: model.size='auto', "
                "model.start='random'"
            )
        source = None
    else:
        source, _ = read_preset(model.start, {}, likely_spectrogram(recipe))
    return dataclasses.replace(
        recipe, model=_model_of(model, source), frontend=_frontend_of(frontend, source)
    )


def _model_of(settings: Model, source: PretrainedNetwork | None) -> Model:
    """Fills in what the start's network says; a size that has no name stays "auto"."""
    changes: dict[str, Any] = {
        "patch_size": settings.patch_size or (source.patch_size if source else (16, 16)),
        "strides": settings.strides or (source and source.strides) or (10, 10),
    }
    if source and settings.size == "auto":
        width = {name: getattr(source, name) for name in ("embed_dim", "num_heads", "mlp_dim")}
        for name, size in SIZES.items():
            if width.items() <= size.items():
                changes |= {"size": name, "use_distillation_token": source.use_distillation_token}
                if settings.num_layers is None and size["num_layers"] != source.num_layers:
                    changes["num_layers"] = source.num_layers
    return dataclasses.replace(settings, **changes)


def _frontend_of(settings: Frontend, source: PretrainedNetwork | None) -> Frontend:
    known = source is not None and source.mean is not None
    mean, std = (source.mean, source.std) if known else (AUDIOSET_MEAN, AUDIOSET_STD)
    return dataclasses.replace(
        settings,
        mean=mean if settings.mean is None else settings.mean,
        std=std if settings.std is None else settings.std,
    )

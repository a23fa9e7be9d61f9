"""A run's folder: whose it is, and the recipe and environment that repeat the run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import platform

import keras
import tensorflow as tf

from ast_keras.files import write_json, write_text
from ast_keras.recipe import Recipe, RecipeError, load_recipe

# Settings that may change between two parts of one run: they do not change its result.
_FREE = {
    ("data", "path"),
    ("data", "labels_path"),
    ("data", "num_workers"),
    ("data", "cache_megabytes"),
    ("train", "steps_per_loop"),
    ("train", "checkpoint_minutes"),
    ("train", "keep_checkpoints"),
}


def check_workdir(recipe: Recipe, workdir: pathlib.Path) -> None:
    """Checks that a run of this recipe may begin or go on in a folder; writes nothing.

    Raises:
      RecipeError: If the folder holds a run of another recipe, or something else.
    """
    saved = workdir / "recipe.json"
    if saved.is_file():
        # Before its first checkpoint a run has nothing to lose: its recipe may be changed.
        if (workdir / "checkpoints" / "checkpoint").is_file():
            _require_same(recipe, load_recipe(saved), workdir)
    elif workdir.is_dir() and any(workdir.iterdir()):
        raise RecipeError(
            "A work directory must be new, or hold a run of this recipe. "
            f"Received: {workdir}, which holds something else"
        )


def claim_workdir(recipe: Recipe, workdir: pathlib.Path) -> None:
    """Writes the recipe and the environment, with which the run can be repeated."""
    write_text(workdir / "recipe.json", recipe.to_json())
    write_json(workdir / "environment.json", _environment())


def _require_same(recipe: Recipe, saved: Recipe, workdir: pathlib.Path) -> None:
    wanted, found = dataclasses.asdict(recipe), dataclasses.asdict(saved)
    for group, value in wanted.items():
        fields = value if isinstance(value, dict) else {"": value}
        for field, setting in fields.items():
            other = found[group][field] if field else found[group]
            if setting != other and (group, field) not in _FREE:
                name = f"{group}.{field}" if field else group
                raise RecipeError(
                    f"This work directory holds a run with {name}={other!r}: use a new one, or go "
                    f"on with --recipe {workdir}/recipe.json. Received: {name}={setting!r}"
                )


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }

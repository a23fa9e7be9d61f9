"""A run's folder: whose it is, and the recipe and environment that repeat the run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
from collections.abc import Iterator

import keras
import tensorflow as tf

from ast_keras.files import write_json, write_text
from ast_keras.recipe import Recipe, RecipeError, load_recipe

try:
    import fcntl
except ImportError:  # Windows: there a folder is not locked
    fcntl = None

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
    elif workdir.is_dir() and any(not p.name.startswith(".") for p in workdir.iterdir()):
        raise RecipeError(
            "A work directory must be new, or hold a run of this recipe. "
            f"Received: {workdir}, which holds something else"
        )


def claim_workdir(recipe: Recipe, workdir: pathlib.Path) -> None:
    """Writes the recipe and the environment, with which the run can be repeated.

    What a killed run left half-written is deleted.
    """
    for left in (*workdir.glob(".model-*"), *workdir.glob(".last-*")):
        shutil.rmtree(left, ignore_errors=True)
    for left in workdir.glob("checkpoints/*_temp"):
        shutil.rmtree(left, ignore_errors=True)
    write_text(workdir / "recipe.json", recipe.to_json())
    write_json(workdir / "environment.json", _environment())


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in the folder; ends with the process, however it ends.

    Raises:
      RecipeError: If another process trains there.
    """
    if fcntl is None:
        yield
        return
    with open(workdir / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                "Another process is training in this folder: wait, or use another --workdir. "
                f"Received: {workdir}"
            ) from None
        yield


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

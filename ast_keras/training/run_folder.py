"""A run's folder: whose it is, and the recipe and environment that repeat the run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Iterator

import keras
import tensorflow as tf

from ast_keras import __version__
from ast_keras.errors import RecipeError
from ast_keras.files import write_json, write_text
from ast_keras.recipe import Recipe, load_recipe
from ast_keras.training.distribution import Workers

try:
    import fcntl
except ImportError:  # Windows: there a folder is not locked
    fcntl = None

_SHARED_SECONDS = 60.0  # until a file of one machine is seen on all
# Settings that may change between two parts of one run, or differ between its workers: they do not
# change its result (accumulation does by rounding, as the number of devices does).
_FREE = {
    ("data", "path"),
    ("data", "labels_path"),
    ("data", "clips_path"),
    ("data", "test_path"),
    ("data", "enhanced_labels"),
    ("data", "num_workers"),
    ("data", "cache_megabytes"),
    ("train", "steps_per_loop"),
    ("train", "checkpoint_minutes"),
    ("train", "keep_checkpoints"),
    ("train", "accumulate_steps"),
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


def require_same_work(recipe: Recipe, data: str, workers: Workers) -> None:
    """Checks that all workers are about to do the same.

    Args:
      recipe: This worker's recipe.
      data: The fingerprint of its data.
      workers: All of them.

    Raises:
      RecipeError: If one has another recipe or other data.
    """
    settings = {f"{group}.{field}": value for group, field, value in _settings(recipe)}
    for what, text in (("recipe", json.dumps(settings)), ("data", data)):
        if not workers.all_equal(text):
            raise RecipeError(
                "All workers must train the same recipe on the same data. Received: another "
                f"{what} on one of {workers.num_workers} workers"
            )


def claim_workdir(recipe: Recipe, workdir: pathlib.Path, workers: Workers) -> None:
    """Writes the recipe and the environment, with which the run can be repeated.

    What a killed run left half-written is deleted.

    Raises:
      RecipeError: If another process trains in the folder, or the workers do not see the same.
    """
    if workers.is_chief:
        _write_claim(recipe, workdir)
    if workers.num_workers == 1:
        return
    workers.wait()
    began = time.monotonic()
    while not workers.all_equal(_seen(workdir)):
        # All workers look at the clock of one: they must agree on when to give up.
        if workers.gather(time.monotonic() - began)[0] > _SHARED_SECONDS:
            raise RecipeError(
                "All workers must see one --workdir, on a file system that they share: "
                f"{workdir} has other files on another worker. Received: --workdir {workdir}"
            )
        time.sleep(0.5)


def _seen(workdir: pathlib.Path) -> str:
    """Returns what decides where a run goes on, as this worker sees it."""
    files = (workdir / "recipe.json", workdir / "checkpoints" / "checkpoint")
    return "\n".join(f.read_text(encoding="utf-8") if f.is_file() else "" for f in files)


def _write_claim(recipe: Recipe, workdir: pathlib.Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):  # a process that trains there keeps its recipe and its files
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
    for (group, field, setting), (*_, other) in zip(
        _settings(recipe), _settings(saved), strict=True
    ):
        if setting != other:
            name = f"{group}.{field}" if field else group
            raise RecipeError(
                f"This work directory holds a run with {name}={other!r}: use a new one, or go on "
                f"with --recipe {workdir}/recipe.json. Received: {name}={setting!r}"
            )


def _settings(recipe: Recipe) -> list[tuple[str, str, object]]:
    """Returns the settings that decide a run's result: group, field and value."""
    groups = dataclasses.asdict(recipe).items()
    fields = [(g, v if isinstance(v, dict) else {"": v}) for g, v in groups]
    return [(g, f, v[f]) for g, v in fields for f in v if (g, f) not in _FREE]


def _environment() -> dict[str, object]:
    return {
        "ast_keras": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }

"""The work directory of a run: ownership, locking, and the files that reproduce and record it.

TensorFlow is imported only where files are written, so that commands which look at a work
directory start fast.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import filelock

from ast_keras import __version__
from ast_keras.errors import EvaluationError, RecipeError
from ast_keras.files import write_json, write_text
from ast_keras.recipe import Recipe, Train, load_recipe

if TYPE_CHECKING:
    from ast_keras.models.ast_classifier import ASTClassifier
    from ast_keras.training.distribution import Workers

# Seconds until a file written on one machine must be visible on all machines.
_FILE_SYSTEM_SECONDS = 60.0
# Settings that may change when a run is resumed, or differ between its workers. They do not change
# the result, except that `accumulate_steps`, like the number of devices, changes its rounding.
_NOT_DECISIVE = {
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
# Settings that may grow: the epochs trained so far are also those of a longer run.
_MAY_GROW = ("num_epochs", "patience", "keep_epochs")  # of the group train
_EPOCHS = "epochs"

# --- Ownership ---


def check_workdir(recipe: Recipe, workdir: pathlib.Path) -> list[str]:
    """Checks that a run of this recipe may start or continue in a folder. Writes nothing.

    A run may go on with more epochs or more patience than it started with.

    Args:
        recipe: The resolved recipe of the run.
        workdir: The work directory; it need not exist.

    Returns:
        Warnings about what changes while the run goes on, one line each.

    Raises:
        RecipeError: If the folder holds a run of another recipe, or other files.
    """
    saved = workdir / "recipe.json"
    if saved.is_file():
        # Without a checkpoint, no training is lost if the recipe changes.
        if (workdir / "checkpoints" / "checkpoint").is_file():
            earlier = load_recipe(saved)
            _require_same_recipe(recipe, earlier, workdir)
            return _warnings(recipe, earlier)
    elif workdir.is_dir() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        raise RecipeError(
            "A work directory must be new, or hold a run of this recipe. "
            f"Received: {workdir}, which holds other files"
        )
    return []


def require_same_work(recipe: Recipe, data: str, workers: Workers) -> None:
    """Checks that all workers train the same recipe on the same data.

    Args:
        recipe: This worker's resolved recipe.
        data: Fingerprint of this worker's data set.
        workers: All workers of the run.

    Raises:
        RecipeError: If a worker has another recipe or other data.
    """
    settings = {f"{group}.{field}": value for group, field, value in _decisive_settings(recipe)}
    for name, text in (("recipe", json.dumps(settings)), ("data", data)):
        if not workers.all_equal(text):
            raise RecipeError(
                "All workers must train the same recipe on the same data. Received: another "
                f"{name} on one of {workers.num_workers} workers"
            )


def claim_workdir(recipe: Recipe, workdir: pathlib.Path, workers: Workers) -> None:
    """Creates the work directory and writes recipe.json and environment.json.

    Files that a killed run left half-written are deleted.

    Args:
        recipe: The resolved recipe of the run.
        workdir: The work directory, checked by `check_workdir`.
        workers: All workers of the run. The first one writes.

    Raises:
        RecipeError: If another process trains in the folder, or the workers see different folders.
    """
    if workers.is_chief:
        _write_claim(recipe, workdir)
    if workers.num_workers == 1:
        return
    workers.wait()
    started = time.monotonic()
    while not workers.all_equal(_resume_state(workdir)):
        # All workers use the clock of the first one, so that they give up together.
        if workers.gather(time.monotonic() - started)[0] > _FILE_SYSTEM_SECONDS:
            raise RecipeError(
                "All workers must see one --workdir, on a file system that they share: "
                f"{workdir} has other files on another worker. Received: --workdir {workdir}"
            )
        time.sleep(0.5)


def _resume_state(workdir: pathlib.Path) -> str:
    """Returns the text of the files that decide where a run continues."""
    files = (workdir / "recipe.json", workdir / "checkpoints" / "checkpoint")
    return "\n".join(f.read_text(encoding="utf-8") if f.is_file() else "" for f in files)


def _write_claim(recipe: Recipe, workdir: pathlib.Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir):  # do not touch the files of a process that trains here
        for pattern in (".model-*", ".last-*", "checkpoints/*_temp"):
            for incomplete in workdir.glob(pattern):
                shutil.rmtree(incomplete, ignore_errors=True)
        write_text(workdir / "recipe.json", recipe.to_json())
        write_json(workdir / "environment.json", _environment())


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in the folder. The lock ends with the process.

    Args:
        workdir: An existing folder.

    Raises:
        RecipeError: If another process trains there.
    """
    lock = filelock.FileLock(workdir / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RecipeError(
            "Another process is training in this folder: wait, or use another --workdir. "
            f"Received: {workdir}"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_same_recipe(recipe: Recipe, saved: Recipe, workdir: pathlib.Path) -> None:
    settings, others = _decisive_settings(recipe), _decisive_settings(saved)
    for (group, field, value), (*_, other) in zip(settings, others, strict=True):
        name = f"{group}.{field}" if field else group
        may_grow = group == "train" and field in _MAY_GROW
        if value == other or (may_grow and _grows(field, recipe.train, saved.train)):
            continue
        rule = ", which may only grow" if may_grow and other is not None else ""
        # last/ is written when a run ends, model/ after its first epoch.
        models = [workdir / folder for folder in ("last", "model")]
        start = next((model for model in models if model.is_dir()), None)
        from_its_weights = f", or a new one from its weights with --set model.start={start}"
        raise RecipeError(
            f"This work directory holds a run with {name}={other!r}{rule}: continue it with "
            f"--recipe {workdir}/recipe.json, or use another --workdir"
            f"{from_its_weights if start else ''}. Received: {name}={value!r}"
        )


def _grows(field: str, train: Train, saved: Train) -> bool:
    """Returns whether a run with these settings begins with the epochs of the saved one."""
    new, old = getattr(train, field), getattr(saved, field)
    if field == "keep_epochs":
        # Epochs that were not kept are lost, so only a range that went to the end may grow.
        return bool(new and old and new[0] == old[0] and new[1] > old[1] == saved.num_epochs)
    return new is None or (old is not None and new > old)  # None is no limit


def _warnings(recipe: Recipe, saved: Recipe) -> list[str]:
    before, after = saved.train.num_epochs, recipe.train.num_epochs
    if before == after or recipe.optimizer.schedule != "warmup_cosine":
        return []
    return [
        f"train.num_epochs grows from {before} to {after}: from here on the learning rate is that "
        f"of a run of {after} epochs, while the earlier epochs followed the cosine of {before}. "
        "Only with optimizer.schedule=epoch_decay is the result that of one long run"
    ]


def _decisive_settings(recipe: Recipe) -> list[tuple[str, str, object]]:
    """Returns group, field and value of the settings that decide the result of a run."""
    groups = dataclasses.asdict(recipe).items()
    fields = [(g, v if isinstance(v, dict) else {"": v}) for g, v in groups]
    return [(g, f, v[f]) for g, v in fields for f in v if (g, f) not in _NOT_DECISIVE]


def _environment() -> dict[str, object]:
    import keras
    import tensorflow as tf

    return {
        "ast_keras": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }


# --- History ---


def write_history(workdir: pathlib.Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """Writes epochs.csv and curves.png.

    Args:
        workdir: The work directory.
        history: One row per epoch: its number, training loss, learning rate and scores.
        title: Title of the curves.
    """
    from ast_keras.reports import figures

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(workdir / "epochs.csv", text.getvalue())
    figures.draw_learning_curves(history, workdir / "curves.png", title=title)


# --- Models of single epochs (`train.keep_epochs`), in WORKDIR/epochs/NN ---


def keep_epoch(model: ASTClassifier, workdir: str | os.PathLike[str], epoch: int) -> None:
    """Saves the model of an epoch, replacing an older one of the same epoch as a whole.

    Args:
        model: The classifier.
        workdir: The work directory.
        epoch: Number of the epoch, counted from 1.
    """
    from ast_keras.presets.loading import save_to_preset

    folder = pathlib.Path(workdir, _EPOCHS, f"{epoch:02d}")
    save_to_preset(model, folder)


def kept_epochs(workdir: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the folders of the models that a run has kept, by epoch in order.

    Args:
        workdir: The work directory.

    Example:

    >>> import tempfile
    >>> workdir = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("10", "09", ".11-half"):
    ...     (workdir / "epochs" / name).mkdir(parents=True)
    >>> list(kept_epochs(workdir))
    [9, 10]
    """
    paths = pathlib.Path(workdir, _EPOCHS).glob("*")
    folders = {int(path.name): path for path in paths if path.name.isdigit()}
    return {epoch: folders[epoch] for epoch in sorted(folders)}


def delete_unfinished_epochs(workdir: str | os.PathLike[str], last_epoch: int) -> None:
    """Deletes half-written models, and models of epochs after the last checkpoint.

    The model of an epoch is written before the checkpoint at the end of that epoch. If a run is
    killed between the two, it trains the epoch, and writes its model, again.

    Args:
        workdir: The work directory.
        last_epoch: Number of epochs in the last checkpoint.
    """
    for incomplete in pathlib.Path(workdir, _EPOCHS).glob(".*"):
        shutil.rmtree(incomplete, ignore_errors=True)
    for epoch, folder in kept_epochs(workdir).items():
        if epoch > last_epoch:
            shutil.rmtree(folder)


def epoch_models(workdir: str, epochs: str) -> list[str]:
    """Returns the folders of the models that a run has kept for a range of epochs.

    Args:
        workdir: The work directory.
        epochs: First and last epoch, such as "6-25".

    Raises:
        EvaluationError: If the range is malformed, or an epoch was not kept. The message lists
            the epochs that were.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", epochs)
    if not match or not 1 <= int(match[1]) < int(match[2]):
        raise EvaluationError(
            f"Epochs are written FIRST-LAST, such as 6-25. Received: --epochs={epochs}"
        )
    first, last = int(match[1]), int(match[2])
    kept = kept_epochs(workdir)
    missing = [epoch for epoch in range(first, last + 1) if epoch not in kept]
    if missing:
        raise EvaluationError(
            f"The run has not kept these epochs: {_ranges(missing)}; it has {_ranges(list(kept))}. "
            f"Train with --set train.keep_epochs={first},{last} to keep them. "
            f"Received: --workdir={workdir} --epochs={epochs}"
        )
    return [str(kept[epoch]) for epoch in range(first, last + 1)]


def _ranges(epochs: Sequence[int]) -> str:
    """Writes sorted numbers as "1-3, 5"."""
    parts: list[list[int]] = []
    for epoch in epochs:
        if parts and parts[-1][-1] == epoch - 1:
            parts[-1] = [parts[-1][0], epoch]
        else:
            parts.append([epoch])
    return ", ".join("-".join(map(str, part)) for part in parts) or "none"

"""Models saved to a folder and loaded from it, whole or not at all.

A folder holds what a preset of keras-hub does, plus the labels:

| file | holds |
|---|---|
| config.json | the backbone's configuration |
| audio_converter.json | the filterbank's configuration |
| task.json | the whole classifier's configuration |
| metadata.json | versions that wrote it, date, number of parameters |
| model.weights.h5, task.weights.h5 | weights of the backbone, of the classifier |
| labels.csv | index, id and name of every class |
"""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
import pathlib
import shutil
from typing import Any

import h5py
import keras

from ast_keras.errors import WeightsError
from ast_keras.files import replacing_folder
from ast_keras.layers.initializers import without_random_start
from ast_keras.models import causal_ast_backbone  # noqa: F401  (a saved model may be of its kind)
from ast_keras.models.ast_classifier import ASTClassifier


def is_saved_model(folder: pathlib.Path) -> bool:
    """Returns whether `save_to_preset` wrote this folder, of which a file may be gone since."""
    return any((folder / name).is_file() for name in ("task.json", "task.weights.h5"))


def load_saved_model(folder: pathlib.Path) -> ASTClassifier:
    """Loads the classifier that `save_to_preset` wrote, equal to the bit.

    Raises:
      WeightsError: If a file is missing or damaged, or the weights are another model's.
    """
    with without_random_start():
        saved = _read_model(folder / "task.json")
    weights = folder / "task.weights.h5"
    if not weights.is_file():
        raise WeightsError(f"A saved model needs its weights. Missing: {weights}")
    try:
        saved.load_weights(weights)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise WeightsError(f"These weights cannot be read: {line} Received: {weights}") from None
    _require_all_used(weights, saved)
    return saved


def save_to_preset(model: ASTClassifier, folder: str | os.PathLike[str]) -> None:
    """Saves a classifier, replacing the folder as a whole and only when all is written.

    Args:
      model: The classifier; reloading gives bit-identical weights.
      folder: Where to; an older saved model there is replaced, anything else refused.

    Raises:
      WeightsError: If the folder holds something else than a saved model.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
    >>> save_to_preset(from_preset("ast_test", num_classes=10, num_frames=128), folder)
    >>> from_preset(folder).num_classes
    10
    """
    target = pathlib.Path(folder)
    if target.exists() and not _may_replace(target):
        raise WeightsError(
            "A model is saved to a new folder or over an older saved model. "
            f"Received: {target}, which holds something else"
        )
    with replacing_folder(target) as part:
        _require_room(part, 2 * 4 * model.count_params() + (1 << 20))
        _write_files(model, part)


def _may_replace(target: pathlib.Path) -> bool:
    return target.is_dir() and (is_saved_model(target) or not any(target.iterdir()))


def _require_room(folder: pathlib.Path, size: int) -> None:
    """Raises OSError unless `size` bytes can be written: HDF5 takes the process down instead."""
    trial = folder / "room"
    with open(trial, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:  # not on every system
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    trial.unlink()


def _write_files(model: ASTClassifier, folder: pathlib.Path) -> None:
    serialize = keras.saving.serialize_keras_object
    _write_json(folder / "config.json", serialize(model.backbone))
    _write_json(folder / "task.json", serialize(model))
    if model.frontend is not None:
        _write_json(folder / "audio_converter.json", serialize(model.frontend))
    if model.labels is not None:
        model.labels.to_csv(folder / "labels.csv")
    import tensorflow as tf

    metadata = {
        "keras_version": keras.__version__,
        "tensorflow_version": tf.__version__,
        "date_saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameter_count": model.count_params(),
    }
    _write_json(folder / "metadata.json", metadata)
    model.backbone.save_weights(folder / "model.weights.h5")
    # Without the optimizer: Keras would write its state, twice the size of the weights, too.
    optimizer, model.optimizer = getattr(model, "optimizer", None), None
    try:
        model.save_weights(folder / "task.weights.h5")
    finally:
        model.optimizer = optimizer


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_model(path: pathlib.Path) -> ASTClassifier:
    config = _read_json(path)
    try:
        model = keras.saving.deserialize_keras_object(config)
    except Exception as error:  # a damaged configuration fails anywhere inside Keras
        line = " ".join(str(error).split())[:200]
        raise WeightsError(f"This is no model's configuration: {line} Received: {path}") from None
    if not isinstance(model, ASTClassifier):
        raise WeightsError(f"This is not an ASTClassifier's configuration. Received: {path}")
    return model


def _read_json(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"This folder is not a saved model. Missing: {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {path}") from None


def _require_all_used(weights: pathlib.Path, model: ASTClassifier) -> None:
    """Refuses weights of a larger model: Keras reads what fits and says nothing of the rest."""
    sizes: list[int] = []
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    used = sum(math.prod(weight.shape) for weight in model.weights)
    if sum(sizes) != used:
        raise WeightsError(
            f"These weights are not those of the model beside them: they hold {sum(sizes)} "
            f"numbers, the model {used}. Received: {weights}"
        )

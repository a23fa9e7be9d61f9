"""Named sizes, and models saved to and loaded from a folder.

A preset folder holds what keras-hub's does, plus the labels:

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
import tempfile
from typing import Any

import h5py
import keras

from ast_keras.frontend import LogMelFilterbank
from ast_keras.labels import LabelSet
from ast_keras.model import ASTBackbone, ASTClassifier

# The sizes of DeiT, and one for tests.
SIZES: dict[str, dict[str, int]] = {
    "ast_test": {"embed_dim": 48, "num_layers": 2, "num_heads": 3, "mlp_dim": 96},
    "ast_nano": {"embed_dim": 96, "num_layers": 4, "num_heads": 3, "mlp_dim": 384},
    "ast_tiny": {"embed_dim": 192, "num_layers": 12, "num_heads": 3, "mlp_dim": 768},
    "ast_small": {"embed_dim": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536},
    "ast_base": {"embed_dim": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
}

_CLASSIFIER_ARGUMENTS = ("frontend", "augment", "score_activation", "head_layer_norm_epsilon")


class PresetError(ValueError):
    """Raised when a preset or a saved model cannot be found, read or used as asked."""


def from_preset(
    preset: str | os.PathLike[str],
    num_classes: int | None = None,
    labels: LabelSet | None = None,
    **overrides: Any,
) -> ASTClassifier:
    """Makes a classifier of a named size with random weights, or loads a saved one.

    Args:
      preset: A name of `SIZES`, or the folder that `save_to_preset` wrote.
      num_classes: Number of classes of a fresh head. None keeps a saved model's head.
      labels: The classes; implies `num_classes` and, for a saved model, a fresh head unless they
        are the ones it has.
      **overrides: For a named size, arguments of `ASTBackbone` (`num_frames`, `strides`, ...) and
        of `ASTClassifier`: `frontend` (a `LogMelFilterbank`, or None for spectrogram input),
        `augment`, `score_activation`.

    Raises:
      PresetError: If there is no such preset, its files are incomplete, or an argument does not
        apply.

    Example:

    >>> model = from_preset("ast_test", num_classes=10, num_frames=128)
    >>> model.count_params() > 50_000
    True
    """
    name = os.fspath(preset)
    if labels is not None:
        if num_classes not in (None, len(labels)):
            raise PresetError(
                "There must be one label for each class: leave num_classes out. "
                f"Received: {len(labels)} labels, num_classes={num_classes}"
            )
        num_classes = len(labels)
    if name in SIZES:
        return _from_size(name, num_classes, labels, overrides)
    folder = pathlib.Path(name)
    if not folder.is_dir():
        raise PresetError(
            f"A preset is one of {', '.join(SIZES)} or the folder of a saved model. "
            f"Received: preset={name!r}"
        )
    if overrides:
        raise PresetError(
            "A saved model keeps its architecture: only num_classes and labels can be given. "
            f"Received: {', '.join(overrides)}"
        )
    return _from_folder(folder, num_classes, labels)


def _from_size(
    name: str, num_classes: int | None, labels: LabelSet | None, overrides: dict[str, Any]
) -> ASTClassifier:
    if num_classes is None:
        raise PresetError(f"A new model needs num_classes or labels. Received: preset={name!r}")
    parts = {key: overrides.pop(key) for key in _CLASSIFIER_ARGUMENTS if key in overrides}
    try:
        backbone = ASTBackbone(**{**SIZES[name], **overrides}, name="backbone")
    except TypeError as error:
        raise PresetError(f"This is no argument of the model: {error}") from None
    if "frontend" not in parts:
        parts["frontend"] = LogMelFilterbank(
            num_frames=backbone.num_frames, num_mel_bins=backbone.num_mel_bins, name="fbank"
        )
    return ASTClassifier(backbone, num_classes, labels=labels, name=name, **parts)


def _from_folder(
    folder: pathlib.Path, num_classes: int | None, labels: LabelSet | None
) -> ASTClassifier:
    saved = _read_model(folder / "task.json")
    weights = folder / "task.weights.h5"
    if not weights.is_file():
        raise PresetError(f"A saved model needs its weights. Missing: {weights}")
    try:
        saved.load_weights(weights)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise PresetError(f"These weights cannot be read: {line} Received: {weights}") from None
    _require_all_used(weights, saved)
    if num_classes is None or (labels is not None and labels == saved.labels):
        return saved
    return ASTClassifier(
        saved.backbone,
        num_classes,
        frontend=saved.frontend,
        augment=saved.augment,
        labels=labels,
        score_activation=saved.score_activation,
        head_layer_norm_epsilon=saved.head_layer_norm_epsilon,
        name=saved.name,
    )


def _require_all_used(weights: pathlib.Path, model: ASTClassifier) -> None:
    """Refuses weights of a larger model: Keras reads what fits and says nothing of the rest."""
    sizes: list[int] = []
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    used = sum(math.prod(weight.shape) for weight in model.weights)
    if sum(sizes) != used:
        raise PresetError(
            f"These weights are not those of the model beside them: they hold {sum(sizes)} "
            f"numbers, the model {used}. Received: {weights}"
        )


def save_to_preset(model: ASTClassifier, folder: str | os.PathLike[str]) -> None:
    """Saves a classifier, replacing the folder as a whole and only when all is written.

    Args:
      model: The classifier; reloading gives bit-identical weights.
      folder: Where to; an older saved model there is replaced, anything else refused.

    Raises:
      PresetError: If the folder holds something else than a saved model.

    Example:

    >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
    >>> save_to_preset(from_preset("ast_test", num_classes=10, num_frames=128), folder)
    >>> from_preset(folder).num_classes
    10
    """
    target = pathlib.Path(folder)
    if target.exists() and not _may_replace(target):
        raise PresetError(
            "A model is saved to a new folder or over an older saved model. "
            f"Received: {target}, which holds something else"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _require_room(staging, 2 * 4 * model.count_params() + (1 << 20))
        _write_files(model, staging)
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _may_replace(target: pathlib.Path) -> bool:
    return target.is_dir() and ((target / "task.json").is_file() or not any(target.iterdir()))


def _require_room(folder: pathlib.Path, size: int) -> None:
    """Raises OSError unless `size` bytes can be written: HDF5 takes the process down instead."""
    trial = folder / "room"
    with open(trial, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(folder).free < size:  # not on every system
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    trial.unlink()


def _swap(staging: pathlib.Path, target: pathlib.Path) -> None:
    """Puts the finished folder in place; the old one is moved away first and deleted last."""
    staging.chmod(0o755)  # mkdtemp makes it private
    if not target.exists():
        staging.rename(target)
        return
    old = target.with_name(f".{target.name}-old-{os.getpid()}")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


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
        raise PresetError(f"This is no model's configuration: {line} Received: {path}") from None
    if not isinstance(model, ASTClassifier):
        raise PresetError(f"This is not an ASTClassifier's configuration. Received: {path}")
    return model


def _read_json(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise PresetError(f"This folder is not a saved model. Missing: {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PresetError(f"This file is damaged: {error}. Received: {path}") from None

"""Saving a classifier to a folder and loading it back, bit for bit.

The folder has the layout of a keras-hub preset, plus the labels:

| file | content |
|---|---|
| `config.json` | configuration of the backbone |
| `model.weights.h5` | weights of the backbone |
| `audio_converter.json` | configuration of the filterbank |
| `task.json` | configuration of the whole classifier |
| `task.weights.h5` | weights of the classifier without those of the backbone: the head's |
| `metadata.json` | format version, versions of Keras and TensorFlow, date, number of parameters |
| `labels.csv` | index, id and name of every class |

In the folders of format version 1, `task.weights.h5` holds the weights of the backbone as well.
Such folders can still be loaded.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import keras
from keras.src.saving import saving_lib  # as keras-hub does: no public function skips layers

from ast_keras.errors import WeightsError
from ast_keras.files import (
    one_line,
    replacing,
    replacing_folder,
    require_disk_space,
    write_text,
)
from ast_keras.layers.initializers import skip_random_initialization
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models import causal_ast_backbone  # noqa: F401  (registers a class of saved models)
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.presets.saved_paths import (
    BACKBONE_WEIGHTS,
    TASK,
    TASK_WEIGHTS,
    is_keras_file,
    is_saved_model,
    saved_model_path,
)

FORMAT_VERSION = 2
_COMPILE_CONFIG = "compile_config"


def load_saved_model(path: pathlib.Path) -> ASTClassifier:
    """Loads a classifier from a folder written by `save_to_preset` or a file of `model.save`.

    Args:
        path: The folder, of this or an earlier format version, or the `.keras` file.

    Returns:
        The classifier, with bit-identical weights, not compiled.

    Raises:
        WeightsError: If a file is missing or damaged, if the weights belong to another model, if
            the folder was written by a later format version, or the file holds another class.
    """
    if is_keras_file(path):
        return _load_keras_file(path)
    folder = path
    _require_known_format(folder)
    with skip_random_initialization():
        model = _deserialize(folder / TASK, ASTClassifier)
    task_weights = folder / TASK_WEIGHTS
    if _holds_backbone(task_weights):  # format version 1
        _load_weights(model.load_weights, task_weights, model.weights)
        return model
    backbone = model.backbone
    _load_weights(backbone.load_weights, folder / BACKBONE_WEIGHTS, backbone.weights)
    _load_weights(
        lambda path: saving_lib.load_weights_only(model, path, objects_to_skip=[backbone]),
        task_weights,
        _task_weights(model),
    )
    return model


def _load_keras_file(path: pathlib.Path) -> ASTClassifier:
    """Loads a file of `model.save`. It runs no code of the file: Keras's safe mode is on."""
    if path.suffix != ".keras":
        raise WeightsError(
            f"Keras reads files named .keras in lower case: rename it. Received: {path}"
        )
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"This is no Keras file, or it is cut short. Received: {path}")
    try:
        with skip_random_initialization():
            model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # a damaged file may fail anywhere inside Keras
        raise WeightsError(
            f"This Keras file cannot be loaded: {one_line(error)}. Received: {path}"
        ) from None
    if not isinstance(model, AudioClassifier):
        raise WeightsError(
            "A Keras file must hold an ASTClassifier: save the classifier, neither a part of it "
            f"nor a model around it. Received: {path}, which holds {type(model).__name__}"
        )
    return model


def load_saved_filterbank(path: pathlib.Path) -> LogMelFilterbank:
    """Loads the filterbank of a saved classifier.

    Args:
        path: A folder written by `save_to_preset`, or a `.keras` file.

    Raises:
        WeightsError: If the saved model takes spectrograms, or if the file is damaged.
    """
    if is_keras_file(path):
        frontend = _load_keras_file(path).frontend
    else:
        _require_known_format(path)
        converter = path / "audio_converter.json"
        frontend = _deserialize(converter, LogMelFilterbank) if converter.is_file() else None
    if frontend is None:
        raise WeightsError(
            "The saved model takes spectrograms and has no filterbank: create a LogMelFilterbank. "
            f"Received: {path}"
        )
    return frontend


def save_to_preset(model: ASTClassifier, folder: str | os.PathLike[str]) -> None:
    """Saves a classifier to a folder, which appears complete or not at all.

    Args:
        model: The classifier. Loading it gives bit-identical weights.
        folder: A new folder, an empty one, or that of an older saved model, which is replaced.

    Raises:
        WeightsError: If the folder holds anything but a saved model.

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
            "A model is saved to a new folder, or to that of an older saved model. "
            f"Received: {target}, which holds other files"
        )
    with replacing_folder(target) as part:
        # When the disk is full, HDF5 ends the process instead of raising an error.
        require_disk_space(part, 4 * model.count_params() + (1 << 20))
        _write_files(model, part)


def save_thresholds(path: str | os.PathLike[str], thresholds: Sequence[float]) -> None:
    """Stores the thresholds of the classes in a saved model, whose weights stay untouched.

    The file that changes is replaced as a whole.

    Args:
        path: A folder written by `save_to_preset`, the work directory of a run, or a `.keras` file.
        thresholds: One score in [0, 1] for each class, in the order of the model's outputs.

    Raises:
        WeightsError: If there is no saved model at the path.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
    >>> save_to_preset(from_preset("ast_test", num_classes=2, num_frames=128), folder)
    >>> save_thresholds(folder, (0.5, 0.25))
    >>> from_preset(folder).thresholds
    (0.5, 0.25)
    """
    saved = pathlib.Path(saved_model_path(os.fspath(path)))
    if not is_saved_model(saved):
        raise WeightsError(
            "Thresholds are stored in a saved model: save the model to a folder first. "
            f"Received: {path}"
        )

    def changed(text: str | bytes) -> str:
        config = json.loads(text)
        config["config"]["thresholds"] = list(thresholds)
        return json.dumps(config, indent=2) + "\n"

    if not is_keras_file(saved):
        write_text(saved / TASK, changed((saved / TASK).read_text(encoding="utf-8")))
        return
    with (
        replacing(saved) as part,
        zipfile.ZipFile(saved) as old,
        zipfile.ZipFile(part, "w") as new,
    ):
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member, changed(content) if member.filename == "config.json" else content)


def _may_replace(target: pathlib.Path) -> bool:
    return target.is_dir() and (is_saved_model(target) or not any(target.iterdir()))


def _write_files(model: ASTClassifier, folder: pathlib.Path) -> None:
    import tensorflow as tf

    serialize = keras.saving.serialize_keras_object
    _write_json(folder / "config.json", serialize(model.backbone))
    task = serialize(model)
    task.pop(_COMPILE_CONFIG, None)  # a loss of one's own would have to be there when loading
    _write_json(folder / TASK, task)
    if model.frontend is not None:
        _write_json(folder / "audio_converter.json", serialize(model.frontend))
    if model.labels is not None:
        model.labels.to_csv(folder / "labels.csv")
    metadata = {
        "format_version": FORMAT_VERSION,
        "keras_version": keras.__version__,
        "tensorflow_version": tf.__version__,
        "date_saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameter_count": model.count_params(),
    }
    _write_json(folder / "metadata.json", metadata)
    model.backbone.save_weights(folder / BACKBONE_WEIGHTS)
    # The optimizer is skipped, because its state is twice the size of the weights.
    skipped = [model.backbone, *filter(None, [getattr(model, "optimizer", None)])]
    saving_lib.save_weights_only(model, str(folder / TASK_WEIGHTS), objects_to_skip=skipped)


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _require_known_format(folder: pathlib.Path) -> None:
    """Refuses a folder of a later version of this package, before anything in it is interpreted."""
    path = folder / "metadata.json"
    metadata = _read_json(path) if path.is_file() else {}  # format version 1 may lack this file
    version = metadata.get("format_version", 1) if isinstance(metadata, dict) else None
    if type(version) is not int or version < 1:
        raise WeightsError(f"format_version must be a positive integer. Received: {path}")
    if version > FORMAT_VERSION:
        raise WeightsError(
            "The model was saved by a later version of ast-keras: update ast-keras. Received: "
            f"format_version={version} in {path}, this version reads up to {FORMAT_VERSION}"
        )


def _deserialize(path: pathlib.Path, kind: type[Any]) -> Any:
    """Returns the object of a class whose configuration a file holds."""
    config = _read_json(path)
    if isinstance(config, dict):
        config.pop(_COMPILE_CONFIG, None)  # of an earlier version
    try:
        value = keras.saving.deserialize_keras_object(config)
    except Exception as error:  # a damaged configuration may fail anywhere inside Keras
        line = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"This file holds no valid configuration: {line} Received: {path}"
        ) from None
    if not isinstance(value, kind):
        raise WeightsError(
            f"This file must hold the configuration of a {kind.__name__}. Received: {path}"
        )
    return value


def _read_json(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"This folder is not a complete saved model. Missing: {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"This file is damaged: {error}. Received: {path}") from None


def _task_weights(model: ASTClassifier) -> list[Any]:
    """Returns the weights of a classifier without those of its backbone."""
    backbone = {id(weight) for weight in model.backbone.weights}
    return [weight for weight in model.weights if id(weight) not in backbone]


def _holds_backbone(path: pathlib.Path) -> bool:
    return _read_hdf5(path, lambda file: _count_numbers(file.get("backbone")) > 0)


def _load_weights(
    load: Callable[[pathlib.Path], Any], path: pathlib.Path, weights: list[Any]
) -> None:
    """Loads a weights file whose numbers are exactly those of the given weights."""
    stored = _read_hdf5(path, _count_numbers)
    expected = sum(math.prod(weight.shape) for weight in weights)
    # Keras would load the weights that fit and ignore the rest of the file.
    if stored != expected:
        raise WeightsError(
            f"These weights belong to another model: the file holds {stored} numbers, the model "
            f"has {expected}. Received: {path}"
        )
    try:
        load(path)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None


def _read_hdf5(path: pathlib.Path, read: Callable[[Any], Any]) -> Any:
    if not path.is_file():
        raise WeightsError(f"This folder is not a complete saved model. Missing: {path}")
    try:
        with h5py.File(path) as file:
            return read(file)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from None


def _count_numbers(group: Any) -> int:
    sizes: list[int] = []
    if group is not None:
        group.visititems(lambda _, item: sizes.append(getattr(item, "size", None) or 0))
    return sum(sizes)


def _unreadable(path: pathlib.Path, error: Exception) -> WeightsError:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return WeightsError(f"These weights cannot be read: {line} Received: {path}")

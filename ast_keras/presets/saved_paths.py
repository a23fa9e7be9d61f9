"""Where a saved model is: its folder, the work directory of its run, or a Keras file."""

from __future__ import annotations

import contextlib
import difflib
import os
import pathlib

from ast_keras.errors import WeightsError
from ast_keras.weights.readers import SUFFIXES

TASK, TASK_WEIGHTS, BACKBONE_WEIGHTS = "task.json", "task.weights.h5", "model.weights.h5"

# The files of a saved model's folder: any of them stands for the folder.
_FILES = (
    TASK, TASK_WEIGHTS, BACKBONE_WEIGHTS, "config.json", "audio_converter.json", "metadata.json",
    "labels.csv",
)  # fmt: skip


def is_saved_model(path: pathlib.Path) -> bool:
    """Returns whether a path is the folder of a saved model, or a Keras file.

    A folder may be incomplete.

    Args:
        path: Path that `saved_model_path` returned.
    """
    return is_keras_file(path) or any((path / name).is_file() for name in (TASK, TASK_WEIGHTS))


def is_keras_file(path: pathlib.Path) -> bool:
    """Returns whether a path is a file of `model.save`, by its suffix.

    Args:
        path: Path of a file.
    """
    return path.suffix.lower() == ".keras" and path.is_file()


def saved_model_path(name: str) -> str:
    """Returns the path of the saved model that a path stands for.

    The work directory of a run stands for its model: the final one or, while the run trains, the
    best so far. A file in the folder of a saved model stands for the folder. Other paths, and names
    that are no paths, are returned as they are, with `~` replaced.

    Args:
        name: Name of a preset, or a path.

    Raises:
        WeightsError: If it is a work directory without a model yet, its checkpoints, or a folder
            of several models.

    Example:

    >>> saved_model_path("ast_base_audioset")
    'ast_base_audioset'
    """
    if not name:
        raise WeightsError("Give the name or the path of a model. Received: ''")
    expanded = os.path.expanduser(name)
    path = pathlib.Path(expanded)
    for folder in (path, path.parent):
        if folder.name == "checkpoints" and (folder.parent / "recipe.json").is_file():
            raise WeightsError(
                "Checkpoints hold the state of a run and serve to resume it: use its model, "
                f"{folder.parent}, or that of the last epoch, {folder.parent / 'last'}. "
                f"Received: {name}"
            )
    if path.name in _FILES and is_saved_model(path.parent):
        return str(path.parent)
    if not path.is_dir() or is_saved_model(path):
        return expanded
    inside = _children(path)
    if any(child.suffix in (*SUFFIXES, ".index") for child in inside):  # other weights
        return expanded
    if is_saved_model(path / "model"):
        return str(path / "model")
    if (path / "recipe.json").is_file():
        raise WeightsError(
            f"This run has no model yet: its first epoch must end before. Received: {name}"
        )
    models = [c.name for c in inside if is_saved_model(c) or is_saved_model(c / "model")]
    if models:
        listed = ", ".join(models[:5]) + (", ..." if len(models) > 5 else "")
        raise WeightsError(
            f"This folder is no model but holds some ({listed}): name one, such as "
            f"{path / models[0]}. Received: {name}"
        )
    return expanded


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
    with contextlib.suppress(OSError):
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    return []


def similar_path(path: pathlib.Path) -> str:
    """Returns "Did you mean ...? " for the path of a model of which one part is misspelt, else "".

    Args:
        path: A path that does not exist.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "best.keras").touch()
    >>> similar_path(folder / "bset.keras") == f"Did you mean {folder / 'best.keras'}? "
    True
    """
    wrong = path
    while not wrong.parent.exists():
        wrong = wrong.parent
    names = {child.name.lower(): child for child in _children(wrong.parent)}
    for match in difflib.get_close_matches(wrong.name.lower(), names):
        found = names[match] / path.relative_to(wrong)
        if found.is_file() or is_saved_model(found) or is_saved_model(found / "model"):
            return f"Did you mean {found}? "
    return ""

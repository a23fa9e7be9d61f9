"""The models of single epochs that a run keeps (`train.keep_epochs`): WORKDIR/epochs/NN."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ast_keras.errors import EvaluationError

if TYPE_CHECKING:
    from ast_keras.models.ast_classifier import ASTClassifier

_FOLDER = "epochs"


def keep_epoch(model: ASTClassifier, workdir: str | os.PathLike[str], epoch: int) -> None:
    """Saves the model as that of an epoch, whole or not at all, replacing an older one.

    Only what `from_preset` reads is kept: the backbone's weights are not stored a second time.
    """
    from ast_keras.presets.loading import save_to_preset

    folder = pathlib.Path(workdir, _FOLDER, f"{epoch:02d}")
    save_to_preset(model, folder)
    (folder / "model.weights.h5").unlink()


def kept_epochs(workdir: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the folders of the models that a run has kept, by epoch in order.

    Example:

    >>> import tempfile
    >>> workdir = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("10", "09", ".11-half"):
    ...     (workdir / "epochs" / name).mkdir(parents=True)
    >>> list(kept_epochs(workdir))
    [9, 10]
    """
    folders = {int(p.name): p for p in pathlib.Path(workdir, _FOLDER).glob("*") if p.name.isdigit()}
    return {epoch: folders[epoch] for epoch in sorted(folders)}


def forget_unfinished(workdir: str | os.PathLike[str], last_epoch: int) -> None:
    """Deletes what a killed run left half-written, and the models of epochs after the last.

    An epoch's model is written before the checkpoint that knows of the epoch. After a kill between
    the two the epoch is trained, and its model written, again.
    """
    for left in pathlib.Path(workdir, _FOLDER).glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    for epoch, folder in kept_epochs(workdir).items():
        if epoch > last_epoch:
            shutil.rmtree(folder)


def epoch_models(workdir: str, epochs: str) -> list[str]:
    """Returns the folders of the models that a run has kept of the epochs "FIRST-LAST".

    Raises:
      EvaluationError: If an epoch is not there, with those that are.
    """
    from ast_keras.training.kept import kept_epochs

    match = re.fullmatch(r"(\d+)-(\d+)", epochs)
    if not match or not 1 <= int(match[1]) < int(match[2]):
        raise EvaluationError(
            f"Epochs are written FIRST-LAST, as 6-25. Received: --epochs={epochs}"
        )
    first, last = int(match[1]), int(match[2])
    kept = kept_epochs(workdir)
    missing = [epoch for epoch in range(first, last + 1) if epoch not in kept]
    if missing:
        raise EvaluationError(
            f"The run has not kept these epochs: {_ranges(missing)}; it has {_ranges(kept)}. Train "
            f"with --set train.keep_epochs={first},{last} to keep them. "
            f"Received: --workdir={workdir} --epochs={epochs}"
        )
    return [str(kept[epoch]) for epoch in range(first, last + 1)]


def _ranges(epochs: Sequence[int] | Mapping[int, Any]) -> str:
    """Writes sorted numbers as "1-3, 5"."""
    parts: list[list[int]] = []
    for epoch in epochs:
        if parts and parts[-1][-1] == epoch - 1:
            parts[-1] = [parts[-1][0], epoch]
        else:
            parts.append([epoch])
    return ", ".join("-".join(map(str, part)) for part in parts) or "none"

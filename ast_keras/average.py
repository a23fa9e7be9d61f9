"""Makes one model of several: `python -m ast_keras.average --model A --model B --output DIR`.

Every weight of the result is the mean of the models' weights, which must agree in architecture,
labels and frontend. `--workdir RUN --epochs 6-25` takes the epochs that a run has kept
(`--set train.keep_epochs=6,25`), as the authors do for AudioSet.
"""

from __future__ import annotations

import gc
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from ast_keras.commands.runner import run_command

# What acts only while training, and what is compared as "precision".
_FREE = ("name", "trainable", "dtype", "dropout", "attention_dropout", "drop_path")


class AverageError(ValueError):
    """Raised when models cannot be averaged, or when it is not clear which."""


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise AverageError(f"Unexpected argument. Received: {argv[1]!r}")
    names, output = _models_and_output()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise AverageError(
            "The average is written to a new folder: choose another --output, or delete this one. "
            f"Received: {output}"
        )
    from ast_keras.presets.loading import save_to_preset

    model = average_models(names)
    save_to_preset(model, output)
    print(f"mean of {len(names)} models, {model.count_params():,} parameters:")
    print("".join(f"  {name}\n" for name in names) + f"saved: {output}")
    return 0


def average_models(names: Sequence[str | os.PathLike[str]]) -> Any:
    """Returns an `ASTClassifier` whose every weight is the mean of the models' weights.

    Sums are taken in float64 and rounded once. One model at a time is in memory, besides the sum.
    What acts only while training (dropout, augmentation) is the last model's.

    Args:
      names: What `from_preset` loads, two or more.

    Raises:
      AverageError: If the models differ, with the first difference, or are fewer than two.
      PresetError: If one cannot be loaded.

    Reference: Gong, Chung, Glass (2021), section 3.1; Izmailov et al., "Averaging Weights Leads to
      Wider Optima and Better Generalization", UAI 2018.

    Example:

    >>> import tempfile
    >>> from ast_keras.presets.loading import from_preset, save_to_preset
    >>> folders = [pathlib.Path(tempfile.mkdtemp(), name) for name in "ab"]
    >>> for bias, folder in zip((1.0, 2.0), folders):
    ...     model = from_preset("ast_test", num_classes=1, num_frames=32)
    ...     _ = model.head.bias.assign([bias])
    ...     save_to_preset(model, folder)
    >>> float(average_models(folders).head.bias[0])
    1.5
    """
    from ast_keras.presets.loading import from_preset

    if len(names) < 2:
        raise AverageError(f"An average needs two models or more. Received: {len(names)}")
    sums: list[Any] = []
    first: Mapping[str, Any] = {}
    model = None
    for name in names:
        model = None
        gc.collect()  # the model before this one lies in cycles
        model = from_preset(name)
        if not sums:
            first = _description(model)
            sums = [np.zeros(weight.shape) for weight in model.weights]
        _require_same(_description(model), first, name, names[0])
        for total, weight in zip(sums, model.weights, strict=True):
            total += np.asarray(weight, np.float64)
    for total, weight in zip(sums, model.weights, strict=True):
        weight.assign((total / len(names)).astype(weight.numpy().dtype))
    return model


def _description(model: Any) -> dict[str, Any]:
    """Returns everything that the models must agree on."""
    parts = {"backbone": model.backbone, "frontend": model.frontend}
    found = {
        f"{part}.{name}": value
        for part, layer in parts.items()
        for name, value in (layer.get_config() if layer is not None else {}).items()
        if name not in _FREE
    }
    found["precision"] = model.backbone.policy.name
    kinds = ("num_classes", "labels", "score_activation", "head_layer_norm_epsilon")
    return found | {kind: getattr(model, kind) for kind in kinds}


def _require_same(
    found: Mapping[str, Any], wanted: Mapping[str, Any], name: Any, first: Any
) -> None:
    for key in dict.fromkeys([*wanted, *found]):
        ours, theirs = found.get(key), wanted.get(key)
        if ours != theirs:
            values = "" if key == "labels" else f": {theirs!r} and {ours!r}"
            raise AverageError(
                "Only models of the same architecture, labels and frontend can be averaged; these "
                f"differ in {key}{values}. Received: {first} and {name}"
            )


def _models_and_output() -> tuple[list[str], pathlib.Path]:
    models, workdir, epochs = flags.FLAGS.model, flags.FLAGS.workdir, flags.FLAGS.epochs
    output = flags.FLAGS.output
    if models and not (workdir or epochs) and output:
        return models, pathlib.Path(output)
    if workdir and epochs and not models:
        names = epoch_models(workdir, epochs)
        return names, pathlib.Path(output or pathlib.Path(workdir, f"average_{epochs}"))
    raise AverageError(
        "Say what to average: --model A --model B ... --output DIR, or --workdir RUN --epochs "
        "FIRST-LAST"
    )


def epoch_models(workdir: str, epochs: str) -> list[str]:
    """Returns the folders of the models that a run has kept of the epochs "FIRST-LAST".

    Raises:
      AverageError: If an epoch is not there, with those that are.
    """
    from ast_keras.training.kept import kept_epochs

    match = re.fullmatch(r"(\d+)-(\d+)", epochs)
    if not match or not 1 <= int(match[1]) < int(match[2]):
        raise AverageError(f"Epochs are written FIRST-LAST, as 6-25. Received: --epochs={epochs}")
    first, last = int(match[1]), int(match[2])
    kept = kept_epochs(workdir)
    missing = [epoch for epoch in range(first, last + 1) if epoch not in kept]
    if missing:
        raise AverageError(
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


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_multi_string("model", [], "Folder of a saved model or a preset; repeat it.")
    flags.DEFINE_string("workdir", None, "Folder of a run that has kept epochs.")
    flags.DEFINE_string("epochs", None, "With --workdir: first and last epoch, as 6-25.")
    flags.DEFINE_string("output", None, "A new folder; default WORKDIR/average_EPOCHS.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

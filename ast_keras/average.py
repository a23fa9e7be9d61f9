"""Averages the weights of models: `python -m ast_keras.average --model A --model B --output DIR`.

The models must have the same architecture, labels and frontend. `--workdir RUN --epochs 6-25`
averages the models of epochs that a run has kept (`--set train.keep_epochs=6,25`), as the authors
do for AudioSet.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import EvaluationError
from ast_keras.evaluation.averaging import average_models
from ast_keras.training.run_folder import epoch_models


def _require_one_source(flag_values: flags.FlagValues) -> None:
    def satisfied(values: dict[str, Any]) -> bool:
        if values["model"]:
            return bool(values["output"]) and not (values["workdir"] or values["epochs"])
        return bool(values["workdir"] and values["epochs"])

    flags.register_multi_flags_validator(
        ["model", "output", "workdir", "epochs"],
        satisfied,
        "Give either --model A --model B --output DIR or --workdir RUN --epochs FIRST-LAST.",
        flag_values,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command."""

    usage = (
        "python -m ast_keras.average --model A --model B --output DIR | "
        "--workdir RUN --epochs FIRST-LAST"
    )
    rules = (_require_one_source,)
    model: tuple[str, ...] = flag(
        flags.DEFINE_multi_string,
        (),
        "Work directory of a run, folder or .keras file of a saved model, or name of a preset; "
        "repeat it.",
    )
    workdir: str | None = flag(
        flags.DEFINE_string, None, "Work directory of a run that has kept the models of epochs."
    )
    epochs: str | None = flag(
        flags.DEFINE_string, None, "First and last epoch of --workdir, such as 6-25."
    )
    output: str | None = flag(
        flags.DEFINE_string, None, "New folder for the average. Default: WORKDIR/average_EPOCHS."
    )


def main(options: Options) -> int:
    """Averages models, saves the result and returns the exit status."""
    names, workdir = list(options.model), os.path.expanduser(options.workdir or "")
    if workdir and options.epochs:
        names = epoch_models(workdir, options.epochs)
    output = pathlib.Path(options.output or pathlib.Path(workdir, f"average_{options.epochs}"))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise EvaluationError(
            "The average is written to a new folder: choose another --output, or delete this one. "
            f"Received: {output}"
        )
    from ast_keras.presets.loading import save_to_preset

    model = average_models(names)
    save_to_preset(model, output)
    print(f"mean of {len(names)} models, {model.count_params():,} parameters:")
    print("".join(f"  {name}\n" for name in names) + f"saved: {output}")
    return 0


def run() -> None:
    """Runs the command line; also the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

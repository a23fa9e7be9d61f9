"""Makes one model of several: `python -m ast_keras.average --model A --model B --output DIR`.

Every weight of the result is the mean of the models' weights, which must agree in architecture,
labels and frontend. `--workdir RUN --epochs 6-25` takes the epochs that a run has kept
(`--set train.keep_epochs=6,25`), as the authors do for AudioSet.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import EvaluationError
from ast_keras.evaluation.averaging import average_models
from ast_keras.training.run_folder import epoch_models


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise EvaluationError(f"Unexpected argument. Received: {argv[1]!r}")
    names, output = _models_and_output()
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


def _models_and_output() -> tuple[list[str], pathlib.Path]:
    models, workdir, epochs = flags.FLAGS.model, flags.FLAGS.workdir, flags.FLAGS.epochs
    output = flags.FLAGS.output
    if models and not (workdir or epochs) and output:
        return models, pathlib.Path(output)
    if workdir and epochs and not models:
        names = epoch_models(workdir, epochs)
        return names, pathlib.Path(output or pathlib.Path(workdir, f"average_{epochs}"))
    raise EvaluationError(
        "Say what to average: --model A --model B ... --output DIR, or --workdir RUN --epochs "
        "FIRST-LAST"
    )


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_multi_string("model", [], "Folder of a saved model or a preset; repeat it.")
    flags.DEFINE_string("workdir", None, "Folder of a run that has kept epochs.")
    flags.DEFINE_string("epochs", None, "With --workdir: first and last epoch, as 6-25.")
    flags.DEFINE_string("output", None, "A new folder; default WORKDIR/average_EPOCHS.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

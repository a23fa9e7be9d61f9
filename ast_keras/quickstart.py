"""Trains and uses a small model on rendered sounds: `python -m ast_keras.quickstart`."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, settings_flag
from ast_keras.commands.runner import run_app
from ast_keras.recipe import load_recipe, override


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command."""

    usage = "python -m ast_keras.quickstart [--workdir DIR] [--set group.field=value]"
    workdir: str = flag(flags.DEFINE_string, "runs/quickstart", "Folder of the run.")
    settings: tuple[str, ...] = settings_flag()


def main(options: Options) -> int:
    """Trains, tests and uses the model; returns the exit status."""
    recipe = override(load_recipe("quickstart"), options.settings)
    # TensorFlow is imported only now: a mistyped setting must not wait for it.
    from ast_keras.data.readers.synthetic import write_examples
    from ast_keras.inference.predictor import Predictor
    from ast_keras.presets.loading import from_preset
    from ast_keras.training.run import Run

    workdir = pathlib.Path(options.workdir)
    result = Run.prepare(recipe, workdir).train()
    print(f"\n{result.table()}\n")
    # Clips of the test split as sound files, like a user's own recordings.
    files = write_examples(
        workdir / "examples", clip_seconds=recipe.data.clip_seconds, seed=recipe.seed
    )
    predictor = Predictor(from_preset(workdir / "model"))
    for path in files[:1]:
        row = predictor.predict(path, top=3)
        print(f"predicted for {path}:")
        for prediction in row["predictions"]:
            print(f"  {prediction['score']:.4f}  {prediction['label']}")
    print(f"\ntest accuracy: {(result.test or result.chosen)['accuracy']:.4f}")
    print(f"saved model:   {workdir / 'model'}")
    print(f"classify more: python -m ast_keras.predict --model {workdir / 'model'} FILE...")
    return 0


def run() -> None:
    """Runs the command with the process's arguments."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

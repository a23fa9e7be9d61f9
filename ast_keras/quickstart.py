"""Trains, tests and uses a small model on rendered sounds: `python -m ast_keras.quickstart`."""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.recipe import load_recipe, override


def main(argv: list[str]) -> int:
    recipe = override(load_recipe("quickstart"), flags.FLAGS["set"].value)
    from ast_keras.data.readers.synthetic import write_examples
    from ast_keras.inference.predictor import Predictor
    from ast_keras.presets.loading import from_preset
    from ast_keras.training.run import Run

    workdir = pathlib.Path(flags.FLAGS.workdir)
    result = Run(recipe, workdir).train()
    print(f"\n{result.table()}\n")
    # Clips of the test split, as files: what a user's own recordings look like to the model.
    files = write_examples(
        workdir / "examples",
        clip_seconds=recipe.data.clip_seconds,
        seed=recipe.seed,
    )
    predictor = Predictor(from_preset(workdir / "model"))
    for path in files[:1]:
        row = predictor.predict(path, top=3)
        print(f"predicted for {path}:")
        for prediction in row["predictions"]:
            print(f"  {prediction['score']:.4f}  {prediction['label']}")
    print(f"\ntest accuracy: {(result.test or result.chosen)['accuracy']:.4f}")
    print(f"saved model:   {workdir / 'model'}")
    print(f"more like it:  python -m ast_keras.predict --model {workdir / 'model'} FILE...")
    return 0


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")
    flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

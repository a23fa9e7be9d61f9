"""Trains a recipe: `python -m ast_keras.train --recipe esc50 --workdir DIR`.

The same command again goes on where a stopped run was. `--set group.field=value` changes single
settings, `--print_recipe` shows the result without training.
"""

from __future__ import annotations

import sys

from absl import app, flags

from ast_keras.command import run_command
from ast_keras.recipe import RecipeError, list_recipes, load_recipe, override


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument; did you mean --set? Received: {argv[1]!r}")
    if flags.FLAGS.recipe is None:
        raise RecipeError(f"Say what to train: --recipe NAME, one of {', '.join(list_recipes())}")
    recipe = override(load_recipe(flags.FLAGS.recipe), flags.FLAGS["set"].value)
    if flags.FLAGS.print_recipe:
        print(recipe.to_json(), end="")
        return 0
    # TensorFlow is imported only now: a mistyped setting should not wait for it.
    from ast_keras.run import Run

    workdir = flags.FLAGS.workdir or f"runs/{recipe.name}-seed{recipe.seed}"
    print(Run(recipe, workdir).train().table())
    return 0


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string(
        "recipe", None, f"A name ({', '.join(list_recipes())}), a .py file or a saved recipe.json."
    )
    flags.DEFINE_string("workdir", None, "Folder of the run; default runs/RECIPE-seedN.")
    flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
    flags.DEFINE_bool("print_recipe", False, "Print the resolved recipe and exit.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

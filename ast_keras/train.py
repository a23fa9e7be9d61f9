"""Trains a recipe: `python -m ast_keras.train --recipe esc50 --workdir DIR`.

The same command again goes on where a stopped run was. `--set group.field=value` changes single
settings, `--print_recipe` shows the result without training.
"""

from __future__ import annotations

import sys

from absl import app, flags

from ast_keras.command import run_command
from ast_keras.recipe import RecipeError, list_recipes, load_recipe, override

_RECIPE = flags.DEFINE_string(
    "recipe", None, f"A name ({', '.join(list_recipes())}), a .py file or a saved recipe.json."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/RECIPE-seedN.")
_SET = flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
_PRINT = flags.DEFINE_bool("print_recipe", False, "Print the resolved recipe and exit.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument; did you mean --set? Received: {argv[1]!r}")
    if _RECIPE.value is None:
        raise RecipeError(f"Say what to train: --recipe NAME, one of {', '.join(list_recipes())}")
    recipe = override(load_recipe(_RECIPE.value), _SET.value)
    if _PRINT.value:
        print(recipe.to_json(), end="")
        return 0
    # TensorFlow is imported only now: a mistyped setting should not wait for it.
    from ast_keras.run import Interrupted, Run

    workdir = _WORKDIR.value or f"runs/{recipe.name}-seed{recipe.seed}"
    try:
        result = Run(recipe, workdir).train()
    except Interrupted as stop:
        print(f"Stopped by {stop}; saved. The same command goes on from there.")
        return 128 + stop.signal_number
    print(result.table())
    return 0


def run() -> None:
    """Runs the command; also what the installed program calls."""
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

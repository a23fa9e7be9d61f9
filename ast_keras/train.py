"""Trains a recipe: `python -m ast_keras.train --recipe esc50 --workdir DIR`.

The same command again goes on where a stopped run was. `--set group.field=value` changes single
settings, `--print_recipe` shows the result without training. `--all_folds` trains on every fold of
data that has folds, each in DIR/fold_N, and reports mean and spread; `--folds 1,3` on some.
"""

from __future__ import annotations

from absl import app, flags

from ast_keras.commands.runner import exit_process, run_command
from ast_keras.errors import RecipeError
from ast_keras.recipe import list_recipes, load_recipe, override


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument; did you mean --set? Received: {argv[1]!r}")
    if flags.FLAGS.recipe is None:
        raise RecipeError(f"Say what to train: --recipe NAME, one of {', '.join(list_recipes())}")
    recipe = override(load_recipe(flags.FLAGS.recipe), flags.FLAGS["set"].value)
    if flags.FLAGS.print_recipe:
        print(recipe.to_json(), end="")
        return 0
    folds = _folds()
    workdir = flags.FLAGS.workdir or f"runs/{recipe.name}-seed{recipe.seed}"
    # TensorFlow is imported only now: a mistyped setting should not wait for it.
    if flags.FLAGS.all_folds or folds:
        from ast_keras.training.folds import run_folds

        workdir = flags.FLAGS.workdir or f"{workdir}-folds"
        print(run_folds(recipe, workdir, folds).table())
    else:
        from ast_keras.training.run import Run

        print(Run(recipe, workdir).train().table())
    return 0


def _folds() -> list[int] | None:
    """Returns the folds of --folds; None without it."""
    texts = flags.FLAGS.folds
    if (texts or flags.FLAGS.all_folds) and any(
        setting.startswith("data.fold=") for setting in flags.FLAGS["set"].value
    ):
        raise RecipeError("Set data.fold, or train --all_folds or --folds, but not both.")
    if not texts:
        return None
    if not all(text.strip().isdecimal() for text in texts):
        raise RecipeError(f"Folds are numbers, as 1,3. Received: --folds={','.join(texts)}")
    return [int(text) for text in texts]


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string(
        "recipe", None, f"A name ({', '.join(list_recipes())}), a .py file or a saved recipe.json."
    )
    flags.DEFINE_string("workdir", None, "Folder of the run; default runs/RECIPE-seedN.")
    flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
    flags.DEFINE_bool("print_recipe", False, "Print the resolved recipe and exit.")
    flags.DEFINE_bool("all_folds", False, "Train on every fold of the data, in WORKDIR/fold_N.")
    flags.DEFINE_list("folds", None, "Train on these folds only, as 1,3.")
    app.run(lambda argv: exit_process(run_command(main, argv)))


if __name__ == "__main__":
    run()

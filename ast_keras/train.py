"""Trains a recipe: `python -m ast_keras.train --recipe esc50 --workdir DIR`.

The same command resumes a stopped run. `--set group.field=value` changes single settings,
`--print_recipe` prints the resulting recipe, and `--list_settings` describes every setting.
`--all_folds` trains on every fold of data that has folds, each in WORKDIR/fold_N, and reports mean
and standard deviation; `--folds 1,3` trains on some of them.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, settings_flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError
from ast_keras.recipe import list_recipes, load_recipe, override
from ast_keras.recipe.fields import describe_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command."""

    usage = "python -m ast_keras.train --recipe NAME [--workdir DIR] [--set group.field=value]"
    recipe: str = flag(
        flags.DEFINE_string, None,
        f"A name ({', '.join(list_recipes())}), a Python file or a saved recipe.json.",
        required=True, hint=f"one of {', '.join(list_recipes())}, or a file",
    )  # fmt: skip
    workdir: str | None = flag(
        flags.DEFINE_string, None, "Folder of the run. Default: runs/RECIPE-seedN."
    )
    settings: tuple[str, ...] = settings_flag()
    print_recipe: bool = flag(flags.DEFINE_bool, False, "Print the recipe and exit.")
    list_settings: bool = flag(
        flags.DEFINE_bool, False, "Print every setting with its value and description, and exit."
    )
    all_folds: bool = flag(
        flags.DEFINE_bool, False, "Train on every fold of the data, each in WORKDIR/fold_N."
    )
    folds: tuple[str, ...] | None = flag(
        flags.DEFINE_list, None, "Train on these folds only, such as 1,3."
    )


def main(options: Options) -> int:
    """Trains one run or several folds; returns the exit status."""
    recipe = override(load_recipe(options.recipe), options.settings)
    if options.print_recipe:
        print(recipe.to_json(), end="")
        return 0
    if options.list_settings:
        print(describe_settings(recipe))
        return 0
    folds = _fold_numbers(options)
    workdir = options.workdir or f"runs/{recipe.name}-seed{recipe.seed}"
    # TensorFlow is imported only now: a mistyped setting must not wait for it.
    if options.all_folds or folds:
        from ast_keras.training.folds import run_folds

        print(run_folds(recipe, options.workdir or f"{workdir}-folds", folds).table())
    else:
        from ast_keras.training.run import Run

        print(Run.prepare(recipe, workdir).train().table())
    return 0


def _fold_numbers(options: Options) -> list[int] | None:
    """Returns the folds of --folds; None without it."""
    texts = options.folds
    sets_fold = any(setting.startswith("data.fold=") for setting in options.settings)
    if (texts or options.all_folds) and sets_fold:
        raise CommandError(
            "Set data.fold, or train with --all_folds or --folds, but not both. "
            f"Received: --set {' --set '.join(options.settings)}"
        )
    if not texts:
        return None
    if not all(text.strip().isdecimal() for text in texts):
        raise CommandError(f"Folds are numbers, such as 1,3. Received: --folds={','.join(texts)}")
    return [int(text) for text in texts]


def run() -> None:
    """Runs the command with the process's arguments."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

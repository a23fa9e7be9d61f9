"""Scores trained models: `python -m ast_keras.evaluate --workdir DIR`.

Prints accuracy, mAP, AUC and d', for all classes and for each class, on any split of the run's
data. `--model` scores another model; `--recipe` with `--set` uses other data. Several `--model` are
scored one by one and together, by the mean of their probabilities; all must have the same sample
rate. A published ensemble is named like a model: `--model ensemble_m`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, settings_flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError
from ast_keras.files import write_json
from ast_keras.presets.saved_paths import similar_path
from ast_keras.recipe import Recipe, load_recipe, override


def _require_model_and_data(flag_values: flags.FlagValues) -> None:
    def satisfied(values: dict[str, object]) -> bool:
        return bool(values["workdir"] or (values["recipe"] and values["model"]))

    flags.register_multi_flags_validator(
        ["workdir", "recipe", "model"],
        satisfied,
        "Give --workdir DIR, or --model DIR and --recipe NAME.",
        flag_values,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command."""

    usage = "python -m ast_keras.evaluate --workdir DIR | --model DIR --recipe NAME"
    rules = (_require_model_and_data,)
    workdir: str | None = flag(
        flags.DEFINE_string, None, "Work directory of a run, which gives recipe and model."
    )
    recipe: str | None = flag(
        flags.DEFINE_string, None, "Recipe that names the data. Default: the recipe of the run."
    )
    model: tuple[str, ...] = flag(
        flags.DEFINE_multi_string, (),
        "Work directory of a run, folder or .keras file of a saved model, or name of a preset or "
        "ensemble; repeat it for the mean of several models. Default: WORKDIR/model.",
    )  # fmt: skip
    split: str = flag(flags.DEFINE_string, "test", "Split of the data.")
    settings: tuple[str, ...] = settings_flag()
    output: str | None = flag(
        flags.DEFINE_string, None, "JSON file to which the scores are written as well."
    )


def main(options: Options) -> int:
    """Prints the scores of one or several models and returns the exit status."""
    recipe, names = _recipe_and_models(options)
    from ast_keras.evaluation.ensemble import evaluate_models, member_names, with_model_labels
    from ast_keras.reports import tables
    from ast_keras.training import build

    names = member_names(names)
    dataset = with_model_labels(names[0], build.make_dataset(recipe))
    for remark in dataset.remarks():
        print(remark, file=sys.stderr)
    pipeline = build.make_pipeline(recipe, dataset, options.split)
    members, evaluation = evaluate_models(
        names, pipeline, dataset, log=lambda line: print(line, file=sys.stderr)
    )
    summaries = [(member.name, member.evaluation.summary()) for member in members]
    title = names[0] if len(names) == 1 else f"mean of {len(names)} models"
    print(f"{title} on {dataset.name}, {options.split}: {evaluation.num_examples} examples\n")
    print(tables.class_table(evaluation, dataset.labels))
    rows = [*summaries, (title, evaluation.summary())]
    print("\n" + tables.score_table(rows if len(names) > 1 else [("all classes", rows[-1][1])]))
    if options.output:
        result = {
            "scores": evaluation.summary(),
            "per_class": tables.per_class(evaluation, dataset.labels),
            "models": [{"model": name, "scores": scores} for name, scores in summaries],
        }
        write_json(options.output, result)
    return 0


def _recipe_and_models(options: Options) -> tuple[Recipe, list[str]]:
    workdir = pathlib.Path(options.workdir or "").expanduser()
    recipe = load_recipe(options.recipe or _recipe_of_run(workdir))
    return override(recipe, options.settings), list(options.model) or [str(workdir / "model")]


def _recipe_of_run(workdir: pathlib.Path) -> pathlib.Path:
    recipe = workdir / "recipe.json"
    if recipe.is_file():
        return recipe
    if (workdir.parent / "recipe.json").is_file():
        hint = f"Give {workdir.parent}. "
    elif folds := sorted(path.parent.name for path in workdir.glob("fold_*/recipe.json")):
        hint = f"Give one of its folds, such as {workdir / folds[0]}. "
    else:
        hint = similar_path(workdir) if not workdir.exists() else ""
    raise CommandError(
        f"--workdir is the folder of a run, which holds recipe.json. {hint}Received: {workdir}"
    )


def run() -> None:
    """Runs the command line; also the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

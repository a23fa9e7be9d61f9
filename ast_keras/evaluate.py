"""Scores trained models: `python -m ast_keras.evaluate --workdir DIR`.

Accuracy, mAP, AUC and d', overall and for each class, on any split of the run's data. `--model`
takes another model, `--recipe` with `--set` other data. Several `--model` are scored one by one
and together, by the mean of their probabilities; all must hear the same sample rate. A published
ensemble is named like a model: `--model ensemble_m`.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import RecipeError
from ast_keras.files import write_json
from ast_keras.recipe import load_recipe, override


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument. Received: {argv[1]!r}")
    recipe, names = _recipe_and_models()
    from ast_keras.evaluation.ensemble import evaluate_models, member_names
    from ast_keras.reports import tables
    from ast_keras.training import build

    names = member_names(names)
    dataset = build.make_dataset(recipe)
    pipeline = build.make_pipeline(recipe, dataset, flags.FLAGS.split)
    members, evaluation = evaluate_models(names, pipeline, dataset)
    summaries = [(member.name, member.evaluation.summary()) for member in members]
    together = names[0] if len(names) == 1 else f"mean of {len(names)} models"
    rows = [("all classes", evaluation.summary())]
    if len(names) > 1:
        rows = [*summaries, (together, evaluation.summary())]
    examples = f"{flags.FLAGS.split}: {evaluation.num_examples} examples"
    print(f"{together} on {dataset.name}, {examples}\n")
    print(tables.class_table(evaluation, dataset.labels))
    print("\n" + tables.score_table(rows))
    if flags.FLAGS.output:
        result = {
            "scores": evaluation.summary(),
            "per_class": tables.per_class(evaluation, dataset.labels),
            "models": [{"model": name, "scores": scores} for name, scores in summaries],
        }
        write_json(flags.FLAGS.output, result)
    return 0


def _recipe_and_models():
    if flags.FLAGS.workdir is None and (flags.FLAGS.recipe is None or not flags.FLAGS.model):
        raise RecipeError("Say what to evaluate: --workdir DIR, or --model DIR with --recipe NAME")
    source = flags.FLAGS.recipe
    if source is None:
        source = str(pathlib.Path(flags.FLAGS.workdir) / "recipe.json")
    names = flags.FLAGS.model or [str(pathlib.Path(flags.FLAGS.workdir) / "model")]
    return override(load_recipe(source), flags.FLAGS["set"].value), names


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("workdir", None, "Folder of a run: gives recipe and model.")
    flags.DEFINE_string("recipe", None, "Recipe that names the data, instead of a run's.")
    flags.DEFINE_multi_string(
        "model", [], "Folder of a model, or a preset's or ensemble's name; repeatable, for the "
        "mean of several. Default: WORKDIR/model.",
    )  # fmt: skip
    flags.DEFINE_string("split", "test", "Which part of the data.")
    flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
    flags.DEFINE_string("output", None, "Also write the scores to this JSON file.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

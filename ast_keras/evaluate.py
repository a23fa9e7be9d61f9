"""Scores a trained model: `python -m ast_keras.evaluate --workdir DIR`.

Accuracy, mAP, AUC and d', overall and for each class, on any split of the run's data. `--model`
takes another model, `--recipe` with `--set` other data.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags

from ast_keras.command import run_command
from ast_keras.files import write_json
from ast_keras.recipe import RecipeError, load_recipe, override


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument. Received: {argv[1]!r}")
    recipe, folder = _recipe_and_model()
    from ast_keras import assembly, report
    from ast_keras.presets import from_preset
    from ast_keras.trainer import evaluate

    model = from_preset(folder)
    dataset = assembly.make_dataset(recipe)
    _require_fit(model, recipe, dataset, folder)
    pipeline = assembly.make_pipeline(recipe, dataset, flags.FLAGS.split)
    evaluation = evaluate(model, pipeline, dataset.multi_label)
    print(f"{folder} on {dataset.name}, {flags.FLAGS.split}: {evaluation.num_examples} examples\n")
    print(report.class_table(evaluation, dataset.labels))
    print("\n" + report.score_table([("all classes", evaluation.summary())]))
    if flags.FLAGS.output:
        rows = report.per_class(evaluation, dataset.labels)
        write_json(flags.FLAGS.output, {"scores": evaluation.summary(), "per_class": rows})
    return 0


def _recipe_and_model():
    if flags.FLAGS.workdir is None and (flags.FLAGS.recipe is None or flags.FLAGS.model is None):
        raise RecipeError("Say what to evaluate: --workdir DIR, or --model DIR with --recipe NAME")
    source = flags.FLAGS.recipe
    if source is None:
        source = str(pathlib.Path(flags.FLAGS.workdir) / "recipe.json")
    folder = flags.FLAGS.model or pathlib.Path(flags.FLAGS.workdir) / "model"
    return override(load_recipe(source), flags.FLAGS["set"].value), folder


def _require_fit(model, recipe, dataset, folder):
    if model.frontend is None:
        raise RecipeError(f"This model takes spectrograms, not sound. Received: {folder}")
    if model.frontend.sample_rate != recipe.frontend.sample_rate:
        raise RecipeError(
            f"The model hears {model.frontend.sample_rate} Hz: set frontend.sample_rate to that. "
            f"Received: frontend.sample_rate={recipe.frontend.sample_rate}"
        )
    ours, theirs = model.labels, dataset.labels
    if ours is not None and ours != theirs:
        raise RecipeError(
            "The model's classes must be the data's, in the same order. Received: "
            f"{folder} with {', '.join(ours.names[:3])}, ... ({len(ours)}), "
            f"data with {', '.join(theirs.names[:3])}, ... ({len(theirs)})"
        )


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("workdir", None, "Folder of a run: gives recipe and model.")
    flags.DEFINE_string("recipe", None, "Recipe that names the data, instead of a run's.")
    flags.DEFINE_string("model", None, "Folder of a model; default WORKDIR/model.")
    flags.DEFINE_string("split", "test", "Which part of the data.")
    flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
    flags.DEFINE_string("output", None, "Also write the scores to this JSON file.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

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

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run: gives recipe and model.")
_RECIPE = flags.DEFINE_string("recipe", None, "Recipe that names the data, instead of a run's.")
_MODEL = flags.DEFINE_string("model", None, "Folder of a model; default WORKDIR/model.")
_SPLIT = flags.DEFINE_string("split", "test", "Which part of the data.")
_SET = flags.DEFINE_multi_string("set", [], "group.field=value, repeatable.")
_OUTPUT = flags.DEFINE_string("output", None, "Also write the scores to this JSON file.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise RecipeError(f"Unexpected argument. Received: {argv[1]!r}")
    recipe, folder = _recipe_and_model()
    from ast_keras import assembly, report
    from ast_keras.presets import from_preset
    from ast_keras.trainer import evaluate

    model = from_preset(folder)
    dataset = assembly.make_dataset(recipe)
    _require_same_labels(model.labels, dataset.labels, folder)
    pipeline = assembly.make_pipeline(recipe, dataset, _SPLIT.value)
    evaluation = evaluate(model, pipeline, dataset.multi_label)
    print(f"{folder} on {dataset.name}, {_SPLIT.value}: {evaluation.num_examples} examples\n")
    print(report.class_table(evaluation, dataset.labels))
    print("\n" + report.score_table([("all classes", evaluation.summary())]))
    if _OUTPUT.value:
        rows = report.per_class(evaluation, dataset.labels)
        write_json(_OUTPUT.value, {"scores": evaluation.summary(), "per_class": rows})
    return 0


def _recipe_and_model():
    if _WORKDIR.value is None and (_RECIPE.value is None or _MODEL.value is None):
        raise RecipeError("Say what to evaluate: --workdir DIR, or --model DIR with --recipe NAME")
    source = _RECIPE.value
    if source is None:
        source = str(pathlib.Path(_WORKDIR.value) / "recipe.json")
    folder = _MODEL.value or pathlib.Path(_WORKDIR.value) / "model"
    return override(load_recipe(source), _SET.value), folder


def _require_same_labels(ours, theirs, folder):
    if ours is not None and ours != theirs:
        raise RecipeError(
            "The model's classes must be the data's, in the same order. Received: "
            f"{folder} with {', '.join(ours.names[:3])}, ... ({len(ours)}), "
            f"data with {', '.join(theirs.names[:3])}, ... ({len(theirs)})"
        )


def run() -> None:
    """Runs the command; also what the installed program calls."""
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

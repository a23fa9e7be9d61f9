"""Scores trained models: `python -m ast_keras.evaluate --workdir DIR`.

Prints accuracy, mAP, AUC and d', for all classes and for each class, on any split of the run's
data. `--model` scores another model; `--recipe` with `--set` uses other data. Several `--model` are
scored one by one and together, by the mean of their probabilities; all must have the same sample
rate. A published ensemble is named like a model: `--model ensemble_m`.

`--predictions FILE.csv` writes the scores of every sound. `--split validation --save_thresholds`
stores for each class the threshold with the highest F1 with the model: `predict` then reports the
classes that reach theirs, and F1 on another split is computed with them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, requires, settings_flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError
from ast_keras.evaluation.metrics import Evaluation, evaluate_predictions
from ast_keras.files import write_json
from ast_keras.labels import LabelSet
from ast_keras.presets.saved_paths import is_saved_model, saved_model_path, similar_path
from ast_keras.progress import print_line
from ast_keras.recipe import Recipe, load_recipe, override

if TYPE_CHECKING:
    from ast_keras.evaluation.ensemble import Member


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
    rules = (_require_model_and_data, requires("save_thresholds", "split"))
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
    split: str | None = flag(flags.DEFINE_string, None, "Split of the data. Default: test.")
    settings: tuple[str, ...] = settings_flag()
    output: str | None = flag(
        flags.DEFINE_string, None, "JSON file to which the scores are written as well."
    )
    predictions: str | None = flag(
        flags.DEFINE_string, None, "CSV file for labels and scores of every sound."
    )
    save_thresholds: bool = flag(
        flags.DEFINE_bool, False,
        "Store the thresholds with the highest F1 on --split with the model.",
    )  # fmt: skip


def main(options: Options) -> int:
    """Prints the scores of one or several models and returns the exit status."""
    recipe, names = _recipe_and_models(options)
    _check_outputs(options, names)
    from ast_keras.evaluation.ensemble import evaluate_models, member_names, with_model_labels
    from ast_keras.reports import tables
    from ast_keras.reports.predictions import write_predictions
    from ast_keras.training import build

    names, split = member_names(names), options.split or "test"
    dataset = with_model_labels(names[0], build.make_dataset(recipe))
    for remark in dataset.remarks():
        print(remark, file=sys.stderr)
    pipeline = build.make_pipeline(recipe, dataset, split)
    found = evaluate_models(names, pipeline, dataset, log=lambda line: print(line, file=sys.stderr))
    evaluation, chosen_on = found.evaluation, split
    if options.save_thresholds:
        evaluation = evaluate_predictions(found.scores, found.targets, dataset.multi_label)
    elif len(names) == 1 and found.members[0].has_thresholds:
        chosen_on = None
    summaries = [(member.name, member.evaluation.summary()) for member in found.members]
    title = names[0] if len(names) == 1 else f"mean of {len(names)} models"
    print(f"{title} on {dataset.name}, {split}: {evaluation.num_examples} examples\n")
    print(tables.class_table(evaluation, dataset.labels))
    print(_describe_thresholds(chosen_on, dataset.multi_label))
    rows = [*summaries, (title, evaluation.summary())]
    print("\n" + tables.score_table(rows if len(names) > 1 else [("all classes", rows[-1][1])]))
    if options.output:
        result = {
            "scores": evaluation.summary(),
            "per_class": tables.per_class(evaluation, dataset.labels),
            "models": [{"model": name, "scores": scores} for name, scores in summaries],
        }
        write_json(options.output, result)
    if options.predictions:
        examples = dataset.split(split)
        write_predictions(
            options.predictions, examples, dataset.labels, found.examples, found.scores, evaluation
        )
    if options.save_thresholds:
        _save_thresholds(found.members[0], evaluation, dataset.labels, split)
    return 0


def _check_outputs(options: Options, names: list[str]) -> None:
    """Raises before the evaluation if its results could not be written."""
    if options.predictions and not options.predictions.lower().endswith(".csv"):
        raise CommandError(
            f"--predictions writes a CSV file: name it so. Received: {options.predictions}"
        )
    if options.save_thresholds and len(names) > 1:
        raise CommandError(
            "Thresholds belong to one model: name one --model with --save_thresholds. "
            f"Received: {' and '.join(names)}"
        )
    if options.save_thresholds and not is_saved_model(pathlib.Path(saved_model_path(names[0]))):
        raise CommandError(
            "Thresholds are stored in a saved model: save a copy first, for example with "
            f"python -m ast_keras.convert --source {names[0]} --output DIR. Received: {names[0]}"
        )


def _describe_thresholds(chosen_on: str | None, multi_label: bool) -> str:
    if chosen_on is None:
        return "thresholds: those stored with the model"
    optimistic = ", which is optimistic for precision, recall and F1" if multi_label else ""
    return f"thresholds: those with the highest F1 on {chosen_on}{optimistic}"


def _save_thresholds(model: Member, evaluation: Evaluation, labels: LabelSet, split: str) -> None:
    from ast_keras.presets.saving import save_thresholds

    unknown = np.isnan(evaluation.thresholds)
    thresholds = np.empty(len(unknown))
    thresholds[list(model.classes)] = np.where(unknown, 0.5, evaluation.thresholds)
    save_thresholds(model.name, thresholds.tolist())
    print(f"\nthresholds stored: {model.name}")
    if unknown.any():
        names = ", ".join(np.array(labels.names)[unknown])
        print(f"0.5 for the classes without an example: {names}")
    if split != "validation":
        print_line(
            f"warning: thresholds that are chosen on {split} fit it too well: prefer a split that "
            "is used neither for training nor for testing"
        )


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

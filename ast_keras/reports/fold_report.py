"""What a recipe reaches over the folds of its data: each fold, mean and spread."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ast_keras.errors import ArgumentError
from ast_keras.files import write_json, write_text
from ast_keras.recipe import Recipe, load_recipe
from ast_keras.reports import figures, html
from ast_keras.reports.run_report import recipe_section
from ast_keras.reports.tables import SCORES

Row = Mapping[str, Any]

_CHOSEN_ON = (
    "the epoch whose mean over the folds is best, as the authors choose it: on the test folds"
)
_SPREAD = "standard deviation over the folds (n - 1)"


@dataclasses.dataclass(frozen=True)
class Rule:
    """The scores of every fold under one rule of which epoch counts.

    Args:
      name: Of the rule.
      epoch: Which one it takes, or "first-last" of averaged weights.
      folds: The scores of each fold, by its number.
    """

    name: str
    epoch: int | str
    folds: Mapping[int, Row]

    def mean(self, score: str) -> float:
        """Returns the mean of a score over the folds."""
        return statistics.fmean(row[score] for row in self.folds.values())

    def spread(self, score: str) -> float:
        """Returns the standard deviation over the folds (n - 1), NaN for a single one."""
        values = [float(row[score]) for row in self.folds.values()]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        return statistics.stdev(values)


@dataclasses.dataclass(frozen=True)
class FoldScores:
    """The scores of the folds that have been trained to the end.

    Args:
      workdir: The folder with `fold_1`, `fold_2` and so on.
      recipe: Of the first of these folds.
      histories: The rows of the epochs of each fold, by its number.
      rules: The scores under each rule of which epoch counts.
    """

    workdir: pathlib.Path
    recipe: Recipe
    histories: Mapping[int, Sequence[Row]]
    rules: tuple[Rule, ...]

    def table(self) -> str:
        """Returns the folds, mean and spread as a table to print, with what the rows mean."""
        metric = self.recipe.train.metric
        heads = ["epoch", *(f"fold {n}" for n in self.histories), "mean", "spread"]
        lines = [f"{SCORES[metric]:<16}" + "".join(f"{head:>9}" for head in heads)]
        for rule in self.rules:
            values = [*(rule.folds[n][metric] for n in self.histories)]
            values += [rule.mean(metric), rule.spread(metric)]
            cells = "".join(f"{'-' if math.isnan(v) else f'{v:.4f}':>9}" for v in values)
            lines.append(f"{rule.name:<16}{rule.epoch:>9}{cells}")
        lines += [f"best mean: {_CHOSEN_ON}", f"spread: {_SPREAD}"]
        if (self.workdir / "report.html").is_file():
            lines.append(f"report: {self.workdir / 'report.html'}")
        return "\n".join(lines)


def read_fold_scores(workdir: str | os.PathLike[str]) -> FoldScores:
    """Reads the folds that have been trained to the end in WORKDIR/fold_N.

    Raises:
      ValueError: If there is none.
    """
    histories, averages, recipe = {}, {}, None
    for number, folder in fold_folders(workdir).items():
        if not (folder / "evaluation.json").is_file():
            continue
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        recipe = recipe or load_recipe(folder / "recipe.json")
        histories[number] = _history(folder / "epochs.csv")
        if report.get("average"):
            averages[number] = _numbers(report["average"])
    if recipe is None:
        raise ArgumentError(f"No fold has been trained to the end. Received: {workdir}")
    rules = _rules(histories, recipe.train.metric)
    if averages.keys() == histories.keys():
        rules.append(Rule("averaged", next(iter(averages.values()))["epoch"], averages))
    return FoldScores(pathlib.Path(workdir), recipe, histories, tuple(rules))


def fold_folders(workdir: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the folders WORKDIR/fold_N that are there, by number.

    Example:

    >>> fold_folders("no/such/folder")
    {}
    """
    found = pathlib.Path(workdir).glob("fold_*")
    folders = {int(p.name[5:]): p for p in found if p.name[5:].isdecimal()}
    return dict(sorted(folders.items()))


def _rules(histories: Mapping[int, Sequence[Row]], metric: str) -> list[Rule]:
    epochs = range(len(next(iter(histories.values()))))

    def mean(epoch: int) -> float:
        value = statistics.fmean(history[epoch][metric] for history in histories.values())
        return -math.inf if math.isnan(value) else value

    def rule(name: str, epoch: int) -> Rule:
        return Rule(name, epoch + 1, {n: history[epoch] for n, history in histories.items()})

    return [rule("best mean", max(epochs, key=mean)), rule("last epoch", epochs[-1])]


def _history(path: pathlib.Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {**{k: float(v) for k, v in row.items()}, "epoch": int(row["epoch"])}
            for row in csv.DictReader(file)
        ]


def _numbers(row: Row) -> Row:
    return {key: math.nan if value is None else value for key, value in row.items()}


def write_fold_scores(scores: FoldScores) -> None:
    """Writes folds.json and folds.csv, each whole or not at all."""
    histories, metric = scores.histories, scores.recipe.train.metric
    rules = [
        {
            "rule": rule.name,
            "epoch": rule.epoch,
            "chosen_on": _CHOSEN_ON if rule.name == "best mean" else None,
            "mean": {score: rule.mean(score) for score in SCORES},
            "spread": {score: rule.spread(score) for score in SCORES},
            "folds": {str(n): {s: row[s] for s in SCORES} for n, row in rule.folds.items()},
        }
        for rule in scores.rules
    ]
    means = [
        {"epoch": rows[0]["epoch"], metric: statistics.fmean(row[metric] for row in rows)}
        for rows in zip(*histories.values(), strict=True)
    ]
    result = {"metric": metric, "folds": list(histories), "rules": rules, "mean_by_epoch": means}
    write_json(scores.workdir / "folds.json", result)
    write_text(scores.workdir / "folds.csv", _csv(scores))


def write_fold_report(scores: FoldScores) -> None:
    """Writes folds.png and report.html, each whole or not at all."""
    metric = scores.recipe.train.metric
    figures.draw_fold_curves(
        {str(n): history for n, history in scores.histories.items()},
        metric,
        scores.workdir / "folds.png",
        marked_epoch=float(scores.rules[0].epoch),
        title=f"{scores.recipe.name}: {SCORES[metric]} on the test fold",
    )
    write_text(scores.workdir / "report.html", _page(scores))


def _csv(scores: FoldScores) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rule", "epoch", "fold", *SCORES])
    for rule in scores.rules:
        for number, row in rule.folds.items():
            writer.writerow([rule.name, rule.epoch, number, *(row[s] for s in SCORES)])
        for name, value in (("mean", rule.mean), ("spread", rule.spread)):
            writer.writerow([rule.name, rule.epoch, name, *map(value, SCORES)])
    return text.getvalue()


def _page(scores: FoldScores) -> str:
    recipe, metric, numbers = scores.recipe, scores.recipe.train.metric, list(scores.histories)
    headline = [
        (f"{SCORES[metric]}, {rule.name} ({rule.epoch})", f"{rule.mean(metric):.4f} \u00b1 "
         f"{rule.spread(metric):.4f}")
        for rule in scores.rules
    ]  # fmt: skip
    columns = ["", "epoch", *(f"fold {n}" for n in numbers), "mean", "spread"]
    curves = (scores.workdir / "folds.png").read_bytes()
    environment = scores.workdir / f"fold_{numbers[0]}" / "environment.json"
    links = [(f"fold_{n}/report.html", f"Fold {n}") for n in numbers]
    return html.page(
        f"{recipe.name}, seed {recipe.seed}: folds {', '.join(map(str, numbers))}",
        [
            html.figures(headline),
            html.paragraph(f"Best mean: {_CHOSEN_ON}. Spread: {_SPREAD}."),
            *(
                html.section(title, html.table(columns, _rows(scores, score)))
                for score, title in SCORES.items()
            ),
            html.section("Training", html.picture(curves, f"{metric} by epoch, fold by fold")),
            html.section("Classes over all folds", _classes(scores)),
            html.section("Reports of the folds", html.links(links)),
            recipe_section(recipe, json.loads(environment.read_text(encoding="utf-8"))),
            html.section("Repeat", html.code(_command(scores))),
        ],
    )


def _rows(scores: FoldScores, score: str) -> list[list[html.Cell]]:
    return [
        [
            rule.name,
            str(rule.epoch),
            *(rule.folds[number][score] for number in scores.histories),
            rule.mean(score),
            rule.spread(score),
        ]
        for rule in scores.rules
    ]


def _classes(scores: FoldScores) -> str:
    """Returns how many examples of each class its fold's chosen model recognised."""
    right: dict[str, float] = {}
    examples: dict[str, int] = {}
    for number in scores.histories:
        file = scores.workdir / f"fold_{number}" / "evaluation.json"
        for row in json.loads(file.read_text(encoding="utf-8"))["per_class"]:
            if row.get("recall") is not None:
                label, count = row["label"], row["examples"]
                right[label] = right.get(label, 0) + row["recall"] * count
                examples[label] = examples.get(label, 0) + count
    return html.paragraph("Recognised by the model that each fold chose.") + html.table(
        ["class", "examples", "recall"],
        [(label, count, right[label] / count) for label, count in examples.items()],
        sortable=True,
        bars=["recall"],
    )


def _command(scores: FoldScores) -> str:
    recipe = scores.workdir / f"fold_{next(iter(scores.histories))}" / "recipe.json"
    folds = ",".join(map(str, scores.histories))
    return (
        f"python -m ast_keras.train --recipe {shlex.quote(str(recipe))} --folds {folds} "
        "--workdir NEW_FOLDER"
    )

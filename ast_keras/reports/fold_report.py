"""Scores over the folds of a data set: each fold, mean and spread, and their page."""

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
from ast_keras.reports.tables import SCORES, format_table

Row = Mapping[str, Any]

_CHOSEN_ON = "the epoch with the best mean over the test folds, which is how the authors choose it"
_SPREAD = "standard deviation over the folds (n - 1)"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Holds the scores of every fold under one rule of choosing the epoch.

    Args:
        name: Name of the rule.
        epoch: The chosen epoch; "first-last" for averaged weights, or if it differs between folds.
        folds: Scores of each fold, by its number.
    """

    name: str
    epoch: int | str
    folds: Mapping[int, Row]

    def mean(self, score: str) -> float:
        """Returns the mean of a score over the folds."""
        return statistics.fmean(row[score] for row in self.folds.values())

    def spread(self, score: str) -> float:
        """Returns the standard deviation over the folds (n - 1); NaN for a single fold."""
        values = [float(row[score]) for row in self.folds.values()]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        return statistics.stdev(values)

    def cells(self, score: str) -> list[html.Cell]:
        """Returns a row of a table: name, epoch, the score of each fold, mean and spread."""
        values = [row[score] for row in self.folds.values()]
        return [self.name, str(self.epoch), *values, self.mean(score), self.spread(score)]


@dataclasses.dataclass(frozen=True)
class FoldScores:
    """Holds the scores of the folds whose training is finished.

    Args:
        workdir: The folder with `fold_1`, `fold_2` and so on.
        recipe: Recipe of the first of these folds.
        histories: Rows of the epochs of each fold, by its number.
        rules: Scores under each rule of choosing the epoch.
    """

    workdir: pathlib.Path
    recipe: Recipe
    histories: Mapping[int, Sequence[Row]]
    rules: tuple[Rule, ...]

    def columns(self) -> list[str]:
        """Returns the headings of the columns that `Rule.cells` fills, after the first."""
        return ["epoch", *(f"fold {n}" for n in self.histories), "mean", "spread"]

    def table(self) -> str:
        """Returns folds, mean and spread as a text table, with an explanation of the rows."""
        metric = self.recipe.train.metric
        header = [SCORES[metric], *self.columns()]
        lines = [format_table([header, *(rule.cells(metric) for rule in self.rules)])]
        lines += [f"best mean: {_CHOSEN_ON}", f"spread: {_SPREAD}"]
        if (self.workdir / "report.html").is_file():
            lines.append(f"report: {self.workdir / 'report.html'}")
        return "\n".join(lines)


def read_fold_scores(workdir: str | os.PathLike[str]) -> FoldScores:
    """Reads the scores of all folds in WORKDIR/fold_N whose training is finished.

    Args:
        workdir: The folder with `fold_1`, `fold_2` and so on.

    Raises:
        ArgumentError: If no fold is finished.
    """
    histories, averages, recipe = {}, {}, None
    for number, folder in fold_folders(workdir).items():
        if not (folder / "evaluation.json").is_file():
            continue
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        history = _history(folder / "epochs.csv")
        if report["last_epoch"]["epoch"] != len(history):
            continue  # this fold was finished and goes on with more epochs
        recipe = recipe or load_recipe(folder / "recipe.json")
        histories[number] = history
        if report.get("average"):
            averages[number] = _numbers(report["average"])
    if recipe is None:
        raise ArgumentError(f"No fold has been trained to the end. Received: {workdir}")
    rules = _rules(histories, recipe.train.metric)
    if averages.keys() == histories.keys():
        rules.append(Rule("averaged", next(iter(averages.values()))["epoch"], averages))
    return FoldScores(pathlib.Path(workdir), recipe, histories, tuple(rules))


def fold_folders(workdir: str | os.PathLike[str]) -> dict[int, pathlib.Path]:
    """Returns the existing folders WORKDIR/fold_N, by number.

    Args:
        workdir: The folder that contains them.

    Example:

    >>> fold_folders("no/such/folder")
    {}
    """
    found = pathlib.Path(workdir).glob("fold_*")
    folders = {int(p.name[5:]): p for p in found if p.name[5:].isdecimal()}
    return dict(sorted(folders.items()))


def _rules(histories: Mapping[int, Sequence[Row]], metric: str) -> list[Rule]:
    # `train.patience` may end folds after different epochs.
    lengths = sorted(map(len, histories.values()))
    first, last = lengths[0], lengths[-1]

    def mean(epoch: int) -> float:
        value = statistics.fmean(history[epoch][metric] for history in histories.values())
        return -math.inf if math.isnan(value) else value

    best = max(range(first), key=mean)
    return [
        Rule("best mean", best + 1, {n: history[best] for n, history in histories.items()}),
        Rule(
            "last epoch",
            last if first == last else f"{first}-{last}",
            {n: history[-1] for n, history in histories.items()},
        ),
    ]


def _history(path: pathlib.Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {**{k: float(v) for k, v in row.items()}, "epoch": int(row["epoch"])}
            for row in csv.DictReader(file)
        ]


def _numbers(row: Row) -> Row:
    return {key: math.nan if value is None else value for key, value in row.items()}


def write_fold_scores(scores: FoldScores) -> None:
    """Writes `folds.json` and `folds.csv`; each file is replaced only when it is complete.

    Args:
        scores: The scores of the folds, from `read_fold_scores`.
    """
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
        for rows in zip(*histories.values(), strict=False)  # the epochs of all folds
    ]
    result = {"metric": metric, "folds": list(histories), "rules": rules, "mean_by_epoch": means}
    write_json(scores.workdir / "folds.json", result)
    write_text(scores.workdir / "folds.csv", _csv(scores))


def write_fold_report(scores: FoldScores) -> None:
    """Writes `folds.png` and `report.html`; each file is replaced only when it is complete.

    Args:
        scores: The scores of the folds, from `read_fold_scores`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
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
    environment = scores.workdir / f"fold_{numbers[0]}" / "environment.json"
    columns = ["", *scores.columns()]
    return html.render(
        "fold_report.html",
        title=f"{recipe.name}, seed {recipe.seed}: folds {', '.join(map(str, numbers))}",
        numbers=[
            (
                f"{SCORES[metric]}, {rule.name} ({rule.epoch})",
                f"{rule.mean(metric):.4f} \u00b1 {rule.spread(metric):.4f}",
            )
            for rule in scores.rules
        ],
        chosen_on=_CHOSEN_ON,
        spread=_SPREAD,
        tables={
            title: html.Table(columns, [rule.cells(score) for rule in scores.rules])
            for score, title in SCORES.items()
        },
        metric=metric,
        curves=(scores.workdir / "folds.png").read_bytes(),
        classes=_classes(scores),
        folds=numbers,
        recipe=recipe,
        environment=json.loads(environment.read_text(encoding="utf-8")),
        command=_command(scores),
    )


def _classes(scores: FoldScores) -> html.Table:
    """Returns the recall of each class over all folds, each with its fold's chosen model."""
    correct: dict[str, float] = {}
    examples: dict[str, int] = {}
    for number in scores.histories:
        file = scores.workdir / f"fold_{number}" / "evaluation.json"
        for row in json.loads(file.read_text(encoding="utf-8"))["per_class"]:
            if row.get("recall") is not None:
                label, count = row["label"], row["examples"]
                correct[label] = correct.get(label, 0) + row["recall"] * count
                examples[label] = examples.get(label, 0) + count
    rows = [(label, count, correct[label] / count) for label, count in examples.items()]
    return html.Table(["class", "examples", "recall"], rows, sortable=True, bars=["recall"])


def _command(scores: FoldScores) -> str:
    recipe = scores.workdir / f"fold_{next(iter(scores.histories))}" / "recipe.json"
    folds = ",".join(map(str, scores.histories))
    return (
        f"python -m ast_keras.train --recipe {shlex.quote(str(recipe))} --folds {folds} "
        "--workdir NEW_FOLDER"
    )

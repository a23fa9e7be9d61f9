"""The page of a run, `report.html`: one file with everything in it, for a browser without a net."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ast_keras.evaluation.metrics import Evaluation
from ast_keras.files import write_text
from ast_keras.labels import LabelSet
from ast_keras.recipe import Recipe
from ast_keras.reports import html
from ast_keras.reports.tables import SCORES, per_class
from ast_keras.reports.worst_mistakes import Mistake

NUM_MISTAKES = 12

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class RunReport:
    """What the page of a run shows.

    Args:
      recipe: Of the run, resolved.
      environment: Versions and devices.
      data: The data set in a line.
      split: Which was scored in the end.
      chosen: Which model was scored, in words.
      evaluation: The scores.
      labels: Names of the classes.
      rows: Named summaries: the best epoch, the last one, and so on.
      history: A row for each epoch.
      mistakes: The worst ones.
      curves: PNG of the history.
      confusion: PNG of the confusion matrix; None where an example may have several labels.
      frame_step_seconds: Between two frames of the mistakes' spectrograms.
      mel_range_hz: Lower and upper edge of their filterbank.
      workdir: Of the run, for the commands.
    """

    recipe: Recipe
    environment: Row
    data: str
    split: str
    chosen: str
    evaluation: Evaluation
    labels: LabelSet
    rows: Sequence[tuple[str, Row]]
    history: Sequence[Row]
    mistakes: Sequence[Mistake]
    curves: bytes
    confusion: bytes | None
    frame_step_seconds: float
    mel_range_hz: tuple[float, float]
    workdir: str


def write_run_report(report: RunReport, path: str | os.PathLike[str]) -> None:
    """Writes the page of a run, whole or not at all.

    Its size is bounded: `NUM_MISTAKES` sounds of 10 s at most, some 5 MB at 16 kHz.
    """
    write_text(path, html.page(f"{report.recipe.name}, seed {report.recipe.seed}", _parts(report)))


def _parts(report: RunReport) -> list[str]:
    evaluation = report.evaluation
    scores = evaluation.summary()
    headline = [(SCORES[name], f"{scores[name]:.4f}") for name in SCORES]
    return [
        html.paragraph(report.data),
        html.paragraph(f"Scores of {report.chosen}, on the {report.split} split:"),
        html.figures([*headline, (f"{report.split} examples", f"{evaluation.num_examples:,}")]),
        html.section("Training", score_rows(report.rows), *_training(report)),
        html.section("Classes", _classes(report)),
        _confusion(report),
        html.section("Worst mistakes", *_mistakes(report)),
        recipe_section(report.recipe, report.environment),
        _repeat(report),
    ]


def score_rows(rows: Sequence[tuple[str, Row]]) -> str:
    """Returns named summaries as a table; a row may say its epoch."""
    return html.table(
        ["", "epoch", *SCORES.values()],
        [(name, _epoch(row), *(row[score] for score in SCORES)) for name, row in rows],
    )


def _epoch(row: Row) -> str:
    return str(row.get("epoch", ""))


def _training(report: RunReport) -> list[str]:
    columns = list(report.history[0])
    rows = [[row[column] for column in columns] for row in report.history]
    # A rate of 1e-5 has no four digits behind the point.
    rate = columns.index("learning_rate")
    for row in rows:
        row[rate] = f"{row[rate]:.3g}"
    titles = [SCORES.get(column, column.replace("_", " ")) for column in columns]
    return [
        html.picture(report.curves, "Curves of loss, scores and learning rate by epoch"),
        html.folded("Every epoch as a table", html.table(titles, rows)),
    ]


def _classes(report: RunReport) -> str:
    rows = per_class(report.evaluation, report.labels)
    titles = {"average_precision": "AP", "auc": "AUC", "label": "class"}
    columns = [column for column in rows[0]]
    return html.table(
        [titles.get(column, column) for column in columns],
        [[row[column] for column in columns] for row in rows],  # type: ignore[misc]
        sortable=True,
        bars=["AP", "recall"],
    )


def _confusion(report: RunReport) -> str:
    if report.confusion is None:
        return ""
    words = "Confusion matrix: true classes in rows, predicted ones in columns"
    return html.section("Confusions", html.picture(report.confusion, words))


def _mistakes(report: RunReport) -> list[str]:
    several = report.evaluation.confusion_matrix is None
    if not report.mistakes:
        return [html.paragraph("None: every example was recognised.")]
    rule = (
        "The examples with the highest loss"
        if several
        else "The wrong answers that the model was surest of"
    )
    seen = "The spectrograms are what the model sees; padding follows the dashed line."
    articles = [_mistake(mistake, report, several) for mistake in report.mistakes]
    return [html.paragraph(f"{rule}, worst first, at most {NUM_MISTAKES}. {seen}"), *articles]


def _mistake(mistake: Mistake, report: RunReport, several: bool) -> str:
    name = os.path.basename(mistake.name)
    true = ", ".join(label for label, _ in mistake.labels) or "no label"
    if several:
        title = f"{true} (loss {mistake.badness:.3f})"
    else:
        title = f"{true}, heard as {mistake.guesses[0][0]} ({mistake.badness:.3f})"
    low, high = report.mel_range_hz
    return html.article(
        title,
        html.paragraph(f"True: {_scored(mistake.labels)}. Heard: {_scored(mistake.guesses)}."),
        html.spectrogram(
            mistake.log_mel,
            mistake.num_valid_frames,
            name=name,
            frame_step_seconds=report.frame_step_seconds,
            f_min_hz=low,
            f_max_hz=high,
        ),
        html.player(mistake.flac, name),
        html.paragraph(mistake.name),
    )


def _scored(labels: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} {score:.3f}" for label, score in labels) or "no label"


def recipe_section(recipe: Recipe, environment: Row) -> str:
    """Returns the recipe and the environment, each to be unfolded."""
    return html.section(
        "Recipe and environment",
        html.code("\n".join(f"{name}: {_plain(value)}" for name, value in environment.items())),
        html.folded("recipe.json", html.code(recipe.to_json())),
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _repeat(report: RunReport) -> str:
    recipe = shlex.quote(os.path.join(report.workdir, "recipe.json"))
    workdir = shlex.quote(report.workdir)
    return html.section(
        "Repeat",
        html.paragraph("The same run again, in a new folder; and this model's scores:"),
        html.code(
            f"python -m ast_keras.train --recipe {recipe} --workdir NEW_FOLDER\n"
            f"python -m ast_keras.evaluate --workdir {workdir} --split {report.split}\n"
        ),
    )

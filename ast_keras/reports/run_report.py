"""The page of a training run, `report.html`: one self-contained file."""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ast_keras.audio.encoding import flac_bytes
from ast_keras.evaluation.metrics import Evaluation
from ast_keras.files import write_text
from ast_keras.labels import LabelSet
from ast_keras.recipe import Recipe
from ast_keras.reports import figures, html
from ast_keras.reports.sound import Sound
from ast_keras.reports.tables import CLASS_COLUMNS, SCORES, per_class
from ast_keras.reports.worst_mistakes import Mistake

NUM_MISTAKES = 12
_MAX_SECONDS = 10.0  # of the sound of a mistake

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class RunReport:
    """Holds the content of the page of a run.

    Args:
        recipe: The resolved recipe of the run.
        environment: Versions and devices.
        data: One line that describes the data set.
        split: Name of the split that was scored.
        chosen: Description of the model that was scored.
        evaluation: Scores of the chosen model on the split.
        labels: Labels of the classes.
        rows: Named scores, for example of the best and of the last epoch.
        history: One row of losses and scores for each epoch.
        mistakes: The worst mistakes, worst first.
        curves: PNG of the learning curves.
        confusion: PNG of the confusion matrix; None if an example may have several labels.
        workdir: Work directory of the run, for the commands on the page.
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
    workdir: str


def write_run_report(report: RunReport, path: str | os.PathLike[str]) -> None:
    """Writes the page of a run; the file is replaced only when the page is complete.

    The page holds at most `NUM_MISTAKES` sounds of at most 10 s, about 7 MB at 16 kHz.

    Args:
        report: Content of the page.
        path: Path of the HTML file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    evaluation = report.evaluation
    summary = evaluation.summary()
    multi_label = evaluation.confusion_matrix is None
    page = html.render(
        "run_report.html",
        title=f"{report.recipe.name}, seed {report.recipe.seed}",
        report=report,
        numbers=[
            *((title, f"{summary[score]:.4f}") for score, title in SCORES.items()),
            (f"{report.split} examples", f"{evaluation.num_examples:,}"),
        ],
        scores=_score_rows(report.rows),
        epochs=_epochs(report.history),
        classes=_classes(report),
        multi_label=multi_label,
        limit=NUM_MISTAKES,
        mistakes=[_mistake(mistake, multi_label) for mistake in report.mistakes],
        recipe_path=shlex.quote(os.path.join(report.workdir, "recipe.json")),
        workdir=shlex.quote(report.workdir),
    )
    write_text(path, page)


def _score_rows(rows: Sequence[tuple[str, Row]]) -> html.Table:
    cells = [
        (name, str(row.get("epoch", "")), *(row[score] for score in SCORES)) for name, row in rows
    ]
    return html.Table(["", "epoch", *SCORES.values()], cells)


def _epochs(history: Sequence[Row]) -> html.Table:
    columns = list(history[0])
    rows = [
        # A learning rate such as 1e-5 would be 0.0000 with four decimals.
        [f"{row[c]:.3g}" if c == "learning_rate" else row[c] for c in columns]
        for row in history
    ]
    return html.Table([SCORES.get(c, c.replace("_", " ")) for c in columns], rows)


def _classes(report: RunReport) -> html.Table:
    classes: list[dict[str, Any]] = per_class(report.evaluation, report.labels)
    rows = [[row[column] for column in CLASS_COLUMNS] for row in classes]
    return html.Table(list(CLASS_COLUMNS.values()), rows, sortable=True, bars=["AP", "F1"])


def _mistake(mistake: Mistake, multi_label: bool) -> dict[str, Any]:
    """Returns what the template shows of a mistake."""
    sound = mistake.sound
    true = ", ".join(label for label, _ in mistake.labels) or "no label"
    if multi_label:
        title = f"{true} (loss {mistake.severity:.3f})"
    else:
        title = f"{true}, predicted as {mistake.predictions[0][0]} ({mistake.severity:.3f})"
    file = os.path.basename(sound.name)
    return {
        "title": title,
        "labels": mistake.labels,
        "predictions": mistake.predictions,
        "spectrogram": _spectrogram(sound),
        "description": f"{file}: log-mel spectrogram of {sound.seconds:.2f} s of sound",
        "flac": flac_bytes(
            sound.waveform[: round(_MAX_SECONDS * sound.sample_rate)], sound.sample_rate
        ),
        "file": file,
        "name": sound.name,
    }


def _spectrogram(sound: Sound) -> bytes:
    stream = io.BytesIO()
    figures.draw_spectrogram(
        sound.log_mel,
        stream,
        sound.frame_step_seconds,
        title="",
        mel_range_hz=sound.mel_range_hz,
        num_valid_frames=sound.num_valid_frames,
    )
    return stream.getvalue()

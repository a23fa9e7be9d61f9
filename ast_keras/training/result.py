"""The end of a run: which model it hands over, how that scores, and the report."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ast_keras.audio.mel import num_frames, seconds_to_samples
from ast_keras.evaluation.averaging import average_models
from ast_keras.files import write_json
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.reports import figures
from ast_keras.reports.run_report import NUM_MISTAKES, RunReport, write_run_report
from ast_keras.reports.tables import per_class, score_table
from ast_keras.reports.worst_mistakes import describe_mistake, worst_mistakes
from ast_keras.training.build import make_pipeline
from ast_keras.training.kept import epoch_models

# Written in this order: a run with the first is finished, one that lacks the second writes it.
EVALUATION, REPORT = "evaluation.json", "report.html"

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run reports.

    Args:
      workdir: The folder of the run; `model/` in it is the chosen model.
      metric: What chooses the best epoch.
      final_model: Which model is chosen: "best", "last" or "average", as in the recipe.
      best: The row of the best epoch.
      last: The row of the last epoch.
      average: The scores of the averaged model on the validation split; None without one.
      test: Those of the chosen model on the test split; None where this was the validation split.
    """

    workdir: pathlib.Path
    metric: str
    final_model: str
    best: Row
    last: Row
    average: Row | None
    test: Row | None

    @property
    def chosen(self) -> Row:
        """The row of the chosen model."""
        rows = {"best": self.best, "last": self.last, "average": self.average}
        return rows[self.final_model] or {}

    def rows(self) -> list[tuple[str, Row]]:
        """Returns the scores by name, of all models that were scored."""
        names = {"best": "best epoch", "last": "last epoch", "average": "averaged"}
        rows = [(names["best"], self.best), (names["last"], self.last)]
        if self.average is not None:
            rows.append((names["average"], self.average))
        if self.test is not None:
            epoch = {"epoch": self.chosen["epoch"]}
            rows.append((f"test, {names[self.final_model]}", {**self.test, **epoch}))
        return rows

    def table(self) -> str:
        """Returns the scores as a table to print, and where the model and the report are."""
        lines = [score_table(self.rows()), f"model: {self.workdir / 'model'}"]
        if (self.workdir / REPORT).is_file():
            lines.append(f"report: {self.workdir / REPORT}")
        return "\n".join(lines)


def best_epoch(history, metric):
    """Returns the row of the epoch with the highest metric, the first of equals."""
    return max(history, key=lambda row: -math.inf if math.isnan(row[metric]) else row[metric])


def finished_result(run) -> Result | None:
    """Returns the result of a run whose end was reached before; None if anything is to be done."""
    if len(run.history) < run.recipe.train.num_epochs or not (run.workdir / REPORT).is_file():
        return None
    file = run.workdir / EVALUATION
    if not file.is_file():
        return None
    saved = json.loads(file.read_text(encoding="utf-8"))
    return _result(run, saved.get("average"), saved["test"])


def finish(run) -> Result:
    """Saves the model that the recipe chooses as WORKDIR/model, scores it and reports.

    Everything is computed from the state after the last epoch and from what lies in the folder, so
    that it can be repeated after a kill at any moment. A report that cannot be written is a
    warning: the result stands without it.

    Raises:
      EvaluationError: If epochs to average are not there.
      Interrupted: After SIGTERM or SIGINT.
    """
    if run.workers.is_chief:
        save_to_preset(run.model, run.workdir / "last")
        _save_chosen(run)
    run.workers.wait()
    with run.strategy.scope():
        run.model.set_weights(from_preset(run.workdir / "model").get_weights())
    split = "test" if "test" in run.dataset.splits else run.validation
    average = None
    if run.recipe.train.final_model == "average" and split != run.validation:
        average = _averaged(run, run.evaluate(run.validation).evaluation.summary())
    evaluator = run.evaluate(split)
    scores = evaluator.evaluation.summary()
    if run.recipe.train.final_model == "average" and split == run.validation:
        average = _averaged(run, scores)
    result = _result(run, average, scores if split != run.validation else None)
    if run.workers.is_chief:
        _write(run, result, evaluator, split)
    return result


def _write(run, result: Result, evaluator, split: str) -> None:
    _write_evaluation(run, result, evaluator.evaluation, split)
    try:
        _write_report(run, result, evaluator, split)
    except Exception as error:
        line = " ".join(str(error).split())
        run.progress.say(
            f"warning: no {REPORT}: {type(error).__name__}: {line}; everything else is saved, the "
            "same command tries again"
        )


def _save_chosen(run) -> None:
    """Makes WORKDIR/model the chosen one; until here it is that of the best epoch."""
    final_model = run.recipe.train.final_model
    if final_model == "last":
        save_to_preset(run.model, run.workdir / "model")
    elif final_model == "average":
        first, last = run.recipe.train.keep_epochs
        if first == last:
            model = from_preset(run.workdir / "epochs" / f"{first:02d}")
        else:
            model = average_models(epoch_models(str(run.workdir), f"{first}-{last}"))
        save_to_preset(model, run.workdir / "model")


def _averaged(run, scores: Row) -> Row:
    return {"epoch": "{}-{}".format(*run.recipe.train.keep_epochs), **scores}


def _result(run, average: Row | None, test: Row | None) -> Result:
    train = run.recipe.train
    best = best_epoch(run.history, train.metric)
    return Result(
        run.workdir, train.metric, train.final_model, best, run.history[-1], average, test
    )


def _chosen_by(run) -> str:
    train = run.recipe.train
    if train.final_model == "average":
        return "the mean of the weights of epochs {}-{}".format(*train.keep_epochs)
    return (
        f"{train.metric} on {run.validation}" if train.final_model == "best" else "the last epoch"
    )


def _chosen_in_words(run, result: Result) -> str:
    if result.final_model == "average":
        return _chosen_by(run)
    how = "the last one" if result.final_model == "last" else f"the best {_chosen_by(run)}"
    return f"epoch {result.chosen['epoch']} ({how.replace('_', ' ')})"


def _write_evaluation(run, result: Result, evaluation, split: str) -> None:
    if evaluation.confusion_matrix is not None:
        figures.draw_confusion_matrix(
            evaluation.confusion_matrix,
            run.dataset.labels.names,
            run.workdir / "confusion.png",
            title=f"{run.recipe.name}, {split}",
        )
    report = {
        "chosen": result.final_model,
        "chosen_by": _chosen_by(run),
        "chosen_epoch": result.chosen,
        "best_epoch": result.best,
        "last_epoch": result.last,
        "average": result.average,
        "split": split,
        "test": result.test,
        "scores": evaluation.summary(),
        "per_class": per_class(evaluation, run.dataset.labels),
    }
    write_json(run.workdir / EVALUATION, report)


def _write_report(run, result: Result, evaluator, split: str) -> None:
    frontend, dataset = run.model.frontend, run.dataset
    matrix, workdir = run.workdir / "confusion.png", run.workdir
    environment = (workdir / "environment.json").read_text(encoding="utf-8")
    report = RunReport(
        recipe=run.recipe,
        environment=json.loads(environment),
        data=str(dataset),
        split=split,
        chosen=_chosen_in_words(run, result),
        evaluation=evaluator.evaluation,
        labels=dataset.labels,
        rows=result.rows(),
        history=run.history,
        mistakes=_mistakes(run, evaluator, split),
        curves=(workdir / "curves.png").read_bytes(),
        confusion=None if dataset.multi_label else matrix.read_bytes(),
        frame_step_seconds=frontend.frame_step_seconds,
        mel_range_hz=(frontend.f_min_hz, frontend.f_max_hz or frontend.sample_rate / 2),
        workdir=str(workdir),
    )
    write_run_report(report, workdir / REPORT)


def _mistakes(run, evaluator, split: str):
    """Returns the worst mistakes with their sounds, and what the frontend makes of these."""
    worst = worst_mistakes(
        evaluator.scores, evaluator.targets, run.dataset.multi_label, NUM_MISTAKES
    )
    pipeline, frontend = make_pipeline(run.recipe, run.dataset, split), run.model.frontend
    indices = scored_examples(evaluator.real, pipeline.batch_size)
    step = seconds_to_samples(frontend.frame_step_seconds, frontend.sample_rate)
    length = seconds_to_samples(frontend.frame_length_seconds, frontend.sample_rate)
    found = []
    for row, badness in worst:
        index = indices[row]
        waveform = pipeline.waveform(index)
        padded = np.zeros(pipeline.clip_samples, np.float32)
        padded[: len(waveform)] = waveform
        seen = frontend(padded[None], lengths=np.array([len(waveform)], np.int32))[0].numpy()
        log_mel = seen * (2 * frontend.std) + frontend.mean
        found.append(
            describe_mistake(
                pipeline.split.source_name(index),
                evaluator.scores[row],
                evaluator.targets[row],
                run.dataset.labels,
                badness,
                waveform,
                frontend.sample_rate,
                log_mel,
                min(num_frames(len(waveform), length, step), len(log_mel)),
            )
        )
    return found


def scored_examples(real, batch_size: int) -> list[int]:
    """Returns which examples of a split were scored, in the order of their scores.

    Args:
      real: Of each batch which rows were scored; a batch that does not divide evenly among the
        devices has more rows at its end.
      batch_size: Examples per batch.

    Example:

    >>> scored_examples([[True, False, True, False], [True, True, False, False]], batch_size=3)
    [0, 2, 3, 4]
    """
    rows = (batch_size * step + np.flatnonzero(part) for step, part in enumerate(real))
    return np.concatenate(list(rows)).tolist()

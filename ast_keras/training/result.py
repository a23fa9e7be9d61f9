"""The end of a run: the final model, its scores and the report."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ast_keras.audio.mel import num_frames, seconds_to_samples
from ast_keras.evaluation.averaging import average_models
from ast_keras.evaluation.evaluator import ASTEvaluator, scored_examples
from ast_keras.files import write_json
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.recipe import Train
from ast_keras.reports import figures
from ast_keras.reports.run_report import NUM_MISTAKES, RunReport, write_run_report
from ast_keras.reports.sound import Sound
from ast_keras.reports.tables import per_class, score_table
from ast_keras.reports.worst_mistakes import Mistake, describe_mistake, worst_mistakes
from ast_keras.training.build import make_pipeline
from ast_keras.training.context import RunContext
from ast_keras.training.history import (
    best_epoch,
    describe_early_end,
    ended_early,
    has_ended,
)
from ast_keras.training.run_folder import epoch_models
from ast_keras.weights.assign import assign_canonical, canonical_tensors

# The last files of a run, written in this order. A run is finished when both exist. If only one
# exists, the resumed run writes both again.
EVALUATION, REPORT = "evaluation.json", "report.html"

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """Scores of a finished run.

    Args:
        workdir: Folder of the run. `model/` in it is the final model.
        metric: Name of the score that chooses the best epoch.
        final_model: Which model is final: "best", "last" or "average", as in the recipe.
        best: Row of the best epoch.
        last: Row of the last epoch.
        average: Scores of the averaged model on the validation split. None without averaging.
        test: Scores of the final model on the test split. None if there is no split for testing
            apart from the one that chose the epoch.
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
        """The row of the final model."""
        rows = {"best": self.best, "last": self.last, "average": self.average}
        return rows[self.final_model] or {}

    def rows(self) -> list[tuple[str, Row]]:
        """Returns the scores of all models that were scored, by name."""
        names = {"best": "best epoch", "last": "last epoch", "average": "averaged"}
        rows = [(names["best"], self.best), (names["last"], self.last)]
        if self.average is not None:
            rows.append((names["average"], self.average))
        if self.test is not None:
            epoch = {"epoch": self.chosen["epoch"]}
            rows.append((f"test, {names[self.final_model]}", {**self.test, **epoch}))
        return rows

    def table(self) -> str:
        """Returns the scores, and the paths of model and report, as text to print."""
        lines = [score_table(self.rows()), f"model: {self.workdir / 'model'}"]
        if (self.workdir / REPORT).is_file():
            lines.append(f"report: {self.workdir / REPORT}")
        return "\n".join(lines)


def finished_result(context: RunContext, history: Sequence[Row]) -> Result | None:
    """Returns the result of a run that is finished; None if it is not.

    Args:
        context: The prepared run.
        history: One row for each finished epoch.
    """
    files = (context.workdir / EVALUATION, context.workdir / REPORT)
    if not has_ended(history, context.recipe.train) or not all(f.is_file() for f in files):
        return None
    saved = json.loads(files[0].read_text(encoding="utf-8"))
    if saved["last_epoch"]["epoch"] != len(history):
        return None  # these are the files of a shorter run, which went on since
    return _make_result(context, history, saved.get("average"), saved["test"])


def finish(
    context: RunContext, history: Sequence[Row], evaluate: Callable[[str], ASTEvaluator]
) -> Result:
    """Saves the recipe's final model as WORKDIR/model, scores it and writes the report.

    Everything follows from the state after the last epoch and from files in the work directory, so
    that it can be repeated after a kill at any moment. If the report cannot be written, a warning
    is printed and the result is returned without it.

    Args:
        context: The prepared run, with the model of the last epoch. Its model becomes the final
            one.
        history: One row for each epoch.
        evaluate: Scores the model of `context` on the split of a name.

    Raises:
        EvaluationError: If an epoch to average was not kept.
        Interrupted: After SIGTERM or SIGINT.
    """
    train, validation = context.recipe.train, context.validation_split
    if context.workers.is_chief:
        save_to_preset(context.model, context.workdir / "last")
        save_final_model(train, context.workdir, context.model)
    context.workers.wait()
    with context.strategy.scope():
        final = from_preset(context.workdir / "model")
        assign_canonical(context.model, canonical_tensors(final))

    split = "test" if "test" in context.dataset.splits else validation
    on_validation: Row | None = None
    if train.final_model == "average" and split != validation:
        on_validation = evaluate(validation).evaluation.summary()
    evaluator = evaluate(split)
    scores = evaluator.evaluation.summary()
    if split == validation:
        on_validation = scores

    average = None
    if train.final_model == "average":
        average = {"epoch": _epoch_range(train), **(on_validation or {})}
    test = scores if split != validation else None
    result = _make_result(context, history, average, test)
    if context.workers.is_chief:
        # After a longer run is scored, the report of the shorter one must not pass for its own.
        (context.workdir / REPORT).unlink(missing_ok=True)
        _write_evaluation(context, result, evaluator, split)
        try:
            _write_report(context, history, result, evaluator, split)
        except Exception as error:
            line = " ".join(str(error).split())
            context.progress.log(
                f"warning: no {REPORT}: {type(error).__name__}: {line}; everything else is saved, "
                "and the same command tries again"
            )
    return result


def save_final_model(train: Train, workdir: pathlib.Path, model: ASTClassifier) -> None:
    """Makes WORKDIR/model the final model; during training it is that of the best epoch.

    Args:
        train: Training settings of the recipe; `final_model` and `keep_epochs` decide.
        workdir: Folder of the run.
        model: The model of the last epoch.

    Raises:
        EvaluationError: If an epoch to average was not kept.
    """
    if train.final_model == "last":
        save_to_preset(model, workdir / "model")
    elif train.final_model == "average" and train.keep_epochs is not None:
        first, last = train.keep_epochs
        if first == last:
            average = from_preset(workdir / "epochs" / f"{first:02d}")
        else:
            average = average_models(epoch_models(str(workdir), _epoch_range(train)))
        save_to_preset(average, workdir / "model")


def _epoch_range(train: Train) -> str:
    first, last = train.keep_epochs or (0, 0)
    return f"{first}-{last}"


def _make_result(
    context: RunContext, history: Sequence[Row], average: Row | None, test: Row | None
) -> Result:
    train = context.recipe.train
    return Result(
        workdir=context.workdir,
        metric=train.metric,
        final_model=train.final_model,
        best=best_epoch(history, train.metric),
        last=history[-1],
        average=average,
        test=test,
    )


# --- Files ---


def _chosen_by(context: RunContext) -> str:
    train = context.recipe.train
    return {
        "best": f"{train.metric} on {context.validation_split}",
        "last": "the last epoch",
        "average": f"the mean of the weights of epochs {_epoch_range(train)}",
    }[train.final_model]


def _chosen_in_words(context: RunContext, result: Result) -> str:
    if result.final_model == "average":
        return _chosen_by(context)
    reason = "the last one" if result.final_model == "last" else f"the best {_chosen_by(context)}"
    return f"epoch {result.chosen['epoch']} ({reason.replace('_', ' ')})"


def _early_end(context: RunContext, history: Sequence[Row]) -> str:
    train = context.recipe.train
    return f"; {describe_early_end(history, train)}" if ended_early(history, train) else ""


def _write_evaluation(
    context: RunContext, result: Result, evaluator: ASTEvaluator, split: str
) -> None:
    evaluation, labels = evaluator.evaluation, context.dataset.labels
    if evaluation.confusion_matrix is not None:
        figures.draw_confusion_matrix(
            evaluation.confusion_matrix,
            labels.names,
            context.workdir / "confusion.png",
            title=f"{context.recipe.name}, {split}",
        )
    report = {
        "chosen": result.final_model,
        "chosen_by": _chosen_by(context),
        "chosen_epoch": result.chosen,
        "best_epoch": result.best,
        "last_epoch": result.last,
        "average": result.average,
        "split": split,
        "test": result.test,
        "scores": evaluation.summary(),
        "per_class": per_class(evaluation, labels),
    }
    write_json(context.workdir / EVALUATION, report)


def _write_report(
    context: RunContext, history: Sequence[Row], result: Result, evaluator: ASTEvaluator, split: str
) -> None:
    dataset, workdir = context.dataset, context.workdir
    confusion = None if dataset.multi_label else (workdir / "confusion.png").read_bytes()
    report = RunReport(
        recipe=context.recipe,
        environment=json.loads((workdir / "environment.json").read_text(encoding="utf-8")),
        data=str(dataset),
        split=split,
        chosen=_chosen_in_words(context, result) + _early_end(context, history),
        evaluation=evaluator.evaluation,
        labels=dataset.labels,
        rows=result.rows(),
        history=history,
        mistakes=_describe_mistakes(context, evaluator, split),
        curves=(workdir / "curves.png").read_bytes(),
        confusion=confusion,
        workdir=str(workdir),
    )
    write_run_report(report, workdir / REPORT)


def _describe_mistakes(context: RunContext, evaluator: ASTEvaluator, split: str) -> list[Mistake]:
    """Returns the worst mistakes with their waveforms and log-mel spectrograms."""
    dataset, frontend = context.dataset, context.model.frontend
    worst = worst_mistakes(evaluator.scores, evaluator.targets, dataset.multi_label, NUM_MISTAKES)
    pipeline = make_pipeline(context.recipe, dataset, split)
    indices = scored_examples(evaluator.real, pipeline.batch_size)
    step = seconds_to_samples(frontend.frame_step_seconds, frontend.sample_rate)
    length = seconds_to_samples(frontend.frame_length_seconds, frontend.sample_rate)
    mistakes = []
    for row, severity in worst:
        waveform = pipeline.waveform(indices[row])
        padded = np.zeros((1, pipeline.clip_samples), np.float32)
        padded[0, : len(waveform)] = waveform
        normalised = frontend(padded, lengths=np.array([len(waveform)], np.int32))[0].numpy()
        log_mel = normalised * (2 * frontend.std) + frontend.mean
        sound = Sound(
            name=pipeline.split.source_name(indices[row]),
            waveform=waveform,
            sample_rate=frontend.sample_rate,
            log_mel=log_mel,
            frame_step_seconds=frontend.frame_step_seconds,
            mel_range_hz=(frontend.f_min_hz, frontend.f_max_hz or frontend.sample_rate / 2),
            num_valid_frames=min(num_frames(len(waveform), length, step), len(log_mel)),
        )
        scores, target = evaluator.scores[row], evaluator.targets[row]
        mistakes.append(describe_mistake(sound, scores, target, dataset.labels, severity))
    return mistakes

"""The training loop of one run, in a work directory from which it can be resumed at any step.

| file | holds |
|---|---|
| recipe.json, environment.json | what is needed to repeat the run |
| checkpoints/ | the last states of everything that training changes |
| epochs.csv, curves.png, tensorboard/ | the history |
| model/, last/ | the final model and that of the last epoch, in the format of `from_preset` |
| epochs/ | models of single epochs, if `train.keep_epochs` is set |
| evaluation.json, confusion.png | scores of the final model |
| report.html | all results on one page, with the worst mistakes |

Until the run ends, model/ holds the model of the best epoch so far. At the end, `training.result`
replaces it by the model that `train.final_model` selects.

The same folder with more epochs (`train.num_epochs`) or more patience (`train.patience`) goes on
from the last checkpoint. With `optimizer.schedule=epoch_decay` it ends in the same weights as a run
that had these settings from its start. The files of the shorter run stay until the longer one ends.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import orbit
import tensorflow as tf

from ast_keras.data.dataset import SoundDataset
from ast_keras.data.pipeline import Pipeline
from ast_keras.errors import AudioError, TrainingError
from ast_keras.evaluation.evaluator import ASTEvaluator
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import save_to_preset
from ast_keras.recipe import Recipe
from ast_keras.reports.tables import SCORES
from ast_keras.training import build
from ast_keras.training.checkpoints import RunCheckpoints
from ast_keras.training.context import RunContext, make_context
from ast_keras.training.distribution import distribute
from ast_keras.training.history import (
    best_epoch,
    describe_early_end,
    ended_early,
    has_ended,
)
from ast_keras.training.interruption import Interrupted, SignalGuard
from ast_keras.training.progress import Progress
from ast_keras.training.result import Result, finish, finished_result
from ast_keras.training.run_folder import (
    claim_workdir,
    delete_unfinished_epochs,
    keep_epoch,
    locked,
    write_history,
)
from ast_keras.training.trainer import ASTTrainer

_LOOP_SECONDS = 5.0  # longest time between two checks of the loss, the clock and signals


class Run:
    """Trains a recipe in a work directory, from its last checkpoint if there is one.

    `Run.prepare` does everything that can fail before training: it reads the data, builds the
    model with its start weights, waits for other workers and claims the work directory. The
    constructor only stores its arguments; `train` prepares the run if that was not done.

    With several workers (`training.distribution`) all of them make the same run, and the first one
    writes it.

    Args:
        recipe: The recipe to train.
        workdir: A new folder, or one that holds a run of the same recipe, stopped or with fewer
            epochs. All workers must see the same folder, on a file system that they share.
        strategy: Devices to train on. None for all visible devices of all workers.
        progress: Where progress is printed. None for standard output.
        dataset: The recipe's data set, if it is read already.

    Attributes:
        context: The `RunContext`: resolved recipe, data, pipelines, devices. None until prepared.
        trainer: The `ASTTrainer`, with optimizer and step. None until prepared.
        checkpoints: The `RunCheckpoints`. None until prepared.
        history: One row for each finished epoch.

    Example:

    >>> import tempfile
    >>> from ast_keras import load_recipe
    >>> from ast_keras.recipe import override
    >>> settings = ["model.size=ast_test", "frontend.num_frames=48", "data.clip_seconds=0.5"]
    >>> settings += ["train.num_epochs=1", "data.num_train=10", "data.num_test=10"]
    >>> recipe = override(load_recipe("quickstart"), settings)
    >>> run = Run.prepare(recipe, tempfile.mkdtemp(), progress=Progress(quiet=True))
    >>> run.context.num_steps  # the number of steps that `run.train()` would take
    1
    """

    def __init__(
        self,
        recipe: Recipe,
        workdir: str | os.PathLike[str],
        strategy: tf.distribute.Strategy | None = None,
        progress: Progress | None = None,
        dataset: SoundDataset | None = None,
    ) -> None:
        self.recipe = recipe
        self.workdir = pathlib.Path(workdir).expanduser()
        self.strategy = strategy
        self.progress = progress
        self.dataset = dataset
        self.history: list[dict[str, float]] = []
        self.context: RunContext | None = None
        self.trainer: ASTTrainer | None = None
        self.checkpoints: RunCheckpoints | None = None
        self._signals = SignalGuard()

    @classmethod
    def prepare(
        cls,
        recipe: Recipe,
        workdir: str | os.PathLike[str],
        strategy: tf.distribute.Strategy | None = None,
        progress: Progress | None = None,
        dataset: SoundDataset | None = None,
    ) -> Run:
        """Returns a run that is ready to train.

        A mistake in the recipe or the data raises here, before the work directory is created.

        Args:
            recipe: The recipe to train.
            workdir: A new folder, or one in which a run of the same recipe was stopped.
            strategy: Devices to train on. None for all visible devices of all workers.
            progress: Where progress is printed. None for standard output.
            dataset: The recipe's data set, if it is read already.

        Raises:
            RecipeError: If the folder holds a run of another recipe, the settings do not fit the
                data, or the workers do not agree.
            WorkerError: If another worker does not start, or is lost.
            DatasetError: If the data cannot be read or fetched.
            WeightsError: If the start weights cannot be read or fetched.
        """
        run = cls(recipe, workdir, strategy, progress, dataset)
        run._prepare()
        return run

    def _prepare(self) -> None:
        context = make_context(
            self.recipe, self.workdir, self.strategy, self.progress, self.dataset
        )
        recipe, steps_per_epoch = context.recipe, context.train_pipeline.steps_per_epoch
        with context.workers.translate_errors():
            with context.strategy.scope():
                optimizer = build.make_optimizer(recipe, steps_per_epoch, context.model)
            self.trainer = ASTTrainer(
                context.model,
                optimizer,
                build.make_loss(recipe),
                None,  # `_train_epochs` sets the data
                context.strategy,
                accumulate_steps=recipe.train.accumulate_steps,
                clip_norm=recipe.optimizer.gradient_clip_norm,
                jit_compile=recipe.train.jit_compile,
            )
        self._schedule = build.make_schedule(recipe, steps_per_epoch)
        self._saved_at = time.monotonic()
        claim_workdir(recipe, self.workdir, context.workers)  # nothing above writes files
        self.checkpoints = RunCheckpoints(context, self.trainer, self.history)
        self.recipe, self.dataset, self.context = recipe, context.dataset, context

    @property
    def model(self) -> ASTClassifier:
        """The classifier that is trained; after `train`, the final model."""
        return self.context.model

    # --- Training ---

    def train(self) -> Result:
        """Trains to the last epoch, scores the final model and writes the report.

        Raises:
            TrainingError: If the loss is no longer finite, or a file cannot be written.
            Interrupted: After SIGTERM or SIGINT, when the state has been saved.
            AudioError: If a file cannot be decoded. The message names it.
            WorkerError: If another worker is lost.
        """
        if self.context is None:
            self._prepare()
        workers = self.context.workers
        lock = locked(self.workdir) if workers.is_chief else contextlib.nullcontext()
        with lock, workers.translate_errors():
            self._restore()
            result = finished_result(self.context, self.history)
            if workers.gather(result is not None).all():
                self._log_early_end()
                return result
            with self._signals.deferred(), self._translate_errors(), workers.translate_errors():
                try:
                    self._train_epochs()
                except Interrupted:
                    self._save()
                    workers.wait()  # one that exits stops the others, even while they save
                    raise
                finally:
                    self.context.progress.stop()
                self._log_early_end()
                result = finish(self.context, self.history, self.evaluate)
                workers.wait()
                return result

    def _train_epochs(self) -> None:
        context, train = self.context, self.recipe.train
        first_step = self._step()
        self.trainer.train_dataset = distribute(
            context.strategy, context.train_pipeline, first_step, context.num_steps
        )
        controller = self._make_controller()
        self._loop_step, self._loop_at, self._loop_length = first_step, time.monotonic(), 1
        steps_per_epoch = context.train_pipeline.steps_per_epoch
        for remark in context.dataset.remarks():
            context.progress.log(remark)
        context.progress.start(
            f"{self.recipe.name}: {context.dataset.summary()}; "
            f"{_describe_parameters(self.model)}; "
            f"{context.strategy.num_replicas_in_sync} device(s), "
            f"{context.workers.num_workers} worker(s), {train.precision}",
            num_epochs=train.num_epochs,
            steps_per_epoch=steps_per_epoch,
            batch_size=train.batch_size,
            first_step=first_step,
        )
        while not self._has_ended():
            last_step = (len(self.history) + 1) * steps_per_epoch
            with _without_orbit_lines():
                controller.train(last_step, checkpoint_at_completion=False)
                scores = controller.evaluate()
            self._end_epoch(scores)
        self.trainer.train_dataset = None  # stops the threads that make further batches

    def _log_early_end(self) -> None:
        train = self.recipe.train
        if ended_early(self.history, train):
            self.context.progress.log(describe_early_end(self.history, train))

    def _has_ended(self) -> bool:
        # All workers follow the first one: scores are rounded differently on other processors.
        return bool(self.context.workers.gather(has_ended(self.history, self.recipe.train))[0])

    def _make_controller(self) -> orbit.Controller:
        events = self.workdir / "tensorboard" if self.context.workers.is_chief else None
        return orbit.Controller(
            trainer=self.trainer,
            evaluator=self._make_evaluator(self.context.validation_pipeline),
            global_step=self.trainer.global_step,
            strategy=self.context.strategy,
            steps_per_loop=lambda _: self._loop_length,
            checkpoint_manager=None,  # `RunCheckpoints` saves instead, but not if the loss is NaN
            summary_dir=events and str(events / "train"),
            eval_summary_dir=events and str(events / "validation"),
            train_actions=[self._after_loop],
        )

    def _steps_per_loop(self, step: int) -> int:
        """Returns the recipe's number of steps, or fewer if they would take too long."""
        seconds_per_step = (time.monotonic() - self._loop_at) / (step - self._loop_step)
        return max(1, min(self.recipe.train.steps_per_loop, int(_LOOP_SECONDS / seconds_per_step)))

    def _after_loop(self, output: dict[str, Any]) -> None:
        step = self._step()
        if not math.isfinite(output["loss"]):
            raise self.checkpoints.diverged(f"The loss is {output['loss']} at step {step}.")
        output["learning_rate"] = float(self._schedule(step - 1))
        self.context.progress.update(step, output["epoch_loss"], output["learning_rate"])
        due = time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes
        # Clocks differ between workers, and a signal may reach only one of them. All workers
        # therefore decide by the values gathered from all.
        signals, dues, lengths = self.context.workers.gather(
            self._signals.number, due, self._steps_per_loop(step)
        ).T
        self._loop_length = int(lengths[0])
        _raise_if_interrupted(signals)
        if dues[0]:
            self._save()

    def _end_epoch(self, scores: dict[str, float]) -> None:
        train, is_chief = self.recipe.train, self.context.workers.is_chief
        row = {
            "epoch": len(self.history) + 1,
            "train_loss": self.trainer.mean_loss(),
            "learning_rate": float(self._schedule(self._step() - 1)),
            **{name: float(scores[name]) for name in SCORES},
        }
        self.history.append(row)
        self.trainer.reset_epoch()
        is_best = best_epoch(self.history, train.metric) is row
        first, last = train.keep_epochs or (0, 0)
        if is_best and is_chief:
            save_to_preset(self.model, self.workdir / "model")
        if first <= row["epoch"] <= last and is_chief:
            keep_epoch(self.model, self.workdir, row["epoch"])
        # The models come before the checkpoint whose history names their epoch: after a kill
        # between the two, the epoch is trained and its models are written again.
        self._save()
        self._write_history()
        self.context.progress.epoch(row, metric=train.metric, is_best=is_best)

    def _step(self) -> int:
        return int(self.trainer.global_step.numpy())

    # --- State ---

    def _restore(self) -> None:
        if self.checkpoints.restore():
            self._write_history()
        if self.context.workers.is_chief:
            delete_unfinished_epochs(self.workdir, last_epoch=len(self.history))

    def _save(self) -> None:
        self.checkpoints.save()
        self._saved_at = time.monotonic()

    def _write_history(self) -> None:
        if self.history and self.context.workers.is_chief:
            write_history(self.workdir, self.history, title=self.recipe.name)

    # --- Evaluation ---

    def evaluate(self, split: str) -> ASTEvaluator:
        """Scores the model in its current state.

        Args:
            split: Name of the split to score.

        Returns:
            The evaluator, with scores, targets and the `Evaluation`.
        """
        pipeline = self.context.validation_pipeline
        if split != self.context.validation_split:
            pipeline = build.make_pipeline(self.recipe, self.context.dataset, split)
        evaluator = self._make_evaluator(pipeline)
        with pipeline.translate_errors():
            evaluator.evaluate(tf.constant(-1))
        return evaluator

    def _make_evaluator(self, pipeline: Pipeline) -> ASTEvaluator:
        context = self.context
        batches = distribute(context.strategy, pipeline, 0, pipeline.steps_per_epoch)
        return ASTEvaluator(
            context.model,
            batches,
            context.dataset.multi_label,
            context.strategy,
            watch=lambda: _raise_if_interrupted(context.workers.gather(self._signals.number)),
        )

    # --- Errors ---

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raises the cause of a failure instead of TensorFlow's report of it."""
        train, validation = self.context.train_pipeline, self.context.validation_pipeline
        try:
            with train.translate_errors(), validation.translate_errors():
                yield
        except AudioError:
            raise
        except tf.errors.OpError as error:
            raise TrainingError(
                f"{_cause(error)} (last checkpoint: {self.checkpoints.latest})"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"Cannot write to {self.workdir}: {error.strerror or error} "
                f"(last checkpoint: {self.checkpoints.latest})"
            ) from error


def _describe_parameters(model: ASTClassifier) -> str:
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    total = model.count_params()
    return f"{total:,} parameters" + (f", {trained:,} trained" if trained < total else "")


def _raise_if_interrupted(signals: Any) -> None:
    """Stops all workers if one of them received a signal."""
    if signals.any():
        raise Interrupted(int(signals.max()))


def _cause(error: tf.errors.OpError) -> str:
    """Returns the line of a TensorFlow error that describes the failure."""
    noise = ("Graph execution error", "Detected at node", "File ", "[[", "Hint:", "The above")
    lines = [line.strip() for line in error.message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(noise)]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _without_orbit_lines() -> Iterator[None]:
    """Drops the lines that Orbit prints; `Progress` prints shorter ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

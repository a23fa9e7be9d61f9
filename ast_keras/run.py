"""A training run in a work directory: made once, watched, stopped and resumed without loss.

| file | holds |
|---|---|
| recipe.json, environment.json | what is needed to repeat the run |
| checkpoints/ | the last states of everything that training changes |
| epochs.csv, curves.png, tensorboard/ | the history |
| model/, last/ | the model of the best and of the last epoch, as `from_preset` reads them |
| epochs/ | the models of single epochs, where `train.keep_epochs` asks for them |
| evaluation.json, confusion.png | scores of both, and the confusions of the chosen one |
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import signal
import threading
import time

import keras
import orbit
import tensorflow as tf

from ast_keras import assembly, figures
from ast_keras.audio import AudioError
from ast_keras.command import Interrupted
from ast_keras.datasets import fingerprint
from ast_keras.files import write_json, write_text
from ast_keras.kept import forget_unfinished, keep_epoch
from ast_keras.metrics import Evaluation
from ast_keras.presets import from_preset, save_to_preset
from ast_keras.progress import Progress
from ast_keras.recipe import RecipeError
from ast_keras.report import SCORES, per_class, score_table
from ast_keras.trainer import ASTEvaluator, ASTTrainer, distribute
from ast_keras.workdir import check_workdir, claim_workdir, locked

_LOOP_SECONDS = 5.0  # between two looks at the loss, the clock and signals


class TrainingError(RuntimeError):
    """Raised when training cannot go on; the last checkpoint stays usable."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run reports: the scores at the best and at the last epoch."""

    workdir: pathlib.Path
    metric: str
    chosen: dict[str, float]
    last: dict[str, float]
    test: dict[str, float] | None  # of the chosen model, where there is a validation split

    def table(self) -> str:
        """Returns the scores as a table to print, and where the model is."""
        rows = [("best epoch", self.chosen), ("last epoch", self.last)]
        if self.test is not None:
            rows.append(("test, best epoch", {**self.test, "epoch": self.chosen["epoch"]}))
        return f"{score_table(rows)}\nmodel: {self.workdir / 'model'}"


def make_strategy() -> tf.distribute.Strategy:
    """Returns `MirroredStrategy` if several GPUs are visible, else the default for one device."""
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


class Run:
    """Trains a recipe in a work directory, from its last checkpoint if there is one.

    Args:
      recipe: What to train.
      workdir: A new folder, or one in which a run of the same recipe was stopped.
      strategy: Devices to train on; None for all visible ones.
      progress: Where progress goes.

    Raises:
      RecipeError: If the folder holds a run of another recipe.
      DatasetError, PresetError: If data or start weights cannot be had.
    """

    def __init__(self, recipe, workdir, strategy=None, progress=None):
        if recipe.data.path is not None:  # the saved recipe is to work from any folder
            path = os.path.abspath(os.path.expanduser(recipe.data.path))
            recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, path=path))
        self.recipe = recipe
        self.workdir = pathlib.Path(workdir)
        self.progress = progress or Progress()
        self.dataset = assembly.make_dataset(recipe)
        check_workdir(recipe, self.workdir)
        keras.utils.set_random_seed(recipe.seed)
        if recipe.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.strategy = strategy or make_strategy()
        self._check_devices()
        self.pipeline = assembly.make_pipeline(recipe, self.dataset, "train", training=True)
        self.validation = assembly.validation_split(recipe, self.dataset)
        self.validation_pipeline = assembly.make_pipeline(recipe, self.dataset, self.validation)
        self.last_step = recipe.train.num_epochs * self.pipeline.steps_per_epoch
        with self.strategy.scope():
            self.model = assembly.make_model(recipe, self.dataset.labels)
            self.optimizer = assembly.make_optimizer(recipe, self.pipeline.steps_per_epoch)
        self.schedule = assembly.make_schedule(recipe, self.pipeline.steps_per_epoch)
        self.trainer = ASTTrainer(
            self.model, self.optimizer, assembly.make_loss(recipe), None, self.strategy,
            jit_compile=recipe.train.jit_compile,
        )  # fmt: skip
        self.global_step = self.trainer.global_step
        self.history: list[dict[str, float]] = []
        self._state = _JSONState(self)
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._make_checkpoints()
        claim_workdir(recipe, self.workdir)  # last: a mistake above leaves no trace

    def _check_devices(self):
        replicas = self.strategy.num_replicas_in_sync
        if self.recipe.train.batch_size % replicas:
            raise RecipeError(
                "train.batch_size must be a multiple of the number of devices. Received: "
                f"train.batch_size={self.recipe.train.batch_size}, devices={replicas}"
            )
        if replicas > 1 and self.recipe.optimizer.gradient_clip_norm is not None:
            # Keras clips each device's share, so the result would depend on their number.
            raise RecipeError(
                "optimizer.gradient_clip_norm works on one device only: set it to none, or make "
                f"one device visible. Received: {replicas} devices"
            )

    def _make_checkpoints(self):
        checkpoint = tf.train.Checkpoint(
            # By list, not by object: TensorFlow does not see the state of Keras's generators.
            model=[variable.value for variable in self.model.variables],
            optimizer=[variable.value for variable in self.optimizer.variables],
            global_step=self.global_step,
            loss_sum=self.trainer.loss_sum,
            loss_steps=self.trainer.loss_steps,
            state=self._state,
        )
        self.checkpoints = tf.train.CheckpointManager(
            checkpoint,
            str(self.workdir / "checkpoints"),
            max_to_keep=self.recipe.train.keep_checkpoints,
            step_counter=self.global_step,
        )

    # --- Training ---

    def train(self) -> Result:
        """Trains to the end and reports; after an interruption, from where it was stopped.

        Raises:
          TrainingError: If the loss is no longer finite, or nothing can be written.
          Interrupted: After SIGTERM or SIGINT, when the state has been saved.
          AudioError: If a sound cannot be read, with its name.
        """
        with locked(self.workdir):
            return self._train()

    def _train(self):
        self._restore()
        report = self.workdir / "evaluation.json"
        if len(self.history) == self.recipe.train.num_epochs and report.is_file():
            return self._result(json.loads(report.read_text(encoding="utf-8"))["test"])
        with self._signals(), self._clear_errors():
            try:
                self._train_epochs()
            except Interrupted:
                self._save()
                raise
            return self._finish()

    def _train_epochs(self):
        steps = self.pipeline.steps_per_epoch
        self.trainer.train_dataset = distribute(
            self.strategy, self.pipeline, int(self.global_step.numpy()), self.last_step
        )
        controller = self._controller()
        self._loop_step, self._loop_at = int(self.global_step.numpy()), time.monotonic()
        self.progress.start(
            name=self.recipe.name,
            sizes=f"{self.dataset}; {self.model.count_params():,} parameters; "
            f"{self.strategy.num_replicas_in_sync} device(s)",
            first_step=int(self.global_step.numpy()),
            last_step=self.last_step,
            steps_per_epoch=steps,
            batch_size=self.recipe.train.batch_size,
            metric=self.recipe.train.metric,
        )
        while len(self.history) < self.recipe.train.num_epochs:
            with _quiet():
                controller.train((len(self.history) + 1) * steps, checkpoint_at_completion=False)
                scores = controller.evaluate()
            self._end_epoch(scores)

    def _controller(self):
        return orbit.Controller(
            trainer=self.trainer,
            evaluator=self._evaluator(self.validation_pipeline, self._stop_if_asked),
            global_step=self.global_step,
            strategy=self.strategy,
            steps_per_loop=self._steps_per_loop,
            checkpoint_manager=None,  # ours: saved with the history, never after a bad loss
            summary_dir=str(self.workdir / "tensorboard" / "train"),
            eval_summary_dir=str(self.workdir / "tensorboard" / "validation"),
            train_actions=[self._after_loop],
        )

    def _steps_per_loop(self, step):
        """As many as the recipe says, but few enough that a signal is seen within seconds."""
        if step == self._loop_step:
            return 1
        per_step = (time.monotonic() - self._loop_at) / (step - self._loop_step)
        return max(1, min(self.recipe.train.steps_per_loop, int(_LOOP_SECONDS / per_step)))

    def _evaluator(self, pipeline, watch=None):
        dataset = distribute(self.strategy, pipeline, 0, pipeline.steps_per_epoch)
        return ASTEvaluator(self.model, dataset, self.dataset.multi_label, self.strategy, watch)

    def _after_loop(self, output):
        step = int(self.global_step.numpy())
        if not math.isfinite(output["loss"]):
            raise TrainingError(f"The loss is {output['loss']} at step {step}. {self._advice()}")
        output["learning_rate"] = float(self.schedule(step - 1))
        self.progress.update(step, output["epoch_loss"], output["learning_rate"])
        self._stop_if_asked()
        if time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes:
            self._save()

    def _end_epoch(self, scores):
        step = int(self.global_step.numpy())
        row = {
            "epoch": len(self.history) + 1,
            "train_loss": self.trainer.mean_loss(),
            "learning_rate": float(self.schedule(step - 1)),
            **{name: float(scores[name]) for name in SCORES},
        }
        self.history.append(row)
        self.trainer.reset_epoch()
        best = best_epoch(self.history, self.recipe.train.metric)
        if best is row:
            save_to_preset(self.model, self.workdir / "model")
        first, last = self.recipe.train.keep_epochs or (0, 0)
        if first <= row["epoch"] <= last:
            keep_epoch(self.model, self.workdir, row["epoch"])
        # Everything that the checkpoint's history speaks of is written before the checkpoint.
        self._save()
        self._write_history()
        self.progress.epoch(row, best)

    # --- State ---

    def _restore(self):
        self._restore_checkpoint()
        forget_unfinished(self.workdir, last_epoch=len(self.history))

    def _restore_checkpoint(self):
        latest = self.checkpoints.latest_checkpoint
        if not latest:
            return
        for path in reversed(self.checkpoints.checkpoints):
            if self._restored(path):
                break
        else:
            raise TrainingError(f"No checkpoint of this run can be read. Received: {latest}")
        if self._state.data not in (None, fingerprint(self.dataset)):
            raise RecipeError(
                "The data is not what this run began with (labels, files or their number changed): "
                f"restore it, or start anew in another --workdir. Received: {self.dataset}"
            )
        self._write_history()
        self.progress.resumed(path, int(self.global_step.numpy()))

    def _restored(self, path):
        try:
            with self.strategy.scope():
                self.checkpoints.checkpoint.restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, IndexError, ValueError) as error:
            line = str(error).splitlines()[0]
            self.progress.say(f"warning: {path} is damaged, going back one: {line}")
            return False
        return True

    def _save(self):
        finite = [tf.reduce_all(tf.math.is_finite(v)) for v in self.model.trainable_variables]
        if not tf.reduce_all(finite):
            raise TrainingError(f"The weights are no longer finite. {self._advice()}")
        # A step may be saved before and after it is scored: the epochs make the number unique.
        number = int(self.global_step.numpy()) + len(self.history)
        self.checkpoints.save(checkpoint_number=number)
        self._saved_at = time.monotonic()

    def _advice(self):
        return (
            "Lower optimizer.learning_rate or set optimizer.gradient_clip_norm=1, in another "
            f"--workdir. Last good state: {self._last_checkpoint()}"
        )

    def _last_checkpoint(self):
        return self.checkpoints.latest_checkpoint or "none, no checkpoint was written yet"

    def _write_history(self):
        if not self.history:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.workdir / "epochs.csv", text.getvalue())
        figures.draw_learning_curves(
            self.history, self.workdir / "curves.png", title=self.recipe.name
        )

    # --- The end ---

    def _finish(self) -> Result:
        save_to_preset(self.model, self.workdir / "last")
        with self.strategy.scope():
            self.model.set_weights(from_preset(self.workdir / "model").get_weights())
        split = "test" if "test" in self.dataset.splits else self.validation
        pipeline = assembly.make_pipeline(self.recipe, self.dataset, split)
        evaluator = self._evaluator(pipeline, self._stop_if_asked)
        with pipeline.clear_errors():
            evaluator.evaluate(tf.constant(-1))
        self._write_evaluation(evaluator.evaluation, split)
        return self._result(evaluator.evaluation.summary() if split != self.validation else None)

    def _result(self, test: dict[str, float] | None) -> Result:
        metric = self.recipe.train.metric
        best = best_epoch(self.history, metric)
        return Result(self.workdir, metric, chosen=best, last=self.history[-1], test=test)

    def _write_evaluation(self, evaluation: Evaluation, split: str):
        metric, labels = self.recipe.train.metric, self.dataset.labels
        if evaluation.confusion_matrix is not None:
            figures.draw_confusion_matrix(
                evaluation.confusion_matrix,
                labels.names,
                self.workdir / "confusion.png",
                title=f"{self.recipe.name}, {split}",
            )
        # Written last: a run that has it is finished.
        report = {
            "chosen_by": f"{metric} on {self.validation}",
            "chosen_epoch": best_epoch(self.history, metric),
            "last_epoch": self.history[-1],
            "split": split,
            "test": evaluation.summary() if split != self.validation else None,
            "scores": evaluation.summary(),
            "per_class": per_class(evaluation, labels),
        }
        write_json(self.workdir / "evaluation.json", report)

    # --- Interruptions ---

    def _stop_if_asked(self):
        if self._signal is not None:
            raise Interrupted(self._signal)

    @contextlib.contextmanager
    def _signals(self):
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return

        def remember(number, _):
            self._signal = number
            signal.signal(number, old[number])  # asked a second time, it stops at once

        old = {n: signal.signal(n, remember) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _clear_errors(self):
        """Turns TensorFlow's view of a failure into the cause."""
        try:
            with self.pipeline.clear_errors(), self.validation_pipeline.clear_errors():
                yield
        except AudioError:
            raise
        except tf.errors.OpError as error:
            raise TrainingError(
                f"{_cause(error)} (last checkpoint: {self._last_checkpoint()})"
            ) from error
        except OSError as error:
            raise TrainingError(
                f"Cannot write to {self.workdir}: {error.strerror or error} "
                f"(last checkpoint: {self._last_checkpoint()})"
            ) from error


def best_epoch(history, metric):
    """Returns the row of the epoch with the highest metric, the first of equals."""
    return max(history, key=lambda row: -math.inf if math.isnan(row[metric]) else row[metric])


class _JSONState(tf.train.experimental.PythonState):
    """The run's history, in the same checkpoint as the weights it tells of."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.data: str | None = None  # of the run that was restored

    def serialize(self) -> str:
        return json.dumps({"history": self._run.history, "data": fingerprint(self._run.dataset)})

    def deserialize(self, value: str) -> None:
        state = json.loads(value)
        self.data = state["data"]
        self._run.history[:] = state["history"]


def _cause(error: tf.errors.OpError) -> str:
    """Returns the line of a TensorFlow error that says what happened."""
    noise = ("Graph execution error", "Detected at node", "File ", "[[", "Hint:", "The above")
    lines = [line.strip() for line in error.message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(noise)]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _quiet():
    """Silences Orbit's own lines: `Progress` says the same, shorter."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

"""A training run in a work directory: made once, watched, stopped and resumed without loss.

| file | holds |
|---|---|
| recipe.json, environment.json | what is needed to repeat the run |
| checkpoints/ | the last states of everything that training changes |
| epochs.csv, curves.png, tensorboard/ | the history |
| model/, last/ | the chosen model and that of the last epoch, as `from_preset` reads them |
| epochs/ | the models of single epochs, where `train.keep_epochs` asks for them |
| evaluation.json, confusion.png | the scores, the chosen model's in detail |
| report.html | all of it on a page, with the worst mistakes |

Until the run ends, model/ is that of the best epoch so far; `training.result` then chooses.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import pathlib
import time

import keras
import orbit
import tensorflow as tf

from ast_keras.data.dataset import fingerprint
from ast_keras.errors import AudioError, RecipeError, TrainingError
from ast_keras.evaluation.evaluator import ASTEvaluator
from ast_keras.files import write_text
from ast_keras.presets.loading import save_to_preset
from ast_keras.reports import figures
from ast_keras.reports.tables import SCORES
from ast_keras.training import build
from ast_keras.training.distribution import Workers, distribute, make_strategy
from ast_keras.training.interruption import Interrupted, SignalGuard
from ast_keras.training.kept import forget_unfinished, keep_epoch
from ast_keras.training.progress import Progress
from ast_keras.training.resolve import resolve, with_absolute_paths
from ast_keras.training.result import Result, best_epoch, finish, finished_result
from ast_keras.training.run_folder import check_workdir, claim_workdir, locked, require_same_work
from ast_keras.training.trainer import ASTTrainer

_LOOP_SECONDS = 5.0  # between two looks at the loss, the clock and signals


class Run:
    """Trains a recipe in a work directory, from its last checkpoint if there is one.

    Several workers (`training.distribution`) all make the same run; the first one writes it.

    Args:
      recipe: What to train.
      workdir: A new folder, or one in which a run of the same recipe was stopped; one folder for
        all workers, on a file system that they share.
      strategy: Devices to train on; None for all visible ones of all workers.
      progress: Where progress goes.
      dataset: The recipe's data, where it is read already.

    Raises:
      RecipeError: If the folder holds a run of another recipe, or the workers do not agree.
      WorkerError: If another worker does not come, or is lost.
      DatasetError, WeightsError: If data or start weights cannot be had.

    Example:

    >>> import tempfile
    >>> from ast_keras import load_recipe
    >>> from ast_keras.recipe import override
    >>> settings = ["model.size=ast_test", "frontend.num_frames=48", "data.clip_seconds=0.5"]
    >>> settings += ["train.num_epochs=1", "data.num_train=10", "data.num_test=10"]
    >>> recipe = override(load_recipe("quickstart"), settings)
    >>> Run(recipe, tempfile.mkdtemp(), progress=Progress(quiet=True)).workdir.is_dir()
    True
    """

    def __init__(self, recipe, workdir, strategy=None, progress=None, dataset=None):
        recipe = with_absolute_paths(recipe)  # saved, it is to work from any folder
        self.workdir = pathlib.Path(workdir)
        keras.utils.set_random_seed(recipe.seed)
        if recipe.train.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.strategy = strategy or make_strategy()  # before TensorFlow is used
        self.workers = Workers(self.strategy)
        self.progress = (progress or Progress()) if self.workers.is_chief else Progress(quiet=True)
        self.dataset = dataset or build.make_dataset(recipe)
        self.recipe = recipe = resolve(recipe, self.dataset)
        self._check_devices()
        require_same_work(recipe, fingerprint(self.dataset), self.workers)
        if self.workers.is_chief:
            check_workdir(recipe, self.workdir)
        self.pipeline = build.make_pipeline(recipe, self.dataset, "train", training=True)
        self.validation = build.validation_split(recipe, self.dataset)
        self.validation_pipeline = build.make_pipeline(recipe, self.dataset, self.validation)
        self.last_step = recipe.train.num_epochs * self.pipeline.steps_per_epoch
        with self.workers.translate_errors():
            self._make_trainer()
        self.history: list[dict[str, float]] = []
        self._state = _JSONState(self)
        self._saved_at = time.monotonic()
        self._signals = SignalGuard()
        claim_workdir(recipe, self.workdir, self.workers)  # a mistake above leaves no trace
        self._make_checkpoints()

    def _check_devices(self):
        train, devices = self.recipe.train, self.strategy.num_replicas_in_sync
        if train.batch_size < devices * train.accumulate_steps:
            raise RecipeError(
                "train.batch_size must be at least train.accumulate_steps times the number of "
                f"devices. Received: train.batch_size={train.batch_size}, "
                f"train.accumulate_steps={train.accumulate_steps}, devices={devices}"
            )

    def _make_trainer(self):
        recipe, steps_per_epoch = self.recipe, self.pipeline.steps_per_epoch
        with self.strategy.scope():
            self.model = build.make_model(recipe, self.dataset.labels)
            self.optimizer = build.make_optimizer(recipe, steps_per_epoch)
        self.schedule = build.make_schedule(recipe, steps_per_epoch)
        self.trainer = ASTTrainer(
            self.model,
            self.optimizer,
            build.make_loss(recipe),
            None,
            self.strategy,
            accumulate_steps=recipe.train.accumulate_steps,
            clip_norm=recipe.optimizer.gradient_clip_norm,
            jit_compile=recipe.train.jit_compile,
        )
        self.global_step = self.trainer.global_step

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
          WorkerError: If another worker is lost.
        """
        alone = locked(self.workdir) if self.workers.is_chief else contextlib.nullcontext()
        with alone, self.workers.translate_errors():
            return self._train()

    def _train(self):
        self._restore()
        result = finished_result(self)
        if self.workers.gather(result is not None).all():
            return result
        with self._signals.deferred(), self._clear_errors(), self.workers.translate_errors():
            try:
                self._train_epochs()
            except Interrupted:
                self._save()
                self.workers.wait()  # for the one that saves: a worker that leaves stops the others
                raise
            result = finish(self)
            self.workers.wait()
            return result

    def _train_epochs(self):
        steps = self.pipeline.steps_per_epoch
        self.trainer.train_dataset = distribute(
            self.strategy, self.pipeline, int(self.global_step.numpy()), self.last_step
        )
        controller = self._controller()
        self._loop_step, self._loop_at = int(self.global_step.numpy()), time.monotonic()
        self._loop_length = 1
        self.progress.start(
            name=self.recipe.name,
            sizes=f"{self.dataset}; {self.model.count_params():,} parameters; "
            f"{self.strategy.num_replicas_in_sync} device(s), "
            f"{self.workers.num_workers} worker(s), {self.recipe.train.precision}",
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
        events = self.workdir / "tensorboard" if self.workers.is_chief else None
        return orbit.Controller(
            trainer=self.trainer,
            evaluator=self._evaluator(self.validation_pipeline, self._stop_if_asked),
            global_step=self.global_step,
            strategy=self.strategy,
            steps_per_loop=lambda _: self._loop_length,
            checkpoint_manager=None,  # ours: saved with the history, never after a bad loss
            summary_dir=events and str(events / "train"),
            eval_summary_dir=events and str(events / "validation"),
            train_actions=[self._after_loop],
        )

    def _steps_per_loop(self, step):
        """As many as the recipe says, but few enough that a signal is seen within seconds."""
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
        due = time.monotonic() - self._saved_at > 60 * self.recipe.train.checkpoint_minutes
        # Clocks differ and a signal comes to one process: all workers do as they are told here.
        asked, dues, lengths = self.workers.gather(
            self._signals.number, due, self._steps_per_loop(step)
        ).T
        self._loop_length = int(lengths[0])
        self._stop(asked)
        if dues[0]:
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
        first, last = self.recipe.train.keep_epochs or (0, 0)
        if best is row and self.workers.is_chief:
            save_to_preset(self.model, self.workdir / "model")
        if first <= row["epoch"] <= last and self.workers.is_chief:
            keep_epoch(self.model, self.workdir, row["epoch"])
        # Everything that the checkpoint's history speaks of is written before the checkpoint.
        self._save()
        self._write_history()
        self.progress.epoch(row, best)

    # --- State ---

    def _restore(self):
        self._restore_checkpoint()
        if self.workers.is_chief:
            forget_unfinished(self.workdir, last_epoch=len(self.history))

    def _restore_checkpoint(self):
        latest = self.checkpoints.latest_checkpoint
        if not latest:
            return
        for path in reversed(self.checkpoints.checkpoints):
            if self.workers.gather(self._restored(path)).all():
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
            with self.strategy.scope(), self.workers.translate_errors():
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
        if self.workers.is_chief:  # all have the same
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
        if not self.history or not self.workers.is_chief:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.workdir / "epochs.csv", text.getvalue())
        figures.draw_learning_curves(
            self.history, self.workdir / "curves.png", title=self.recipe.name
        )

    def evaluate(self, split):
        """Scores the model as it is on a split; returns the `ASTEvaluator`."""
        pipeline = self.validation_pipeline
        if split != self.validation:
            pipeline = build.make_pipeline(self.recipe, self.dataset, split)
        evaluator = self._evaluator(pipeline, self._stop_if_asked)
        with pipeline.translate_errors():
            evaluator.evaluate(tf.constant(-1))
        return evaluator

    # --- Interruptions ---

    def _stop_if_asked(self):
        self._stop(self.workers.gather(self._signals.number))

    def _stop(self, asked):
        """Stops all workers if any of them was asked to."""
        if asked.any():
            raise Interrupted(int(asked.max()))

    @contextlib.contextmanager
    def _clear_errors(self):
        """Turns TensorFlow's view of a failure into the cause."""
        try:
            with self.pipeline.translate_errors(), self.validation_pipeline.translate_errors():
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

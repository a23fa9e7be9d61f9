"""Checkpoints of a run: everything that training changes, saved and restored together."""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf

from ast_keras.data.dataset import fingerprint
from ast_keras.errors import RecipeError, TrainingError
from ast_keras.training.context import RunContext
from ast_keras.training.trainer import ASTTrainer


class RunCheckpoints:
    """Saves and restores model, optimizer, step, running loss and history of a run.

    All workers hold the same state; the first one writes it.

    Args:
        context: The prepared run.
        trainer: The trainer of the run's model.
        history: One row per finished epoch. `restore` replaces its content.
    """

    def __init__(self, context: RunContext, trainer: ASTTrainer, history: list[dict[str, float]]):
        self._context = context
        self._trainer = trainer
        self._history = history
        self._state = _RunState(history, fingerprint(context.dataset))
        checkpoint = tf.train.Checkpoint(
            # Lists of variables are saved, because TensorFlow does not find the state of Keras's
            # seed generators by following the attributes of a model.
            model=[variable.value for variable in context.model.variables],
            optimizer=[variable.value for variable in trainer.optimizer.variables],
            global_step=trainer.global_step,
            loss_sum=trainer.loss_sum,
            loss_steps=trainer.loss_steps,
            state=self._state,
        )
        self._manager = tf.train.CheckpointManager(
            checkpoint,
            str(context.workdir / "checkpoints"),
            max_to_keep=context.recipe.train.keep_checkpoints,
            step_counter=trainer.global_step,
        )

    @property
    def paths(self) -> list[str]:
        """The checkpoints of this run, oldest first."""
        return list(self._manager.checkpoints)

    @property
    def latest(self) -> str:
        """Path of the newest checkpoint, for messages; a phrase if there is none."""
        return self._manager.latest_checkpoint or "none, no checkpoint was written yet"

    def save(self) -> None:
        """Writes a checkpoint.

        Raises:
            TrainingError: If a weight is not finite. The earlier checkpoints stay.
        """
        variables = self._context.model.trainable_variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables]):
            raise self.diverged("The weights are no longer finite.")
        # A checkpoint may be written before and after the scoring of an epoch, at the same step.
        # Adding the number of scored epochs gives the two different numbers.
        number = int(self._trainer.global_step.numpy()) + len(self._history)
        if self._context.workers.is_chief:
            self._manager.save(checkpoint_number=number)

    def restore(self) -> bool:
        """Restores the newest checkpoint that every worker can read.

        Returns:
            Whether there was a checkpoint.

        Raises:
            TrainingError: If there are checkpoints, but none can be read.
            RecipeError: If the run started with other data.
        """
        if not self._manager.latest_checkpoint:
            return False
        for path in reversed(self.paths):
            if self._context.workers.gather(self._restored(path)).all():
                break
        else:
            raise TrainingError(f"No checkpoint of this run can be read. Received: {self.latest}")
        if self._state.restored_data not in (None, self._state.data):
            raise RecipeError(
                "The data has changed since this run started (labels, files or their number): "
                "restore it, or start again in another --workdir. "
                f"Received: {self._context.dataset}"
            )
        self._context.progress.resumed(path, int(self._trainer.global_step.numpy()))
        return True

    def _restored(self, path: str) -> bool:
        context = self._context
        try:
            with context.strategy.scope(), context.workers.translate_errors():
                self._manager.checkpoint.restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, IndexError, ValueError) as error:
            line = str(error).splitlines()[0]
            context.progress.log(f"warning: {path} is damaged, trying the one before: {line}")
            return False
        return True

    def diverged(self, rule: str) -> TrainingError:
        """Returns the error for a run whose loss or weights are no longer finite.

        Args:
            rule: What happened, as a sentence.
        """
        return TrainingError(
            f"{rule} Lower optimizer.learning_rate or set optimizer.gradient_clip_norm=1, in "
            f"another --workdir. Last good state: {self.latest}"
        )


class _RunState(tf.train.experimental.PythonState):
    """History and data fingerprint of a run, stored in the checkpoint of its weights."""

    def __init__(self, history: list[dict[str, float]], data: str) -> None:
        self._history = history
        self.data = data
        self.restored_data: str | None = None

    def serialize(self) -> str:
        return json.dumps({"history": self._history, "data": self.data})

    def deserialize(self, value: str) -> None:
        state: dict[str, Any] = json.loads(value)
        self.restored_data = state["data"]
        self._history[:] = state["history"]

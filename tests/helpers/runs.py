"""Tiny training runs; the same run is trained once per test process."""

import functools
import pathlib
import signal
import tempfile

from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run

# Three steps per epoch, of one token column. Every source of randomness is on: if one is not
# restored exactly, a resumed run ends with other weights.
TINY = (
    "data.num_train=12",
    "data.num_validation=10",
    "data.num_test=10",
    "data.clip_seconds=0.5",
    "frontend.num_frames=32",
    "model.size=ast_test",
    "model.num_layers=1",
    "model.dropout=0.1",
    "model.drop_path=0.1",
    "augment.mixup_rate=0.5",
    "augment.noise=true",
    "augment.roll_frames=3",
    "augment.shift_seconds=0.05",
    "optimizer.schedule=epoch_decay",
    "optimizer.decay_start_epoch=1",
    "optimizer.warmup_steps=0",
    "train.num_epochs=3",
    "train.batch_size=4",
    "train.steps_per_loop=1",
)
# Also covers kept epochs and their average.
AVERAGING = ("train.keep_epochs=2,3", "train.final_model=average")


def tiny_recipe(*settings):
    """Returns the quickstart recipe with a tiny model and little data."""
    return override(load_recipe("quickstart"), [*TINY, *settings])


def prepare(recipe, workdir):
    """Returns a run that prints nothing."""
    return Run.prepare(recipe, workdir, progress=Progress(quiet=True))


@functools.cache
def finished_run():
    """Returns recipe, folder and result of a run with averaging. Do not write to the folder."""
    recipe = tiny_recipe(*AVERAGING)
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="ast_keras_test_"), "run")
    return recipe, workdir, prepare(recipe, workdir).train()


class SignalAt(Progress):
    """Sends SIGTERM to this process when a step is shown."""

    def __init__(self, step):
        super().__init__(quiet=True)
        self.step = step

    def update(self, step, loss, learning_rate):
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)


def weights(folder):
    """Returns the weights of a saved model."""
    return from_preset(folder).get_weights()

"""Two devices train and score as one does. Logical devices need a process of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
# Thirteen examples in batches of four, eleven scored in batches of five: the last batches, and the
# rows of the second device, are partly padding. All masks are on.
SCRIPT = """
import gc, json, os, sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
gc.disable()  # it takes half of the time of tracing
import keras
from ast_keras import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build
from ast_keras.training.distribution import distribute
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run
from ast_keras.training.trainer import ASTTrainer

BASE = override(load_recipe("quickstart"), '''data.num_train=13 data.num_validation=11
    data.num_test=10 data.clip_seconds=0.5 frontend.num_frames=48 model.size=ast_test
    model.num_layers=1 augment.mixup_rate=0.5 augment.noise=true augment.roll_frames=10
    augment.freq_mask_bins=20 augment.time_mask_frames=8 train.num_epochs=5
    train.batch_size=4 train.eval_batch_size=5 optimizer.warmup_steps=2'''.split())
# One object: two strategies on the same devices would receive each other's messages.
TWO = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
STRATEGIES = {1: tf.distribute.get_strategy(), 2: TWO}


def run(devices, *settings):
    folder = f"{sys.argv[1]}/{devices}"
    recipe, progress = override(BASE, settings), Progress(quiet=True)
    run = Run.prepare(recipe, folder, STRATEGIES[devices], progress)
    result = run.train()
    return result.last, result.test, from_preset(f"{folder}/last").get_weights()


def trainer(devices, settings, steps, wrap=lambda pipeline: pipeline):
    recipe, strategy = override(BASE, settings.split()), STRATEGIES[devices]
    keras.utils.set_random_seed(1)
    data = build.make_dataset(recipe)
    pipeline = build.make_pipeline(recipe, data, "train", training=True)
    with strategy.scope():
        model = build.make_model(recipe, data.labels)
        optimizer = build.make_optimizer(recipe, pipeline.steps_per_epoch)
    parts = recipe.train.accumulate_steps
    batches = distribute(strategy, wrap(pipeline), 0, steps, parts)
    return ASTTrainer(model, optimizer, build.make_loss(recipe), batches, strategy, parts,
        recipe.optimizer.gradient_clip_norm)


def train(trainer, steps):
    return [float(trainer.train(tf.constant(1))["loss"]) for _ in range(steps)]


def apart(some, others):
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others))


class Poisoned:
    # In the batch of step 4 the gradient on the second device is not finite.
    def __init__(self, pipeline):
        self.pipeline, self.batch_size = pipeline, pipeline.batch_size

    def dataset(self, first_step, last_step, rows):
        def poison(step, batch):
            heavy = tf.where(step == 4, [1.0, 1.0, 1e9, 1e9], tf.ones(4))
            return {**batch, "weight": batch["weight"] * heavy}

        return self.pipeline.dataset(first_step, last_step, rows).enumerate().map(poison)


one, test_one, weights_one = run(1)
two, test_two, weights_two = run(2, "train.accumulate_steps=2")
found = {
    "loss": abs(one["train_loss"] - two["train_loss"]),
    "weights": apart(weights_one, weights_two),
    "scores": [{k: v for k, v in one.items() if k != "train_loss"}, test_one],
    "scores_of_two": [{k: v for k, v in two.items() if k != "train_loss"}, test_two],
}
clip = "optimizer.gradient_clip_norm=0.5"
one, two = trainer(1, clip, 20), trainer(2, clip, 20)
train(one, 20), train(two, 20)
found["clipped"] = apart(one.model.get_weights(), two.model.get_weights())
found["changed"] = apart(one.model.get_weights(), weights_one)

precision = "train.precision=mixed_bfloat16"
one, two = trainer(1, precision, 4), trainer(2, precision, 4)
found["mixed_bfloat16"] = apart(train(one, 4), train(two, 4))
precision = "train.precision=mixed_float16"
one, two = trainer(1, precision, 4), trainer(2, precision, 6, Poisoned)
found["mixed_float16"] = apart(train(one, 4), train(two, 4))
weights, found["overflow"] = [two.model.get_weights()], []
for step in (4, 5):
    train(two, 1)
    weights.append(two.model.get_weights())
    scale = two.optimizer.dynamic_scale.numpy() / two.optimizer.initial_scale
    found["overflow"].append([apart(weights[-1], weights[-2]), float(scale)])
print(json.dumps(found), flush=True)
os._exit(0)  # deleting the graphs takes longer than the tests
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path_factory.mktemp("devices")],
        env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_two_devices_accumulating_train_and_score_as_one(found):
    # Sums in another order over twenty steps: seen 2.4e-7 and 2.7e-6.
    assert found["loss"] < 1e-6
    assert found["weights"] < 9e-6
    assert found["scores_of_two"] == found["scores"]


def test_two_devices_clip_the_gradient_of_the_whole_batch(found):
    # As above: seen 1.6e-7.
    assert found["clipped"] < 1e-6
    assert found["changed"] > 1e-3, "nothing was clipped"


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_two_devices_train_in_mixed_precision(found, precision):
    # Losses of about 2.3 in the precision's own steps, of 2e-3 and 2e-2, averaged: seen 1.0e-4.
    assert found[precision] < 1e-3


def test_an_overflow_on_one_device_skips_the_step_on_all(found):
    (moved, scale), (moved_later, scale_later) = found["overflow"]
    assert (moved, scale) == (0.0, 0.5)
    assert (0.0 < moved_later < 0.01, scale_later) == (True, 0.5)

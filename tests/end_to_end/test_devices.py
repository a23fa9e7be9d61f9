"""Two devices train and score as one does; logical devices need a process of their own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
# Thirteen examples in batches of four, seven to score: the last batches are partly filled.
SCRIPT = """
import sys, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from ast_keras import from_preset
from ast_keras.progress import Progress
from ast_keras.recipe import load_recipe, override
from ast_keras.run import Run
recipe = override(load_recipe("quickstart"), '''data.num_train=13 data.num_validation=11
    data.num_test=10 data.clip_seconds=0.5 frontend.num_frames=48 model.size=ast_test
    augment.mixup_rate=0.5 augment.noise=true train.num_epochs=2 train.batch_size=4
    train.eval_batch_size=4'''.split())
runs = []
for devices in (1, 2):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    folder = f"{sys.argv[1]}/{devices}"
    run = Run(recipe, folder, strategy=strategy, progress=Progress(quiet=True))
    result = run.train()
    runs.append((result, from_preset(f"{folder}/last").get_weights()))
(one, ours), (two, theirs) = runs
print("LOSS", abs(one.last["train_loss"] - two.last["train_loss"]))
print("WEIGHTS", max(np.abs(a - b).max() for a, b in zip(ours, theirs)))
same = one.last["accuracy"] == two.last["accuracy"], one.test["mean_auc"] == two.test["mean_auc"]
print("SCORES", *same)
"""


def test_two_devices_train_and_score_as_one(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    found = dict(line.split(" ", 1) for line in process.stdout.splitlines() if line[:1].isupper())
    # Sums in another order over eight steps: seen 1.2e-7 and 6e-7.
    assert float(found["LOSS"]) < 1e-6
    assert float(found["WEIGHTS"]) < 2e-6
    assert found["SCORES"] == "True True"

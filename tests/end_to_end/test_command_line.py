"""The commands as a user runs them: train, stop, resume, evaluate, predict, and mistakes."""

import csv
import json
import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import soundfile

from tests.helpers.commands import ENVIRONMENT, assert_one_line_error, run, run_in_process, start
from tests.helpers.runs import TINY

# A checkpoint, a signal or a kill can come between any two of 21 steps.
SETTINGS = [
    *TINY,
    "model.num_layers=2",
    "data.num_train=56",
    "data.num_validation=20",
    "data.num_test=20",
    "train.batch_size=8",
    "train.steps_per_loop=2",
]


def train(workdir, *settings):
    flags = [f for s in [*SETTINGS, *settings] for f in ("--set", s)]
    return ["--recipe", "quickstart", "--workdir", workdir, *flags]


def weights(path):
    found = {}
    for part in ("model.weights.h5", path.name):  # those of the backbone, and those of the head
        with h5py.File(path.with_name(part)) as file:
            file.visititems(
                lambda n, v: found.update({n: v[()]} if isinstance(v, h5py.Dataset) else {})
            )
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run trained in this process, and what was printed."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    status, output, errors = run_in_process("train", *train(workdir))
    assert status == 0, errors
    return workdir, output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run trained by the command in a process of its own."""
    workdir = tmp_path_factory.mktemp("run") / "command"
    status, _, errors = run("train", *train(workdir))
    assert status == 0, errors
    return workdir


def assert_same_run(found, expected):
    for folder in ("last", "model"):
        first = weights(expected / folder / "task.weights.h5")
        second = weights(found / folder / "task.weights.h5")
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value, err_msg=f"{folder} {name}")
    assert (found / "epochs.csv").read_text() == (expected / "epochs.csv").read_text()
    assert not [path for path in found.rglob(".*")], "half-written files are left"


def test_train_writes_the_documented_files(finished):
    workdir, output = finished
    assert "epoch   3/3" in output
    assert "test, best epoch" in output
    with open(workdir / "epochs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    report = json.loads((workdir / "evaluation.json").read_text())
    assert report["split"] == "test"
    assert len(report["per_class"]) == 10
    for name in ("recipe.json", "environment.json", "curves.png", "confusion.png", "tensorboard",
                 "checkpoints", "last/task.weights.h5", "model/labels.csv"):  # fmt: skip
        assert (workdir / name).exists(), name
    assert not [p for p in workdir.rglob(".*")], "half-written files are left"


@pytest.mark.slow
def test_stopped_and_killed_run_ends_in_the_same_weights(whole, tmp_path):
    workdir = tmp_path / "stopped"
    # SIGTERM in the first epoch: saved between two steps.
    process = start("train", *train(workdir))
    assert any("epoch   1/3  step" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Stopped by SIGTERM; saved" in output
    # SIGKILL right after the first epoch: files that are being written then are lost.
    process = start("train", *train(workdir))
    assert any("epoch   1/3  loss" in line for line in process.stdout)
    process.kill()
    process.communicate()
    status, output, errors = run("train", *train(workdir))
    assert status == 0, errors
    assert "going on at step" in output
    assert_same_run(workdir, whole)


# The worst moments for a kill: the model folder is new and the checkpoint old; the checkpoint is
# written and the history is not; the old model folder is moved away before the new one is in place.
KILLED = """
import os, pathlib, sys
from ast_keras import train
from ast_keras.training import checkpoints, run
def die(*_, **__):
    os._exit(9)
moment = sys.argv.pop(1)
if moment == "before the checkpoint":
    save = checkpoints.RunCheckpoints.save
    checkpoints.RunCheckpoints.save = lambda self: die() if self._history else save(self)
elif moment == "after the checkpoint":
    run.write_history = die
else:
    rename = pathlib.Path.rename
    def rename_once(self, target):
        rename(self, target)
        if "-old-" in str(target):
            os._exit(9)
    pathlib.Path.rename = rename_once
train.run()
"""


@pytest.mark.slow
def test_kill_at_the_worst_moments_loses_nothing(whole, tmp_path):
    workdir = tmp_path / "killed"
    arguments = list(map(str, train(workdir, "train.checkpoint_minutes=0.001")))
    # The first kill leaves a model without its checkpoint, which the second run replaces.
    # The script imports TensorFlow before the command can set this variable.
    environment = {**ENVIRONMENT, "TF_ENABLE_ONEDNN_OPTS": "1"}
    for moment in ("before the checkpoint", "amid the model folder", "after the checkpoint"):
        process = subprocess.run(
            [sys.executable, "-c", KILLED, moment, *arguments],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert process.returncode == 9, (moment, process.stderr[-2000:])
    status, _, errors = run("train", *train(workdir, "train.checkpoint_minutes=0.001"))
    assert status == 0, errors
    assert_same_run(workdir, whole)


def test_finished_run_prints_its_result_again(finished):
    workdir, output = finished
    before = (workdir / "last" / "task.weights.h5").stat().st_mtime_ns
    arguments = ["--recipe", workdir / "recipe.json", "--workdir", workdir]
    status, again, errors = run_in_process("train", *arguments)
    assert status == 0, errors
    assert again.splitlines()[-5:] == output.splitlines()[-5:]
    assert (workdir / "last" / "task.weights.h5").stat().st_mtime_ns == before


def test_evaluate_agrees_with_training(finished, tmp_path):
    workdir, _ = finished
    target = tmp_path / "scores.json"
    arguments = ["--workdir", workdir, "--output", target]
    status, output, errors = run_in_process("evaluate", *arguments)
    assert status == 0, errors
    trained = json.loads((workdir / "evaluation.json").read_text())
    evaluated = json.loads(target.read_text())
    assert evaluated["scores"] == trained["scores"]
    assert evaluated["per_class"] == trained["per_class"]
    assert f"{trained['scores']['accuracy']:.4f}" in output


def test_predict_prints_tables_and_continues_after_a_bad_file(finished, tmp_path):
    workdir, _ = finished
    good, bad = tmp_path / "tone, 44.1 kHz.wav", tmp_path / "bad.wav"
    time = np.arange(44100) / 44100
    soundfile.write(good, np.stack([np.sin(3000 * time), np.zeros(44100)], 1) / 2, 44100)
    bad.write_bytes(b"not a sound")
    model = ["--model", workdir / "model", "--top", 2]
    status, output, errors = run_in_process("predict", *model, "--format", "json", good, bad)
    assert status == 1
    assert "bad.wav" in errors
    (row,) = json.loads(output)
    assert row["file"] == str(good)
    assert row["seconds"] == 1.0
    assert len(row["predictions"]) == 2
    assert row["predictions"][0]["score"] >= row["predictions"][1]["score"] > 0
    status, output, errors = run_in_process("predict", *model, "--format", "csv", good)
    assert status == 0, errors
    rows = list(csv.DictReader(output.splitlines()))
    assert [r["rank"] for r in rows] == ["1", "2"]
    assert rows[0]["label"] == row["predictions"][0]["label"]


def test_mistyped_recipe_or_setting_is_named(tmp_path):
    workdir = tmp_path / "a"
    status, _, errors = run_in_process("train", "--recipe", "esc05", "--workdir", workdir)
    assert_one_line_error(status, errors, "esc50")
    # In a process of its own: from the flags to the exit status.
    arguments = ["--recipe", "esc50", "--set", "train.batchsize=8", "--workdir", workdir]
    status, _, errors = run("train", *arguments)
    assert_one_line_error(status, errors, "batch_size")
    assert not workdir.exists()


def test_print_recipe_prints_and_exits(tmp_path):
    arguments = ["--recipe", "esc50", "--set", "seed=5", "--print_recipe"]
    status, output, errors = run("train", *arguments, cwd=tmp_path)
    assert status == 0, errors
    assert json.loads(output)["seed"] == 5
    assert not list(tmp_path.iterdir())


def test_list_settings_describes_every_setting():
    status, output, _ = run_in_process("train", "--recipe", "esc50", "--list_settings")
    assert status == 0
    assert "optimizer.learning_rate=1e-05\n    Base learning rate.\n" in output


@pytest.mark.slow
def test_full_disk_keeps_the_last_checkpoint(whole, tmp_path):
    workdir = tmp_path / "full"

    def limit():
        # No file may grow beyond this size: enough for pictures, too little for the weights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start("train", *train(workdir))
    assert any("epoch   1/3  loss" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    kept = sorted(p.name for p in (workdir / "checkpoints").glob("*.index"))
    assert kept
    status, _, errors = run("train", *train(workdir), preexec_fn=limit)
    assert_one_line_error(status, errors, "checkpoint")
    assert set(kept) <= {p.name for p in (workdir / "checkpoints").glob("*.index")}
    status, _, errors = run("train", *train(workdir))
    assert status == 0, errors
    assert_same_run(workdir, whole)


@pytest.mark.slow
def test_quickstart_trains_and_predicts(tmp_path):
    flags = [f for s in SETTINGS for f in ("--set", s)]
    status, output, errors = run("quickstart", "--workdir", tmp_path / "run", *flags)
    assert status == 0, errors
    assert "predicted for" in output
    assert "test accuracy" in output

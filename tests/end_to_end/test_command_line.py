"""The commands as a user runs them: train, stop, go on, evaluate, predict, and every mistake."""

import csv
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(__file__).parents[2]
# Every source of randomness is on: if one is not resumed exactly, the weights differ.
TINY = [
    "data.num_train=56",
    "data.num_validation=20",
    "data.num_test=20",
    "data.clip_seconds=0.5",
    "frontend.num_frames=48",
    "model.size=ast_test",
    "model.dropout=0.1",
    "model.drop_path=0.1",
    "augment.mixup_rate=0.5",
    "augment.noise=true",
    "augment.roll_frames=3",
    "augment.shift_seconds=0.05",
    "train.num_epochs=3",
    "train.batch_size=8",
    "train.steps_per_loop=2",
]


def command(module, *arguments):
    return [sys.executable, "-m", f"ast_keras.{module}", *map(str, arguments)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def start(module, *arguments, **settings):
    return subprocess.Popen(
        command(module, *arguments), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


def run(module, *arguments, **settings):
    process = start(module, *arguments, **settings)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def train(workdir, *settings):
    flags = [f for s in [*TINY, *settings] for f in ("--set", s)]
    return ["--recipe", "quickstart", "--workdir", workdir, *flags]


def weights(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda n, v: found.update({n: v[()]} if isinstance(v, h5py.Dataset) else {})
        )
    return found


def last_line(errors):
    return errors.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    status, output, errors = run("train", *train(workdir))
    assert status == 0, errors
    return workdir, output


def test_train_leaves_what_it_promises(finished):
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
    assert not [p for p in workdir.rglob(".*")], "temporary files are left"


@pytest.mark.slow
def test_a_stopped_and_killed_run_ends_in_the_same_weights(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "stopped"
    # SIGTERM in the first epoch: saved between two steps.
    process = start("train", *train(workdir))
    assert any("epoch   1/3  step" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Stopped by SIGTERM; saved" in output
    # SIGKILL right after the first epoch: whatever is being written then is lost.
    process = start("train", *train(workdir))
    assert any("epoch   1/3  loss" in line for line in process.stdout)
    process.kill()
    process.communicate()
    status, output, errors = run("train", *train(workdir))
    assert status == 0, errors
    assert "going on at step" in output
    for folder in ("last", "model"):
        expected = weights(whole / folder / "task.weights.h5")
        resumed = weights(workdir / folder / "task.weights.h5")
        assert expected.keys() == resumed.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert (workdir / "epochs.csv").read_text() == (whole / "epochs.csv").read_text()


# Where a kill hurts most: the model folder is new and the checkpoint old; the checkpoint is written
# and the history is not; the old model folder is moved away and the new one not yet there.
KILLED = """
import os, pathlib, sys
from ast_keras import presets, run, train
def die(*_):
    os._exit(9)
moment = sys.argv.pop(1)
if moment == "before the checkpoint":
    save = run.Run._save
    run.Run._save = lambda self: die() if self.history else save(self)
elif moment == "after the checkpoint":
    run.Run._write_history = lambda self: self.history and die()
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
def test_a_kill_at_the_worst_moments_loses_nothing(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "killed"
    arguments = list(map(str, train(workdir, "train.checkpoint_minutes=0.001")))
    # The first kill leaves a model without its checkpoint, which the second run replaces.
    # It imports TensorFlow before the command can set this, without which sums round differently.
    settings = {**environment(), "TF_ENABLE_ONEDNN_OPTS": "1"}
    for moment in ("before the checkpoint", "amid the model folder", "after the checkpoint"):
        process = subprocess.run(
            [sys.executable, "-c", KILLED, moment, *arguments],
            env=settings, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert process.returncode == 9, (moment, process.stderr[-2000:])
    status, _, errors = run("train", *train(workdir, "train.checkpoint_minutes=0.001"))
    assert status == 0, errors
    for folder in ("last", "model"):
        expected = weights(whole / folder / "task.weights.h5")
        for name, value in weights(workdir / folder / "task.weights.h5").items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{folder} {name}")
    assert (workdir / "epochs.csv").read_text() == (whole / "epochs.csv").read_text()
    assert not [p for p in workdir.rglob(".*")], "half-written folders are left"


def test_a_finished_run_says_its_result_again(finished):
    workdir, output = finished
    before = (workdir / "last" / "task.weights.h5").stat().st_mtime
    status, again, errors = run("train", "--recipe", workdir / "recipe.json", "--workdir", workdir)
    assert status == 0, errors
    assert again.splitlines()[-5:] == output.splitlines()[-5:]
    assert (workdir / "last" / "task.weights.h5").stat().st_mtime == before


def test_evaluate_agrees_with_training(finished, tmp_path):
    workdir, _ = finished
    target = tmp_path / "scores.json"
    status, output, errors = run("evaluate", "--workdir", workdir, "--output", target)
    assert status == 0, errors
    trained = json.loads((workdir / "evaluation.json").read_text())
    evaluated = json.loads(target.read_text())
    assert evaluated["scores"] == trained["scores"]
    assert evaluated["per_class"] == trained["per_class"]
    assert f"{trained['scores']['accuracy']:.4f}" in output


def test_predict_prints_tables_and_survives_a_bad_file(finished, tmp_path):
    workdir, _ = finished
    good, bad = tmp_path / "tone, 44.1 kHz.wav", tmp_path / "bad.wav"
    time = np.arange(44100) / 44100
    soundfile.write(good, np.stack([np.sin(3000 * time), np.zeros(44100)], 1) / 2, 44100)
    bad.write_bytes(b"not a sound")
    model = ["--model", workdir / "model", "--top", 2]
    status, output, errors = run("predict", *model, "--format", "json", good, bad)
    assert status == 1
    assert "bad.wav" in errors
    (row,) = json.loads(output)
    assert row["file"] == str(good)
    assert row["seconds"] == 1.0
    assert len(row["predictions"]) == 2
    assert row["predictions"][0]["score"] >= row["predictions"][1]["score"] > 0
    status, output, errors = run("predict", *model, "--format", "csv", good)
    assert status == 0, errors
    rows = list(csv.DictReader(output.splitlines()))
    assert [r["rank"] for r in rows] == ["1", "2"]
    assert rows[0]["label"] == row["predictions"][0]["label"]
    assert "the model hears the first" in errors


def one_line(status, errors, *parts):
    assert status == 1, errors
    line = last_line(errors)
    assert line.startswith("error: ")
    assert "Traceback" not in errors
    for part in parts:
        assert part in line, line


def test_a_mistyped_recipe_or_setting_is_named(tmp_path):
    status, _, errors = run("train", "--recipe", "esc05", "--workdir", tmp_path / "a")
    one_line(status, errors, "esc50")
    arguments = ["--recipe", "esc50", "--set", "train.batchsize=8", "--workdir", tmp_path / "a"]
    status, _, errors = run("train", *arguments)
    one_line(status, errors, "batch_size")
    assert not (tmp_path / "a").exists()


def test_print_recipe_shows_and_stops(tmp_path):
    arguments = ["--recipe", "esc50", "--set", "seed=5", "--print_recipe"]
    status, output, errors = run("train", *arguments, cwd=tmp_path)
    assert status == 0, errors
    assert json.loads(output)["seed"] == 5
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_recipe_in_the_same_folder_is_refused(finished):
    workdir, _ = finished
    status, _, errors = run("train", *train(workdir, "train.batch_size=4"))
    one_line(status, errors, "train.batch_size")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "full"

    def limit():
        # No file may grow beyond this: enough for the pictures, too little for the weights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start("train", *train(workdir))
    assert any("epoch   1/3  loss" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    kept = sorted(p.name for p in (workdir / "checkpoints").glob("*.index"))
    assert kept
    status, _, errors = run("train", *train(workdir), preexec_fn=limit)
    one_line(status, errors, "checkpoint")
    assert set(kept) <= {p.name for p in (workdir / "checkpoints").glob("*.index")}
    status, _, errors = run("train", *train(workdir))
    assert status == 0, errors
    expected = weights(whole / "last" / "task.weights.h5")
    for name, value in weights(workdir / "last" / "task.weights.h5").items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

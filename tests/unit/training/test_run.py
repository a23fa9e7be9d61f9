"""A run: resumed to the bit, stopped by errors in one line, and refused where it would do harm."""

import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from ast_keras.errors import (
    ArgumentError,
    AudioError,
    DatasetError,
    RecipeError,
    TrainingError,
    WeightsError,
)
from ast_keras.presets import hub
from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.checkpoints import RunCheckpoints
from ast_keras.training.interruption import Interrupted
from ast_keras.training.run import Run
from ast_keras.training.run_folder import kept_epochs, locked
from tests.helpers.arrays import assert_same
from tests.helpers.runs import AVERAGING, SignalAt, finished_run, prepare, tiny_recipe, weights


def write_manifest(folder, labels=("hum", "hiss"), broken=None):
    """Writes twelve clips and their manifest; returns the settings that name it."""
    rng = np.random.default_rng(1)
    rows = []
    for index in range(12):
        name = f"clip {index}.wav"
        soundfile.write(folder / name, rng.uniform(-0.3, 0.3, 4800), 16000)
        rows.append((name, labels[index % 2], ("train", "train", "test")[index % 3]))
    if broken is not None:
        (folder / rows[broken][0]).write_bytes(b"RIFF but no more")
    with open(folder / "sounds.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    settings = ["data.num_train=none", "data.num_validation=none", "data.num_test=none"]
    return [*settings, "data.kind=manifest", f"data.path={folder / 'sounds.csv'}"]


def copy_of_finished_run(tmp_path):
    recipe, workdir, _ = finished_run()
    return recipe, shutil.copytree(workdir, tmp_path / "run")


def assert_same_run(found, expected):
    """Asserts that two runs ended with the same models and history, to the bit."""
    for folder in ("last", "model", "epochs/02", "epochs/03"):
        assert_same(weights(found / folder), weights(expected / folder))
    assert (found / "epochs.csv").read_text() == (expected / "epochs.csv").read_text()
    hidden = [path for path in found.rglob(".*")]
    assert not hidden, "half-written files are left"


# --- Resuming ---


def test_run_constructor_only_stores(tmp_path):
    run = Run(load_recipe("quickstart"), tmp_path / "run")
    assert run.context is None
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stopped_run_ends_in_the_same_weights(tmp_path):
    recipe, expected, _ = finished_run()
    with pytest.raises(Interrupted):
        Run(recipe, tmp_path / "run", progress=SignalAt(step=5)).train()
    assert not (tmp_path / "run" / "evaluation.json").exists()
    prepare(recipe, tmp_path / "run").train()
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.slow
def test_damaged_checkpoint_is_replaced_by_the_one_before(tmp_path):
    recipe, workdir = copy_of_finished_run(tmp_path)
    older, newer = prepare(recipe, workdir).checkpoints.paths
    with open(f"{newer}.data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    run = prepare(recipe, workdir)
    assert run.checkpoints.restore()
    assert int(run.trainer.global_step.numpy()) == 6
    assert len(run.history) == 2
    with open(f"{older}.data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    with pytest.raises(TrainingError, match="No checkpoint of this run can be read"):
        prepare(recipe, workdir).train()


@pytest.mark.slow
def test_kill_between_kept_epoch_and_checkpoint_loses_nothing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die_after_the_last_epoch(self):
        if len(run.history) == 3:
            raise Killed
        save(self)

    recipe, expected, _ = finished_run()
    workdir = tmp_path / "run"
    run, save = prepare(recipe, workdir), RunCheckpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "save", die_after_the_last_epoch)
        with pytest.raises(Killed):
            run.train()
    kept = kept_epochs(workdir)
    assert list(kept) == [2, 3]
    written = (kept[2] / "task.weights.h5").stat().st_mtime_ns
    # A kill while the folder is replaced also leaves a half-written one.
    (workdir / "epochs" / ".02-half").mkdir()
    (workdir / "epochs" / ".02-half" / "task.weights.h5").write_bytes(b"half")
    prepare(recipe, workdir).train()
    assert_same_run(workdir, expected)
    assert (kept[2] / "task.weights.h5").stat().st_mtime_ns == written


def test_run_keeps_the_requested_epochs():
    _, workdir, _ = finished_run()
    kept = {epoch: weights(path) for epoch, path in kept_epochs(workdir).items()}
    assert list(kept) == [2, 3]
    assert_same(kept[3], weights(workdir / "last"))
    assert any(np.any(a != b) for a, b in zip(kept[2], kept[3], strict=True))


def test_finished_run_is_left_unchanged(tmp_path):
    recipe, workdir = copy_of_finished_run(tmp_path)
    files = [p for p in workdir.rglob("*") if p.name in ("task.weights.h5", "report.html")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 5
    prepare(recipe, workdir).train()
    assert {path: path.stat().st_mtime_ns for path in files} == before


# --- Errors while training ---


def test_diverging_run_stops_in_one_line_and_is_not_saved(tmp_path):
    settings = ("optimizer.learning_rate=1e30", "optimizer.warmup_steps=0")
    recipe = tiny_recipe(*settings, "train.checkpoint_minutes=1e-9")
    run = prepare(recipe, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"The loss is \w+ at step 2\. Lower optim") as caught:
        run.train()
    assert "\n" not in str(caught.value)
    # The weights after the first step are huge, but finite.
    (saved,) = run.checkpoints.paths
    assert saved in str(caught.value)
    assert tf.train.latest_checkpoint(tmp_path / "run" / "checkpoints") == saved
    assert not (tmp_path / "run" / "model").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = prepare(tiny_recipe(), tmp_path / "run")
    run.model.head.bias.assign(np.full(10, np.inf))
    with pytest.raises(TrainingError, match="no longer finite"):
        run.checkpoints.save()
    assert run.checkpoints.paths == []


@pytest.mark.parametrize("clip", [3, 2], ids=["training file", "test file"])
def test_unreadable_file_stops_with_its_name(clip, tmp_path):
    recipe = tiny_recipe("train.num_epochs=1", *write_manifest(tmp_path, broken=clip))
    with pytest.raises(AudioError, match=rf"clip {clip}\.wav"):
        prepare(recipe, tmp_path / "run").train()


@pytest.mark.slow
def test_file_deleted_while_training_is_named(tmp_path):
    recipe = tiny_recipe("data.cache_megabytes=0", *write_manifest(tmp_path))
    run = prepare(recipe, tmp_path / "run")
    (tmp_path / "clip 4.wav").unlink()
    with pytest.raises(AudioError, match=r"clip 4\.wav"):
        run.train()


# --- Own recordings ---


@pytest.fixture(scope="module")
def own_recordings(tmp_path_factory):
    """A run on a manifest without a validation split."""
    folder = tmp_path_factory.mktemp("own")
    recipe = tiny_recipe("train.num_epochs=1", *write_manifest(folder))
    return recipe, folder, prepare(recipe, folder / "run").train()


def test_own_recordings_train_evaluate_and_report(own_recordings):
    _, folder, result = own_recordings
    assert result.test is None  # without a validation split, the test split chose the epoch
    assert result.chosen["epoch"] == 1
    report = json.loads((folder / "run" / "evaluation.json").read_text())
    assert [row["label"] for row in report["per_class"]] == ["hiss", "hum"]
    assert report["chosen_by"] == "accuracy on test"


def test_run_is_not_resumed_on_other_data(own_recordings, tmp_path):
    recipe, folder, _ = own_recordings
    shutil.copytree(folder / "run", tmp_path / "run")
    write_manifest(tmp_path, labels=("hum", "howl"))
    recipe = override(recipe, [f"data.path={tmp_path / 'sounds.csv'}"])
    with pytest.raises(RecipeError, match="has changed since this run started"):
        prepare(recipe, tmp_path / "run").train()


# --- What is refused before anything is written ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["data.validation_split=valid"], DatasetError, "valid"),
        (["model.patch_size=256,2"], ArgumentError, "at least one patch"),
        (["train.accumulate_steps=5"], RecipeError, r"at least train\.accumulate_steps times"),
        (["model.size=ast_huge"], RecipeError, r"model\.size must be one of ast_"),
    ],
    ids=["split", "patch size", "batch size", "size"],
)
def test_impossible_recipe_is_refused_before_anything_is_written(
    settings, error, message, tmp_path
):
    with pytest.raises(error, match=message) as caught:
        prepare(tiny_recipe(*settings), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_data_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        prepare(override(load_recipe("esc10"), ["data.path=nowhere"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_labels_need_binary_cross_entropy(tmp_path):
    settings = write_manifest(tmp_path, labels=("hum;hiss", "hiss"))
    with pytest.raises(RecipeError, match=r"train\.loss=binary"):
        prepare(tiny_recipe(*settings), tmp_path / "run")
    settings += ["train.loss=binary", "train.class_weights=balanced"]
    with pytest.raises(RecipeError, match=r"--set data\.sampling=weighted"):
        prepare(tiny_recipe(*settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_start_weights_are_named_with_their_place(tmp_path, monkeypatch):
    monkeypatch.delenv("AST_KERAS_PRESETS", raising=False)
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "_find_in_hub_cache", lambda preset: None)
    recipe = tiny_recipe("model.size=ast_base", "model.start=ast_base_audioset")
    message = rf"Put model\.safetensors of .* at {tmp_path / 'cache'}/presets/ast_base_audioset/"
    with pytest.raises(WeightsError, match=message):
        prepare(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_foreign_folder_is_left_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match="work directory must be new"):
        prepare(tiny_recipe(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_recipe_in_the_same_folder_is_refused():
    _, workdir, _ = finished_run()
    saved = (workdir / "recipe.json").read_text()
    with pytest.raises(RecipeError, match=r"run with train\.batch_size=4: .* train\.batch_size=3"):
        prepare(tiny_recipe(*AVERAGING, "train.batch_size=3"), workdir)
    assert (workdir / "recipe.json").read_text() == saved


def test_locked_folder_is_refused_and_keeps_its_recipe(tmp_path):
    run = prepare(tiny_recipe(), tmp_path / "run")
    saved = (run.workdir / "recipe.json").read_text()
    with locked(run.workdir):
        with pytest.raises(RecipeError, match="Another process is training"):
            run.train()
        with pytest.raises(RecipeError, match="Another process is training"):
            prepare(tiny_recipe("seed=77"), run.workdir)
    assert (run.workdir / "recipe.json").read_text() == saved


# --- Start weights ---


def test_saved_model_is_a_start(tmp_path):
    _, workdir, _ = finished_run()
    expected = weights(workdir / "model")
    start = f"model.start={workdir / 'model'}"
    run = prepare(tiny_recipe(start, "augment.freq_mask_bins=7"), tmp_path / "same")
    assert_same(run.model.get_weights(), expected)
    assert run.model.augment.freq_mask_bins == 7
    settings = ("model.drop_path=0.3", "train.precision=mixed_bfloat16")
    run = prepare(tiny_recipe(start, *settings), tmp_path / "other")
    assert_same(run.model.get_weights(), expected)
    assert run.model.backbone.policy.name == "mixed_bfloat16"
    assert run.model.backbone.drop_path == 0.3


def test_start_weights_of_another_network_are_refused(tmp_path):
    _, workdir, _ = finished_run()
    start = f"model.start={workdir / 'model'}"
    with pytest.raises(RecipeError, match=r"its num_layers is 1, the recipe's 2\."):
        prepare(tiny_recipe(start, "model.num_layers=2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_run_in_mixed_precision_ends_in_a_usable_model(precision, tmp_path):
    recipe = tiny_recipe(f"train.precision={precision}", "train.num_epochs=1")
    run = prepare(recipe, tmp_path / "run")
    assert np.isfinite(run.train().last["train_loss"])
    assert int(run.trainer.global_step.numpy()) == run.context.num_steps
    assert from_preset(tmp_path / "run" / "model").backbone.policy.name == precision

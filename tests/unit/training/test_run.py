"""What stops a run, in one line, and what it leaves behind."""

import csv
import json
import math

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from ast_keras.errors import AudioError, DatasetError, RecipeError, TrainingError, WeightsError
from ast_keras.presets import hub
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.interruption import Interrupted
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run, best_epoch
from ast_keras.training.run_folder import kept_epochs, locked

SMALL = [
    "frontend.num_frames=48",
    "data.clip_seconds=0.5",
    "model.size=ast_test",
    "train.num_epochs=2",
    "train.batch_size=4",
    "train.steps_per_loop=1",
]
RENDERED = [*SMALL, "data.num_train=12", "data.num_validation=10", "data.num_test=10"]


def small(*settings, base=RENDERED):
    return override(load_recipe("quickstart"), [*base, *settings])


def quiet_run(recipe, workdir):
    return Run(recipe, workdir, progress=Progress(quiet=True))


def manifest(folder, labels=("hum", "hiss"), broken=None):
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
    return [*SMALL, "data.kind=manifest", f"data.path={folder / 'sounds.csv'}"]


def test_a_nan_loss_stops_in_one_line_and_is_never_saved(tmp_path):
    healthy = quiet_run(small(), tmp_path / "run")
    healthy._save()
    kept = healthy.checkpoints.latest_checkpoint
    diverging = quiet_run(small(), tmp_path / "run")
    diverging.model.head.bias.assign(np.full(10, np.nan))
    diverging._restore = lambda: None
    with pytest.raises(TrainingError, match=r"The loss is nan at step 1\. Lower") as caught:
        diverging.train()
    assert "\n" not in str(caught.value)
    assert kept in str(caught.value)
    assert tf.train.latest_checkpoint(tmp_path / "run" / "checkpoints") == kept
    assert not (tmp_path / "run" / "model").exists()


def test_a_diverging_learning_rate_is_caught(tmp_path):
    recipe = small("optimizer.learning_rate=1e30", "optimizer.warmup_steps=0", "train.num_epochs=3")
    with pytest.raises(TrainingError, match=r"optimizer\.learning_rate"):
        quiet_run(recipe, tmp_path / "run").train()


def test_an_unreadable_file_stops_with_its_name(tmp_path):
    recipe = small(base=manifest(tmp_path, broken=3))
    with pytest.raises(AudioError, match=r"clip 3\.wav"):
        quiet_run(recipe, tmp_path / "run").train()


def test_an_unreadable_test_file_stops_with_its_name_and_keeps_the_state(tmp_path):
    recipe = small(base=manifest(tmp_path, broken=2))
    with pytest.raises(AudioError, match=r"clip 2\.wav"):
        quiet_run(recipe, tmp_path / "run").train()


def test_own_recordings_train_evaluate_and_report(tmp_path):
    result = quiet_run(small(base=manifest(tmp_path)), tmp_path / "run").train()
    assert result.test is None  # without a validation split the test split chose the epoch
    assert result.chosen["epoch"] in (1, 2)
    assert result.last["epoch"] == 2
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["label"] for row in report["per_class"]] == ["hiss", "hum"]
    assert report["chosen_by"] == "accuracy on test"


def test_several_labels_need_binary_cross_entropy(tmp_path):
    settings = manifest(tmp_path, labels=("hum;hiss", "hiss"))
    with pytest.raises(RecipeError, match=r"train\.loss=binary"):
        quiet_run(small(base=settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    recipe = small("train.loss=binary", "train.metric=mean_average_precision", base=settings)
    result = quiet_run(recipe, tmp_path / "run").train()
    assert result.metric == "mean_average_precision"


def test_a_missing_data_folder_stops_before_anything_is_written(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        Run(override(load_recipe("esc10"), ["data.path=nowhere"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_start_weights_that_cannot_be_had_name_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("AST_KERAS_PRESETS", raising=False)
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "_find_in_hub_cache", lambda preset: None)
    recipe = small("model.size=ast_base", "model.start=ast_base_audioset")
    message = rf"Put model\.safetensors of .* at {tmp_path / 'cache'}/presets/ast_base_audioset/"
    with pytest.raises(WeightsError, match=message):
        quiet_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_saved_model_is_a_start(tmp_path):
    first = quiet_run(small(), tmp_path / "first")
    first.train()
    start = f"model.start={tmp_path / 'first' / 'model'}"
    again = quiet_run(small(start, "augment.freq_mask_bins=7"), tmp_path / "second")
    for ours, theirs in zip(again.model.get_weights(), first.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.model.augment.freq_mask_bins == 7
    mixed = quiet_run(small(start, "train.precision=mixed_bfloat16"), tmp_path / "third").model
    assert mixed.backbone.policy.name == "mixed_bfloat16"
    for ours, theirs in zip(mixed.get_weights(), first.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_split_of_another_name_is_asked_for_by_name(tmp_path):
    with pytest.raises(DatasetError, match="valid"):
        quiet_run(small("data.validation_split=valid"), tmp_path / "run")


@pytest.mark.parametrize(
    "precision", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_mixed_precision_trains_to_the_last_step(precision, tmp_path):
    run = quiet_run(small(f"train.precision={precision}", "train.num_epochs=1"), tmp_path / "run")
    assert np.isfinite(run.train().last["train_loss"])
    assert int(run.global_step.numpy()) == run.last_step


def test_a_foreign_folder_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match="work directory must be new"):
        quiet_run(small(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_best_epoch_is_the_first_of_equals_and_ignores_nan():
    rows = [{"accuracy": value} for value in (math.nan, 0.5, 0.7, 0.7)]
    assert best_epoch(rows, "accuracy") is rows[2]


def stopped_run(recipe, workdir, step):
    """Trains until a step and stops there as after SIGTERM."""
    run = quiet_run(recipe, workdir)
    look = run._after_loop

    def stop(output):
        look(output)
        if int(run.global_step.numpy()) >= step:
            raise Interrupted(15)

    run._after_loop = stop
    with pytest.raises(Interrupted):
        run.train()
    return run


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    recipe = small(base=manifest(tmp_path))
    stopped_run(recipe, tmp_path / "run", step=1)
    manifest(tmp_path, labels=("hum", "howl"))
    with pytest.raises(RecipeError, match="not what this run began with"):
        quiet_run(recipe, tmp_path / "run").train()


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    recipe = small()
    run = stopped_run(recipe, tmp_path / "run", step=4)  # one after the epoch, one at the stop
    older, newer = run.checkpoints.checkpoints
    with open(f"{newer}.data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    again = quiet_run(recipe, tmp_path / "run")
    again._restore()
    assert int(again.global_step.numpy()) == 3
    with open(f"{older}.data-00000-of-00001", "r+b") as file:
        file.truncate(100)
    with pytest.raises(TrainingError, match="No checkpoint of this run can be read"):
        quiet_run(recipe, tmp_path / "run").train()


def test_a_file_deleted_while_training_is_named(tmp_path):
    recipe = small("data.cache_megabytes=0", base=manifest(tmp_path))
    run = quiet_run(recipe, tmp_path / "run")
    (tmp_path / "clip 4.wav").unlink()
    with pytest.raises(AudioError, match=r"clip 4\.wav"):
        run.train()


def test_a_second_process_is_kept_out_of_the_folder(tmp_path):
    pytest.importorskip("fcntl", reason="folders are locked where the system can")
    run = quiet_run(small(), tmp_path / "run")
    with locked(run.workdir), pytest.raises(RecipeError, match="Another process is training"):
        run.train()


def test_a_refused_process_leaves_the_other_its_recipe(tmp_path):
    pytest.importorskip("fcntl", reason="folders are locked where the system can")
    run = quiet_run(small(), tmp_path / "run")
    saved = (run.workdir / "recipe.json").read_text()
    with locked(run.workdir), pytest.raises(RecipeError, match="Another process is training"):
        quiet_run(small("seed=77"), run.workdir)
    assert (run.workdir / "recipe.json").read_text() == saved


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = quiet_run(small(), tmp_path / "run")
    run.model.head.bias.assign(np.full(10, np.inf))
    with pytest.raises(TrainingError, match="no longer finite"):
        run._save()
    assert run.checkpoints.latest_checkpoint is None


def test_a_start_model_does_not_overrule_settings_silently(tmp_path):
    save_to_preset(quiet_run(small(), tmp_path / "run").model, tmp_path / "model")
    start = f"model.start={tmp_path / 'model'}"
    run = quiet_run(small(start, "model.drop_path=0.3"), tmp_path / "second")
    assert run.model.backbone.drop_path == 0.3
    with pytest.raises(RecipeError, match=r"its num_layers is 2, the recipe's 1\."):
        quiet_run(small(start, "model.num_layers=1"), tmp_path / "third")
    assert not (tmp_path / "third").exists()


def kept_weights(workdir):
    return {epoch: from_preset(path).get_weights() for epoch, path in kept_epochs(workdir).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for epoch, weights in expected.items():
        for ours, theirs in zip(found[epoch], weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


KEEPING = ["train.num_epochs=3", "train.keep_epochs=2,3"]


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    """A run that kept its epochs 2 and 3."""
    workdir = tmp_path_factory.mktemp("keeping") / "run"
    quiet_run(small(*KEEPING), workdir).train()
    return workdir


def test_a_run_keeps_the_epochs_asked_for(keeping):
    kept = kept_weights(keeping)
    assert list(kept) == [2, 3]
    assert_same({3: kept[3]}, {3: from_preset(keeping / "last").get_weights()})
    assert any(np.any(a != b) for a, b in zip(kept[2], kept[3], strict=True))
    for folder in (keeping / "epochs").iterdir():
        sizes = [(folder / f"{part}.weights.h5").stat().st_size for part in ("task", "model")]
        assert sizes[0] < sizes[1], "the backbone is stored twice"


@pytest.mark.slow
def test_a_kill_between_kept_epoch_and_checkpoint_loses_nothing(keeping, tmp_path):
    class Killed(BaseException):
        pass

    def die():
        if len(run.history) == 3:
            raise Killed
        save()

    workdir = tmp_path / "run"
    run = quiet_run(small(*KEEPING), workdir)
    save, run._save = run._save, die
    with pytest.raises(Killed):
        run.train()
    kept = kept_epochs(workdir)
    assert list(kept) == [2, 3]
    written = (kept[2] / "task.weights.h5").stat().st_mtime_ns
    # As a kill amid the folder's exchange leaves it: the half-written one is there as well.
    (workdir / "epochs" / ".02-half").mkdir()
    (workdir / "epochs" / ".02-half" / "task.weights.h5").write_bytes(b"half")
    again = quiet_run(small(*KEEPING), workdir)
    again._restore()
    assert list(kept_epochs(workdir)) == [2], "the checkpoint does not know epoch 3"
    again.train()
    assert_same(kept_weights(workdir), kept_weights(keeping))
    assert (kept[2] / "task.weights.h5").stat().st_mtime_ns == written
    assert sorted(p.name for p in (workdir / "epochs").iterdir()) == ["02", "03"]
    assert (workdir / "epochs.csv").read_text() == (keeping / "epochs.csv").read_text()


def test_a_finished_run_asked_again_leaves_the_kept_epochs(keeping):
    before = kept_weights(keeping)
    quiet_run(small(*KEEPING), keeping).train()
    assert_same(kept_weights(keeping), before)

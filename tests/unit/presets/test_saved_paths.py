"""Every way to name a saved model: its folder, its files, the run's folder, a Keras file."""

import os

import keras
import numpy as np
import pytest
import soundfile

from ast_keras import LabelSet
from ast_keras.commands.inputs import load_model
from ast_keras.commands.resume import weights_key
from ast_keras.errors import ArgumentError, EvaluationError, WeightsError
from ast_keras.evaluation.ensemble import member_names
from ast_keras.presets.loading import backbone_from_preset, filterbank_from_preset, from_preset
from ast_keras.presets.saved_paths import saved_model_path
from ast_keras.recipe import load_recipe, override
from ast_keras.training.build import make_model
from tests.helpers.arrays import assert_same
from tests.helpers.commands import assert_one_line_error, run_in_process
from tests.helpers.errors import error_of
from tests.helpers.models import saved_classifier


def make_run(folder):
    """Makes the work directory of a run whose models are links to one that is saved."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "ckpt-5.index").touch()
    (folder / "recipe.json").write_text("{}")
    for name in ("model", "last"):
        (folder / name).symlink_to(saved_classifier())
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a run, the folds of another and three Keras files."""
    folder = tmp_path_factory.mktemp("models")
    make_run(folder / "run")
    for number in (1, 2):
        make_run(folder / "folds" / f"fold_{number}")
    (folder / "new").mkdir()
    (folder / "new" / "recipe.json").write_text("{}")
    model = from_preset(saved_classifier())
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.save(folder / "best.keras")
    model.save_weights(folder / "best.weights.h5")
    model.backbone.save(folder / "backbone.keras")
    from_preset(saved_classifier(), frontend=None).save(folder / "spectrograms.keras")
    (folder / "short.keras").write_bytes((folder / "best.keras").read_bytes()[:5000])
    return folder


@pytest.mark.parametrize(
    "name",
    ["run", "run/", "run/model", "run/model/", "run/last", "run/model/task.json",
     "run/model/model.weights.h5", "./run/../run", "folds/fold_2"],
)  # fmt: skip
def test_every_name_stands_for_the_saved_folder(models, name, monkeypatch):
    monkeypatch.chdir(models)
    assert os.path.realpath(saved_model_path(name)) == os.path.realpath(saved_classifier())
    monkeypatch.setenv("HOME", str(models))
    assert saved_model_path(f"~/{name}") == os.path.join(models, saved_model_path(name))


@pytest.mark.parametrize("name", ["run", "best.keras"])
def test_model_parts_and_start_weights_take_the_same_names(models, name):
    path, saved = models / name, from_preset(saved_classifier())
    assert_same(from_preset(path).get_weights(), saved.get_weights())
    assert_same(backbone_from_preset(path).get_weights(), saved.backbone.get_weights())
    assert filterbank_from_preset(path).get_config() == saved.frontend.get_config()
    settings = [f"model.start={path}", "model.size=auto", "frontend.num_frames=98",
                "frontend.mean=-4", "frontend.std=4"]  # fmt: skip
    recipe = override(load_recipe("finetune"), [*settings, "model.strides=none"])
    model = make_model(recipe, LabelSet(("a", "b", "c")))
    assert_same(model.backbone.get_weights(), saved.backbone.get_weights())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folds", "holds some (fold_1, fold_2): name one, such as {}/folds/fold_1"),
        (".", "holds some (backbone.keras, best.keras, run,"),
        ("new", "no model yet"),
        ("run/checkpoints", "or that of the last epoch, {}/run/last"),
        ("run/checkpoints/ckpt-5", "or that of the last epoch, {}/run/last"),
        ("rum", "Did you mean {}/run?"),
        ("rum/model", "Did you mean {}/run/model?"),
        ("run/Model2", "Did you mean {}/run/model?"),
        ("bset.keras", "Did you mean {}/best.keras?"),
        ("nothing/like/this", "There is no such file or folder. Received"),
        ("best.weights.h5", "model.load_weights"),
        ("short.keras", "no Keras file, or it is cut short"),
        ("backbone.keras", "which holds ASTBackbone"),
    ],
)
def test_other_names_are_refused_with_the_way_out(models, name, message):
    error = error_of(from_preset, models / name)
    assert message.format(models) in error
    assert f"Received: {models / name}" in error


def test_misspelt_name_without_folder_suggests_a_run_here(models, monkeypatch):
    monkeypatch.chdir(models)
    assert "Did you mean run? Received" in error_of(from_preset, "rum")
    assert "Did you mean 'ast_base_audioset'?" in error_of(from_preset, "ast_bse_audioset")
    with pytest.raises(WeightsError, match="name or the path of a model"):
        from_preset("")


def test_names_of_presets_and_other_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ast_base", "MIT/ast-finetuned-audioset-10-10-0.4593", "gone/ckpt-1"):
        assert saved_model_path(name) == name
    make_run(tmp_path / "transformers")
    (tmp_path / "transformers" / "model.safetensors").touch()
    assert saved_model_path("transformers") == "transformers"


def test_model_of_spectrograms_is_named(models):
    with pytest.raises(ArgumentError, match=r"frontend=None of .*spectrograms\.keras$"):
        load_model(str(models / "spectrograms.keras"))


def test_one_model_named_in_two_ways_is_found(models):
    with pytest.raises(EvaluationError, match="may be named once"):
        member_names([str(models / "run"), str(models / "run" / "model")])
    assert member_names(["run", "ensemble_s"])[0] == "run"


def test_resume_log_notices_another_training_of_a_run(models, tmp_path):
    run, saved = tmp_path / "run", tmp_path / "run" / "model"
    saved.mkdir(parents=True)
    (saved / "task.weights.h5").write_text("one")
    first = weights_key(str(run))
    assert first == weights_key(str(saved)) != []
    (saved / "task.weights.h5").write_text("another")
    assert weights_key(str(run)) != first
    assert weights_key(str(models / "best.keras"))[0] == os.path.getsize(models / "best.keras")


def test_commands_take_a_run_and_a_keras_file(models, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.normal(size=16000) / 10, 16000)
    outputs = set()
    for name in ("run", "best.keras"):
        status, output, errors = run_in_process(
            "predict", "--model", models / name, tmp_path / "a.wav"
        )
        assert status == 0, errors
        outputs.add(output)
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("run/model", "Give {}/run. "), ("folds", "such as {}/folds/fold_1. "),
     ("rnu", "Did you mean {}/run? "), (".", "recipe.json. Received")],
)  # fmt: skip
def test_evaluate_names_the_folder_of_the_run(models, name, hint):
    status, _, errors = run_in_process("evaluate", "--workdir", models / name)
    assert_one_line_error(status, errors, "--workdir is the folder of a run", hint.format(models))

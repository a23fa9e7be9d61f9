"""Settings that a recipe leaves open: decided by labels, start weights and devices."""

import dataclasses
import pathlib
import shutil

import keras
import pytest

from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.errors import RecipeError
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.presets.loading import SIZES, from_preset, save_to_preset
from ast_keras.presets.released import PUBLISHED
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build
from ast_keras.training.resolve import resolve

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens"
LABELS = LabelSet(("dog", "hen"))


def sounds(multi_label=False):
    return SoundDataset("mine", LABELS, {"train": Split(["a.wav"], [(0,)])}, multi_label)


def finetune(*settings):
    return override(load_recipe("finetune"), settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with whole-spectrum patches, three layers, and its own mean and deviation."""
    keras.utils.set_random_seed(1)
    model = from_preset(
        "ast_test",
        labels=LABELS,
        num_layers=3,
        num_frames=48,
        patch_size=(128, 2),
        strides=(128, 2),
        use_distillation_token=False,
        frontend=LogMelFilterbank(num_frames=48, mean=-7.5, std=3.5, name="fbank"),
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_to_preset(model, folder)
    return folder


@pytest.mark.parametrize(
    ("multi_label", "loss", "metric"),
    [(False, "categorical", "accuracy"), (True, "binary", "mean_average_precision")],
)
def test_loss_and_metric_follow_the_labels(multi_label, loss, metric):
    recipe = override(load_recipe("quickstart"), ["train.loss=auto", "train.metric=auto"])
    train = resolve(recipe, sounds(multi_label)).train
    assert (train.loss, train.metric) == (loss, metric)
    kept = override(recipe, ["train.loss=binary", "train.metric=accuracy"])
    assert resolve(kept, sounds(multi_label)) == kept


def test_saved_model_gives_its_network_and_normalisation(saved):
    recipe = resolve(finetune(f"model.start={saved}"), sounds())
    model, frontend = recipe.model, recipe.frontend
    assert (model.size, model.num_layers, model.use_distillation_token) == ("ast_test", 3, False)
    assert (model.patch_size, model.strides) == ((128, 2), (128, 2))
    assert (frontend.mean, frontend.std) == (-7.5, 3.5)
    assert resolve(recipe, sounds()) == recipe
    made = build.make_model(override(recipe, ["frontend.num_frames=64"]), LABELS)
    assert made.backbone.num_layers == 3
    assert made.backbone.grid == (1, 32)


def test_settings_override_the_start_weights(saved):
    settings = ["model.strides=128,1", "frontend.mean=-6.5", "frontend.std=2"]
    recipe = resolve(finetune(f"model.start={saved}", *settings), sounds())
    assert recipe.model.strides == (128, 1)
    assert (recipe.frontend.mean, recipe.frontend.std) == (-6.5, 2.0)
    wrong = finetune(f"model.start={saved}", "model.num_layers=2")
    with pytest.raises(RecipeError, match="its num_layers is 3, the recipe's 2"):
        build.make_model(resolve(wrong, sounds()), LABELS)


def test_image_start_gets_the_normalisation_of_audioset(monkeypatch, tmp_path):
    size = {"embed_dim": 48, "num_layers": 3, "num_heads": 3, "mlp_dim": 192}
    row = dataclasses.replace(PUBLISHED["deit_base_384"], name="deit_toy", size="toy")
    monkeypatch.setitem(SIZES, "toy", size)
    monkeypatch.setitem(PUBLISHED, "deit_toy", row)
    monkeypatch.setenv("AST_KERAS_PRESETS", str(tmp_path))
    shutil.copy(GOLDENS / "deit_small_384.safetensors", tmp_path / "deit_toy.safetensors")
    recipe = resolve(finetune("model.start=deit_toy", "frontend.num_frames=128"), sounds())
    assert recipe.model.size == "toy"
    assert recipe.model.use_distillation_token
    assert (recipe.model.patch_size, recipe.model.strides) == ((16, 16), (10, 10))
    assert (recipe.frontend.mean, recipe.frontend.std) == (-4.2677393, 4.5689974)
    assert build.make_model(recipe, LABELS).backbone.grid == (12, 12)


def test_unnamed_size_stays_that_of_the_start(tmp_path):
    narrow = from_preset("ast_test", labels=LABELS, num_frames=48, embed_dim=36)
    save_to_preset(narrow, tmp_path / "narrow")
    settings = [f"model.start={tmp_path / 'narrow'}", "frontend.num_frames=48"]
    recipe = resolve(finetune(*settings), sounds())
    assert recipe.model.size == "auto"
    assert build.make_model(recipe, LABELS).backbone.embed_dim == 36


def test_random_weights_need_a_size():
    with pytest.raises(RecipeError, match=r"Random weights have no size .* ast_nano") as error:
        resolve(finetune("model.start=random"), sounds())
    assert "\n" not in str(error.value)
    recipe = resolve(finetune("model.start=random", "model.size=ast_nano"), sounds())
    assert (recipe.model.patch_size, recipe.model.strides) == ((16, 16), (10, 10))
    assert recipe.frontend.mean == -4.2677393


def test_resolved_recipe_is_unchanged():
    recipe = load_recipe("esc50")  # its start weights are not needed
    assert resolve(recipe, sounds()) == recipe

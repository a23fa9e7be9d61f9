"""Runs with `train.freeze`, `model.lora_rank` and rates by layer, and how "auto" is decided."""

import numpy as np
import pytest

from ast_keras.errors import ArgumentError, RecipeError
from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build
from ast_keras.training.interruption import Interrupted
from ast_keras.training.resolve import resolve
from ast_keras.training.run import Run
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.export import export_weights
from tests.helpers.arrays import assert_same
from tests.helpers.runs import SignalAt, prepare, tiny_recipe, weights

SHORT = ("data.num_train=8", "train.num_epochs=2")  # two steps per epoch
RATES = ("optimizer.layer_decay=0.75", "optimizer.head_learning_rate=0.05")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            ("model.lora_rank=2", "train.final_model=last", *RATES), marks=pytest.mark.slow
        ),
        pytest.param(("train.freeze=0", *RATES), marks=pytest.mark.slow),
        pytest.param(("train.freeze=backbone", "train.jit_compile=true"), marks=pytest.mark.slow),
        pytest.param(
            ("model.lora_rank=2", "train.precision=mixed_float16", *RATES), marks=pytest.mark.slow
        ),
        pytest.param(
            ("train.freeze=1", "optimizer.l2=0", "optimizer.weight_decay=0.1", *RATES,
             "train.accumulate_steps=2", "model.num_layers=2"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda settings: settings[0],
)  # fmt: skip
def test_stopped_run_ends_in_the_same_weights(settings, tmp_path):
    recipe = tiny_recipe(*SHORT, *settings)
    prepare(recipe, tmp_path / "whole").train()
    with pytest.raises(Interrupted):
        Run(recipe, tmp_path / "run", progress=SignalAt(step=3)).train()
    run = prepare(recipe, tmp_path / "run")
    run.train()
    for folder in ("model", "last"):
        assert_same(weights(tmp_path / "run" / folder), weights(tmp_path / "whole" / folder))
    # The final model that is evaluated is the saved one, without leftovers of the factors.
    saved, end = from_preset(tmp_path / "run" / "model"), canonical_tensors(run.model)
    assert_same(list(canonical_tensors(saved).values()), list(end.values()))


@pytest.mark.slow
def test_frozen_start_weights_stay_to_the_bit(tmp_path):
    recipe = tiny_recipe(*SHORT, "train.num_epochs=1", "train.freeze=backbone")
    run = prepare(recipe, tmp_path / "run")
    before = [weight.numpy() for weight in run.model.backbone.weights]
    head = run.model.head.kernel.numpy()
    run.train()
    assert_same([weight.numpy() for weight in run.model.backbone.weights], before)
    assert np.any(run.model.head.kernel.numpy() != head)
    assert not from_preset(tmp_path / "run" / "model").backbone.trainable


def test_more_frozen_blocks_than_there_are_is_an_error(tmp_path):
    with pytest.raises(ArgumentError, match="The backbone has 1 transformer blocks"):
        prepare(tiny_recipe("train.freeze=2"), tmp_path / "run")


# --- "auto" ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings, and the same weights as a saved model and in a published format."""
    folder = tmp_path_factory.mktemp("starts")
    (folder / "sounds.csv").write_text("path,labels,split\na.wav,bell,train\nb.wav,horn,test\n")
    for name in ("a.wav", "b.wav"):
        (folder / name).touch()
    for name, labels in (("published", ["one", "other"]), ("same_labels", ["horn", "bell"])):
        model = from_preset("ast_test", labels=labels, num_frames=98)
        export_weights(model, folder / name, to="transformers")
    model.save_to_preset(folder / "own")
    return folder


@pytest.mark.parametrize(
    ("settings", "head", "layer_decay"),
    [
        ("model.start=published", 5e-4, 0.75),
        ("model.start=published optimizer.learning_rate=1e-4", 5e-3, 0.75),
        ("model.start=published optimizer.head_learning_rate=none", None, 0.75),
        ("model.start=published optimizer.layer_decay=0.9", 5e-4, 0.9),
        ("model.start=same_labels", None, 0.75),  # the head is kept
        ("model.start=own", None, 1.0),
        ("model.start=random model.size=ast_test", None, 1.0),
    ],
)
def test_auto_sets_other_rates_for_published_weights_only(
    settings, head, layer_decay, folder, monkeypatch
):
    monkeypatch.chdir(folder)
    recipe = override(load_recipe("finetune"), ["data.path=sounds.csv", *settings.split()])
    optimizer = resolve(recipe, build.make_dataset(recipe)).optimizer
    assert optimizer.head_learning_rate == (head and pytest.approx(head))
    assert optimizer.layer_decay == layer_decay


def test_rates_reach_the_optimizer():
    recipe = tiny_recipe("optimizer.head_learning_rate=0.05", "optimizer.layer_decay=0.5")
    model = build.make_model(recipe, build.make_dataset(recipe).labels)
    factors = build.make_optimizer(recipe, 2, model).learning_rate_factors
    assert factors["head"] == pytest.approx(0.05 / recipe.optimizer.learning_rate)
    assert (factors["block_0"], factors["patches"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    "settings",
    [
        ["train.freeze=head"], ["train.freeze=-1"], ["train.freeze=1.5"],
        ["optimizer.layer_decay=0"], ["optimizer.layer_decay=1.1"], ["optimizer.layer_decay=x"],
        ["optimizer.head_learning_rate=0"], ["optimizer.head_learning_rate=nan"],
        ["model.lora_rank=0"], ["model.lora_rank=4", "train.freeze=backbone"],
    ],
)  # fmt: skip
def test_settings_out_of_range_are_rejected(settings):
    with pytest.raises(RecipeError, match=f"{settings[0].partition('=')[0]}.*Received: "):
        tiny_recipe(*settings)


def test_words_and_numbers_survive_json(tmp_path):
    settings = ["train.freeze=Backbone", "optimizer.layer_decay=AUTO"]
    recipe = tiny_recipe(*settings, "optimizer.head_learning_rate=1")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert load_recipe(tmp_path / "recipe.json") == recipe
    assert (recipe.train.freeze, recipe.optimizer.layer_decay) == ("backbone", "auto")
    assert recipe.optimizer.head_learning_rate == 1.0

"""Runs with `train.freeze`, `model.lora_rank` and rates by layer, and how "auto" is decided."""

import numpy as np
import pytest

from ast_keras.errors import ArgumentError
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
        ("train.freeze=0", *RATES),
        ("model.lora_rank=2", "train.final_model=last", "optimizer.layer_decay=0.5"),
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
def starts(tmp_path_factory):
    """The same weights as a file of the authors' format, and as a saved model."""
    folder = tmp_path_factory.mktemp("starts")
    recipe = tiny_recipe()
    model = build.make_model(recipe, build.make_dataset(recipe).labels)
    model.save_to_preset(folder / "own")
    export_weights(model, folder / "published", to="authors")
    return {"own": folder / "own", "published": folder / "published" / "model.safetensors"}


@pytest.mark.parametrize(
    ("start", "rates"),
    [("published", (None, 0.75)), ("own", (None, 1.0)), ("random", (None, 1.0))],
)
def test_auto_lowers_the_rates_of_published_weights_only(start, rates, starts):
    start = starts.get(start, start)
    recipe = tiny_recipe(
        f"model.start={start}", "optimizer.layer_decay=auto", "optimizer.head_learning_rate=auto"
    )
    optimizer = resolve(recipe, build.make_dataset(recipe)).optimizer
    assert (optimizer.head_learning_rate, optimizer.layer_decay) == rates


def test_auto_raises_the_rate_of_a_new_head(starts, tmp_path):
    (tmp_path / "table.csv").write_text("path,labels,split\na.wav,bell,train\nb.wav,horn,test\n")
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    recipe = override(
        load_recipe("finetune"),
        [f"data.path={tmp_path / 'table.csv'}", f"model.start={starts['published']}"],
    )
    optimizer = resolve(recipe, build.make_dataset(recipe)).optimizer
    assert (optimizer.head_learning_rate, optimizer.layer_decay) == (pytest.approx(5e-4), 0.75)

"""Optimizers with other learning rates for parts of a model: each part as with its own rate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import ArgumentError
from ast_keras.training.optimizers import AdamL2, AdamW
from tests.helpers.arrays import random

FACTORS = {"block_1": 0.25, "head": 50}
RATES = {"block_1/kernel": 0.25, "block_11/kernel": 1, "a/head/bias": 50, "head_norm/gamma": 1}
MAKERS = {
    "AdamL2": lambda rate, **options: AdamL2(rate, l2=0.1, **options),
    "AdamL2, decoupled decay": lambda rate, **options: AdamL2(
        rate, l2=0, weight_decay=0.1, **options
    ),
    "AdamW": lambda rate, **options: AdamW(rate, weight_decay=0.1, **options),
}


def make_variables(paths):
    variables = [keras.Variable(random(5)) for _ in paths]
    for variable, path in zip(variables, paths, strict=True):
        variable._path = path
    return variables


def after_steps(optimizer, variables, **function_arguments):
    optimizer.build(variables)
    gradients = [tf.constant(random(5)) for _ in variables]
    step = tf.function(lambda: optimizer.apply(gradients, variables), **function_arguments)
    for _ in range(3):
        step()
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["plain", "compiled", "scaled"])
def test_every_part_trains_as_with_a_rate_of_its_own(name, kind):
    make = MAKERS[name]
    optimizer = make(1e-3, learning_rate_factors=FACTORS)
    if kind == "scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    options = {"jit_compile": True} if kind == "compiled" else {}
    found = after_steps(optimizer, make_variables(RATES), **options)
    for value, (path, factor) in zip(found, RATES.items(), strict=True):
        (expected,) = after_steps(make(1e-3 * factor), make_variables([path]))
        # Three float32 steps of up to 0.05; XLA fuses them (seen 1.2e-7).
        np.testing.assert_allclose(value, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("kind", [AdamL2, AdamW])
def test_factors_survive_saving_with_the_state_of_the_optimizer(kind, tmp_path):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(2, name="block_1"), keras.layers.Dense(1)]
    model = keras.Sequential([*layers])
    model.compile(kind(1e-2, learning_rate_factors=FACTORS), "mse")
    x, y = random(8, 4), random(8, 1)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.learning_rate_factors == FACTORS
    for both in (model, again):
        both.fit(x, y, verbose=0, shuffle=False)
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("factors", [{"head": 0}, {"head": -1.0}, {"head": float("nan")}, [1, 2]])
def test_factors_that_are_no_positive_numbers_are_rejected(factors):
    with pytest.raises(ArgumentError, match="Received: "):
        AdamL2(1e-3, learning_rate_factors=factors)


def test_factors_for_other_layers_are_rejected():
    optimizer = AdamW(1e-3, learning_rate_factors={"blocks.1": 0.5})
    with pytest.raises(ArgumentError, match=r"must name layers of the model.*'block_1/kernel'"):
        optimizer.build(make_variables(RATES))

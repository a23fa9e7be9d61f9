"""Learning-rate schedules against a naive simulation of the published training loop."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.training.schedules import EpochDecaySchedule, WarmupCosineSchedule
from tests.reference.authors_schedule import simulate

# base, steps per epoch, epochs, first decay, epochs between decays, factor, warm-up steps
RECIPES = {
    "audioset_full": (1e-5, math.ceil(1_912_024 / 12), 5, 2, 1, 0.5, 1000),
    "audioset_balanced": (5e-5, math.ceil(20_550 / 12), 25, 10, 5, 0.5, 1000),
    "esc50": (1e-5, math.ceil(1600 / 48), 25, 5, 1, 0.85, 0),
    "speech_commands": (2.5e-4, math.ceil(84_843 / 128), 30, 5, 1, 0.85, 0),
}
# Warm-ups over several epochs, with a decay at an update or between two, or ending between two.
SMALL = {
    "decay_at_an_update": (1e-3, 100, 12, 2, 1, 0.5, 1000),
    "decay_between_updates": (1e-3, 37, 40, 2, 3, 0.5, 1000),
    "warmup_off_the_grid": (1e-3, 60, 6, 1, 1, 0.7, 130),
    "warmup_longer_than_the_run": (1e-3, 20, 3, 1, 1, 0.5, 1000),
    "warmup_shorter_than_an_update": (1e-3, 20, 3, 1, 1, 0.5, 10),
    "one_step_per_epoch": (1e-3, 1, 8, 3, 2, 0.1, 0),
}


def schedule_of(case):
    *counts, warmup_steps = case
    return EpochDecaySchedule(*counts, warmup_steps=warmup_steps)


def rates_of(schedule, num_steps):
    every_step = tf.function(lambda steps: tf.vectorized_map(schedule, steps))
    return every_step(tf.range(num_steps)).numpy()


@pytest.mark.parametrize("case", [*RECIPES.values(), *SMALL.values()], ids=[*RECIPES, *SMALL])
def test_epoch_decay_equals_the_published_loop_at_every_step(case):
    expected = np.array(simulate(*case), "float32")
    np.testing.assert_array_equal(rates_of(schedule_of(case), len(expected)), expected)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("audioset_full", {1: 1e-5, 2: 1e-5, 3: 5e-6, 4: 2.5e-6, 5: 1.25e-6}),
        (
            "audioset_balanced",
            {10: 5e-5, 11: 2.5e-5, 15: 2.5e-5, 16: 1.25e-5, 20: 1.25e-5, 21: 6.25e-6, 25: 6.25e-6},
        ),
        ("esc50", {1: 1e-5, 5: 1e-5, 6: 8.5e-6, 10: 4.437e-6, 25: 3.876e-7}),
        ("speech_commands", {1: 2.5e-4, 5: 2.5e-4, 6: 2.125e-4}),
    ],
)
def test_epoch_decay_gives_the_printed_rates_by_epoch(name, printed):
    schedule, steps_per_epoch = schedule_of(RECIPES[name]), RECIPES[name][1]
    for epoch, rate in printed.items():
        # The rates are printed with four digits.
        assert float(schedule(epoch * steps_per_epoch - 1)) == pytest.approx(rate, rel=1.3e-4)


def test_epoch_decay_warmup_holds_the_rate_between_updates():
    schedule = schedule_of(RECIPES["audioset_full"])
    rates = rates_of(schedule, 1051)
    np.testing.assert_array_equal(rates[:50], 0.0)
    np.testing.assert_array_equal(rates[50:100], np.float32(5e-7))
    np.testing.assert_array_equal(rates[1000:], np.float32(1e-5))
    assert len(np.unique(rates)) == 21


def test_epoch_decay_keeps_its_last_rate_after_the_run():
    schedule = schedule_of(SMALL["one_step_per_epoch"])
    assert float(schedule(7)) == float(schedule(10**9))


def make_cosine():
    return WarmupCosineSchedule(2e-3, warmup_steps=20, total_steps=100, final_fraction=0.1)


def test_warmup_cosine_matches_its_formula_at_every_step():
    steps = np.arange(130.0)
    fraction = np.clip((steps - 20) / 80, 0, 1)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * fraction)) / 2
    expected = 2e-3 * np.where(steps < 20, steps / 20, cosine)
    # A float32 chain of five roundings on values up to 2e-3: seen 2.6e-10.
    np.testing.assert_allclose(rates_of(make_cosine(), 130), expected, rtol=0, atol=1.5e-9)


def test_warmup_cosine_without_warmup_starts_at_the_highest_rate():
    schedule = WarmupCosineSchedule(1e-3, warmup_steps=0, total_steps=10)
    assert float(schedule(0)) == np.float32(1e-3)
    assert float(schedule(10)) == 0.0


@pytest.fixture(params=["epoch_decay", "warmup_cosine"])
def schedule(request):
    if request.param == "warmup_cosine":
        return make_cosine()
    return schedule_of(SMALL["warmup_off_the_grid"])


def test_schedule_takes_numbers_tensors_and_variables(schedule):
    expected = float(schedule(75))
    assert expected > 0
    for step in (np.int64(75), tf.constant(75), tf.Variable(75, dtype="int64"), 75.0):
        assert float(schedule(step)) == expected
    assert float(schedule(keras.Variable(75, dtype="int32", trainable=False))) == expected
    assert schedule(75).dtype == "float32"
    assert schedule(75).shape == ()


def test_schedule_compiles_to_the_same_rates(schedule):
    compiled = tf.function(schedule, jit_compile=True)
    rates = [float(compiled(tf.constant(step))) for step in range(0, 200, 7)]
    expected = [float(schedule(step)) for step in range(0, 200, 7)]
    # The compiler may reorder float32 products and has its own cosine: seen 2.4e-10 of 2e-3.
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1.5e-9)


def test_schedule_round_trips_through_json(schedule):
    text = json.dumps(keras.saving.serialize_keras_object(schedule))
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(restored) is type(schedule)
    assert restored.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates_of(restored, 150), rates_of(schedule, 150))


def test_schedule_drives_a_compiled_model(schedule):
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    model.fit(np.ones((120, 1)), np.ones((120, 1)), batch_size=1, verbose=0)
    assert float(model.optimizer.learning_rate) == float(schedule(120)) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"base_learning_rate": 0.0},
        {"steps_per_epoch": 0},
        {"num_epochs": 0},
        {"decay_start_epoch": 0},
        {"decay_every_epochs": 0},
        {"decay_rate": -0.5},
        {"warmup_steps": -1},
        {"warmup_update_steps": 0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_epoch_decay_rejects_bad_values(changes):
    (name,) = changes
    config = schedule_of(SMALL["one_step_per_epoch"]).get_config() | changes
    with pytest.raises(ValueError, match=f"{name} must .* Received: {name}="):
        EpochDecaySchedule(**config)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_learning_rate": -1.0},
        {"warmup_steps": -1},
        {"total_steps": 20},
        {"final_fraction": 1.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_warmup_cosine_rejects_bad_values(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"Received: {name}="):
        WarmupCosineSchedule(**(make_cosine().get_config() | changes))

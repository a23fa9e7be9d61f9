"""AdamL2 against a float64 oracle, alone and with Keras's optimizer features."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.training.optimizers import AdamL2
from ast_keras.training.schedules import WarmupCosineSchedule
from tests.reference.adam_l2 import Adam

NUM_STEPS = 50
LEARNING_RATE = 1e-2


def make_problem(seed=0, size=200):
    """Returns initial values, and gradients from 1e-9 (where epsilon dominates) to 10."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(size).astype("float32")
    gradients = rng.standard_normal((NUM_STEPS, size)) * np.geomspace(1e-9, 10, size)
    return start, gradients.astype("float32")


def oracle_path(start, gradients, learning_rates=None, **arguments):
    learning_rates = [LEARNING_RATE] * len(gradients) if learning_rates is None else learning_rates
    oracle, parameter, path = Adam(start.shape, **arguments), start.astype("float64"), []
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        oracle.step(parameter, gradient, learning_rate)
        path.append(parameter.copy())
    return np.array(path)


def keras_path(optimizer, start, gradients, **function_arguments):
    variable = keras.Variable(start)
    optimizer.build([variable])

    @tf.function(**function_arguments)
    def step(gradient):
        optimizer.apply([gradient], [variable])

    path = []
    for gradient in gradients:
        step(tf.constant(gradient))
        path.append(variable.numpy())
    return np.array(path)


# Fifty float32 updates of up to 1e-2 on values up to 3, each rounded by at most 1.2e-7 of the value
# (seen 1.4e-6).
TOLERANCE = {"rtol": 0, "atol": 4.3e-6}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"l2": 0.0},
        {"l2": 0.1},
        {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-4},
        {"beta_1": 0.0, "beta_2": 0.0, "l2": 0.0},
    ],
    ids=["defaults", "no_l2", "strong_l2", "other_moments", "no_memory"],
)
def test_adam_l2_equals_the_oracle_at_every_step(arguments):
    start, gradients = make_problem()
    path = keras_path(AdamL2(LEARNING_RATE, **arguments), start, gradients)
    np.testing.assert_allclose(path, oracle_path(start, gradients, **arguments), **TOLERANCE)


def test_adam_l2_first_step_is_exact_for_tiny_gradients():
    start, gradients = np.zeros(3, "float32"), np.full((1, 3), 1e-8, "float32")
    path = keras_path(AdamL2(LEARNING_RATE, l2=0.0), start, gradients)
    # Half the learning rate, as |g| / (|g| + epsilon) = 1/2; three float32 roundings (seen 1.2e-7).
    np.testing.assert_allclose(path[0], -0.5 * LEARNING_RATE, rtol=3.6e-7)


def test_adam_l2_equals_torch():
    torch = pytest.importorskip("torch")
    start, gradients = make_problem()
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.Adam(
        [parameter], LEARNING_RATE, betas=(0.95, 0.999), eps=1e-8, weight_decay=0.1
    )
    path = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    np.testing.assert_allclose(
        keras_path(AdamL2(LEARNING_RATE, l2=0.1), start, gradients), path, **TOLERANCE
    )


def test_adam_l2_compiles_to_the_same_steps():
    start, gradients = make_problem()
    path = keras_path(AdamL2(LEARNING_RATE, l2=0.1), start, gradients, jit_compile=True)
    np.testing.assert_allclose(path, oracle_path(start, gradients, l2=0.1), **TOLERANCE)


def test_adam_l2_follows_a_schedule():
    start, gradients = make_problem()
    schedule = WarmupCosineSchedule(LEARNING_RATE, warmup_steps=10, total_steps=NUM_STEPS)
    rates = [float(schedule(step)) for step in range(NUM_STEPS)]
    path = keras_path(AdamL2(schedule), start, gradients)
    np.testing.assert_array_equal(path[0], start)
    np.testing.assert_allclose(path, oracle_path(start, gradients, rates), **TOLERANCE)


def test_adam_l2_accumulates_gradients():
    start, gradients = make_problem()
    optimizer = AdamL2(LEARNING_RATE, l2=0.1, gradient_accumulation_steps=2)
    path = keras_path(optimizer, start, gradients)
    np.testing.assert_array_equal(path[0], start)
    means = gradients.astype("float64").reshape(NUM_STEPS // 2, 2, -1).mean(axis=1)
    np.testing.assert_allclose(path[1::2], oracle_path(start, means, l2=0.1), **TOLERANCE)


def test_adam_l2_under_loss_scaling_skips_steps_that_overflow():
    start, gradients = make_problem()
    scaled = keras.optimizers.LossScaleOptimizer(AdamL2(LEARNING_RATE, l2=0.1), initial_scale=1024)
    broken = np.concatenate([gradients[:3], np.full_like(gradients[:1], np.inf), gradients[3:]])
    # The scale halves after the overflow, and so must the factor in the loss.
    factors = np.where(np.arange(NUM_STEPS + 1) <= 3, 1024, 512).astype("float32")
    path = keras_path(scaled, start, broken * factors[:, None])
    np.testing.assert_array_equal(path[3], path[2])
    expected = oracle_path(start, gradients, l2=0.1)
    np.testing.assert_allclose(np.delete(path, 3, axis=0), expected, **TOLERANCE)


def test_adam_l2_takes_sparse_gradients():
    layer = keras.layers.Embedding(6, 2)
    layer.build()
    start = layer.embeddings.numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 4])) * tf.constant([[3.0], [5.0]]))
    (gradient,) = tape.gradient(loss, [layer.embeddings.value])
    assert isinstance(gradient, tf.IndexedSlices)
    AdamL2(LEARNING_RATE, l2=0.1).apply([gradient], [layer.embeddings])
    dense = tf.convert_to_tensor(gradient).numpy()
    expected = oracle_path(start, [dense], l2=0.1)[0]
    # The penalty reaches the rows that were not looked up; one float32 step (seen 2.1e-9,
    # the spacing of float32 at 0.05 is 3.7e-9).
    np.testing.assert_allclose(layer.embeddings.numpy(), expected, rtol=0, atol=1.5e-8)


def test_adam_l2_decoupled_decay_matches_its_formula():
    start, gradients = make_problem()
    optimizer = AdamL2(LEARNING_RATE, l2=0.0, weight_decay=0.1)
    path = keras_path(optimizer, start, gradients[:1])
    shrunk = start * (1 - LEARNING_RATE * 0.1)
    np.testing.assert_allclose(path[0], oracle_path(shrunk, gradients[:1], l2=0.0)[0], **TOLERANCE)


def make_model(optimizer):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(1, dtype="float32")]
    model = keras.Sequential([keras.layers.Input((4,)), *layers])
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def make_data(num_examples=64):
    x = np.random.default_rng(2).standard_normal((num_examples, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def test_adam_l2_fits_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model(AdamL2(0.05))
    finally:
        keras.config.set_dtype_policy(policy)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.layers[0].compute_dtype == "float16"
    history = model.fit(*make_data(), epochs=30, batch_size=16, verbose=0).history["loss"]
    # The data is linear with a variance of 4: seen 0.013.
    assert history[0] > 1
    assert history[-1] < 0.1


def test_adam_l2_keeps_no_tensor_of_a_step():
    """A kept tensor would make a checkpoint follow the graph of the step and its memory."""
    optimizer, variable = AdamL2(0.1), keras.Variable([1.0, 2.0])
    optimizer.build([variable])
    tf.function(lambda: optimizer.apply([tf.constant([3.0, -0.5])], [variable]))()
    assert not [v for v in vars(optimizer).values() if tf.is_tensor(v) and tf.is_symbolic_tensor(v)]
    assert not any("correction" in name for name in optimizer._trackable_children())


def test_adam_l2_round_trips_through_json():
    schedule = WarmupCosineSchedule(1e-3, 5, 50)
    optimizer = AdamL2(schedule, 0.9, 0.99, 1e-6, 0.2, name="mine", clipnorm=1.0)
    text = json.dumps(keras.saving.serialize_keras_object(optimizer))
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    assert isinstance(restored, AdamL2)
    assert json.dumps(restored.get_config()) == json.dumps(optimizer.get_config())
    assert json.loads(text)["registered_name"] == "ast_keras>AdamL2"


def test_adam_l2_state_survives_a_saved_model(tmp_path):
    x, y = make_data()
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    uninterrupted = make_model(AdamL2(0.01, l2=0.1))
    uninterrupted.fit(x, y, epochs=2, **fit)
    model = make_model(AdamL2(0.01, l2=0.1))
    model.fit(x, y, epochs=1, **fit)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    restored.fit(x, y, epochs=1, **fit)
    for ours, theirs in zip(restored.get_weights(), uninterrupted.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _fit_on_two_replicas():
    """Runs in another process: devices can be split only before TensorFlow uses them."""
    (device,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model(AdamL2(0.01, l2=0.1))
    x, y = make_data()
    model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return strategy.num_replicas_in_sync, model.get_weights()


@pytest.mark.slow
def test_adam_l2_on_two_replicas_equals_one():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(_fit_on_two_replicas)
        model = make_model(AdamL2(0.01, l2=0.1))
        x, y = make_data()
        model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        num_replicas, weights = future.result(timeout=120)
    assert num_replicas == 2
    for two, one in zip(weights, model.get_weights(), strict=True):
        # The mean gradient is summed in another order: each of twelve updates may round weights of
        # order one differently, by 6e-8 (seen 3.0e-8). With summed instead of averaged gradients
        # the penalty would be weaker and the difference far larger.
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"beta_1": 1.0}, {"beta_2": -0.1}, {"epsilon": -1e-8}, {"l2": -1.0}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_adam_l2_rejects_values_outside_their_range(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must .* Received: {name}="):
        AdamL2(LEARNING_RATE, **arguments)


def test_adam_l2_rejects_both_kinds_of_decay():
    with pytest.raises(ValueError, match=r"exclude each other.*weight_decay=0\.01"):
        AdamL2(LEARNING_RATE, weight_decay=0.01)

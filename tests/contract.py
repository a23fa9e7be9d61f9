"""What every Keras layer and model of this package must do, whatever it computes.

A `Descriptor` says how to make one and what to feed it; each `check_` function takes a descriptor
and what `built` makes of it, and raises AssertionError where a promise is broken.
`tests/unit/test_contract.py` applies all of them to all registered classes.
"""

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

POLICIES = {
    "float32": "float32",
    "mixed_float16": "float16",
    "mixed_bfloat16": "bfloat16",
}


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """How to make a layer and what to feed it.

    Args:
      make: Returns a new layer or model; makes all its parts under the current dtype policy.
      inputs: Arrays by the name of `call`'s argument, the main one first; each holds two examples.
      call: Further arguments of `call`, without batch axis.
      output_dtype: Of the output under every policy; None: the policy's compute dtype.
      tolerance: Largest absolute difference between two ways to compute the same output.
    """

    make: Callable[[], keras.Layer]
    inputs: Mapping[str, np.ndarray]
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output_dtype: str | None = None
    tolerance: float = 0.0


def built(descriptor, seed=0):
    """Returns the layer, built, with random numbers in all floating-point weights."""
    layer = descriptor.make()
    apply(descriptor, layer)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            # Small: a norm's scale stays near one, so that the output's size stays near one.
            weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    return layer


def apply(descriptor, layer, inputs=None):
    """Calls the layer on the descriptor's inputs, or on others."""
    (_, main), *others = (inputs or descriptor.inputs).items()
    return layer(main, **dict(others), **descriptor.call)


def array(tensor):
    """Returns a tensor as float64: NumPy knows no bfloat16, and float64 holds all its values."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype("float64")


def assert_same(descriptor, actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(array(actual), array(expected), rtol=0, atol=descriptor.tolerance)


def wrapped(descriptor, layer):
    """Returns a functional model around the layer, with a free batch axis."""
    inputs = {
        name: keras.Input(value.shape[1:], dtype=value.dtype.name, name=name)
        for name, value in descriptor.inputs.items()
    }
    return keras.Model(inputs, apply(descriptor, layer, inputs))


def serialized(layer):
    return json.dumps(keras.saving.serialize_keras_object(layer))


def own_arguments(layer):
    """Returns the constructor's arguments beyond every Keras layer's, with their defaults."""
    if "__init__" not in vars(type(layer)):
        return {}
    parameters = list(inspect.signature(type(layer).__init__).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    keras_own = ("name", "dtype", "trainable")
    named = [p for p in parameters if p.kind not in variadic and p.name not in keras_own]
    return {p.name: p.default for p in named}


# --- Checks ---


def check_config_survives_json(descriptor, layer):
    text = serialized(layer)
    revived = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(revived) is type(layer)
    assert serialized(revived) == text
    config = layer.get_config()
    assert json.dumps(type(layer).from_config(config).get_config()) == json.dumps(config)


def check_arguments_are_attributes_and_config(descriptor, layer):
    config = layer.get_config()
    for name in own_arguments(layer):
        assert hasattr(layer, name), f"no attribute for the argument {name}"
        assert name in config, f"no entry in get_config for the argument {name}"


def changed_arguments(layer):
    """Returns the constructor's arguments that have another value than their default."""
    config = layer.get_config()
    return {name for name, default in own_arguments(layer).items() if config[name] != default}


def check_output_is_the_same_in_every_mode(descriptor, layer):
    eager = apply(descriptor, layer)
    specs = {
        name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)  # the batch size is free
        for name, value in descriptor.inputs.items()
    }
    graph = tf.function(lambda inputs: apply(descriptor, layer, inputs), input_signature=[specs])
    assert_same(descriptor, graph(dict(descriptor.inputs)), eager)
    dataset = tf.data.Dataset.from_tensor_slices(dict(descriptor.inputs)).batch(2)
    assert_same(descriptor, next(iter(dataset.map(graph))), eager)
    functional = wrapped(descriptor, layer)
    assert_same(descriptor, functional(dict(descriptor.inputs)), eager)


def check_batch_equals_its_examples(descriptor, layer):
    together = apply(descriptor, layer)
    for index in range(2):
        one = {name: value[index : index + 1] for name, value in descriptor.inputs.items()}
        assert_same(descriptor, apply(descriptor, layer, one), together[index : index + 1])
    first, second = array(together)
    assert not np.array_equal(first, second), "the two examples must give different outputs"


def check_output_dtype_follows_the_policy(descriptor, policy):
    keras.config.set_dtype_policy(policy)
    layer = built(descriptor)
    output = apply(descriptor, layer)
    expected = descriptor.output_dtype or POLICIES[policy]
    assert keras.backend.standardize_dtype(output.dtype) == expected
    assert np.isfinite(array(output)).all()
    for weight in layer.trainable_weights:
        assert weight.dtype == "float32", f"{weight.path} is {weight.dtype}"
    # A layer keeps its precision where another one is the default.
    keras.config.set_dtype_policy("float32")
    revived = keras.saving.deserialize_keras_object(json.loads(serialized(layer)))
    revived_output = apply(descriptor, revived)
    assert keras.backend.standardize_dtype(revived_output.dtype) == expected
    revived.set_weights(layer.get_weights())
    np.testing.assert_array_equal(array(apply(descriptor, revived)), array(output))


def check_saved_model_is_bit_identical(descriptor, layer, path):
    model = wrapped(descriptor, layer)
    model.save(path)
    loaded = keras.models.load_model(path)
    assert [w.path for w in loaded.weights] == [w.path for w in model.weights]
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    inputs = dict(descriptor.inputs)
    np.testing.assert_array_equal(array(loaded(inputs)), array(model(inputs)), strict=True)


def check_output_shape_is_predicted(descriptor, layer):
    shape = next(iter(descriptor.inputs.values())).shape
    actual = tuple(apply(descriptor, layer).shape)
    known = inspect.signature(layer.compute_output_shape).parameters
    options = {name: value for name, value in descriptor.call.items() if name in known}
    assert tuple(layer.compute_output_shape(shape, **options)) == actual
    assert tuple(layer.compute_output_shape((None, *shape[1:]), **options)) == (None, *actual[1:])
    assert tuple(wrapped(descriptor, layer).output_shape) == (None, *actual[1:])

"""Checks that every Keras layer and model of the package must pass, whatever it computes.

A `Descriptor` states how to create a layer and which inputs to use; `make_subject` creates it. Each
`check_` function takes a `Subject` and raises AssertionError if the layer violates the contract.
`tests/unit/test_contract.py` applies all checks to all layers and models.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Dtype policies and their compute dtypes.
POLICIES = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """How to create a layer, and which inputs to use.

    Args:
        make: Function without arguments that returns a new layer or model under the current dtype
            policy.
        inputs: Input arrays with two examples each, by the name of the argument of `call`. The
            first array is the main input.
        call: Other arguments of `call`, without a batch axis.
        output_dtype: Dtype of the output under every dtype policy. None if it is the compute dtype
            of the policy.
        tolerance: Largest absolute difference between two ways to compute the same output.
        same_computation: Whether another descriptor covers the computation. Only configuration,
            saving and shapes are checked then.
    """

    make: Callable[[], keras.Layer]
    inputs: Mapping[str, np.ndarray]
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output_dtype: str | None = None
    tolerance: float = 0.0
    same_computation: bool = False


@dataclasses.dataclass(eq=False)
class Subject:
    """A layer under test. Its outputs are computed once, since the checks do not change it."""

    descriptor: Descriptor
    layer: keras.Layer

    @functools.cached_property
    def output(self):
        """Output of an eager call."""
        return apply(self.descriptor, self.layer)

    @functools.cached_property
    def functional(self):
        """Functional model around the layer, with an unknown batch size."""
        inputs = {
            name: keras.Input(value.shape[1:], dtype=value.dtype.name, name=name)
            for name, value in self.descriptor.inputs.items()
        }
        return keras.Model(inputs, apply(self.descriptor, self.layer, inputs))

    @functools.cached_property
    def functional_output(self):
        """Output of the functional model."""
        return self.functional(dict(self.descriptor.inputs))


def make_subject(descriptor, seed=0):
    """Creates and builds a layer with random numbers in all floating-point weights."""
    layer = descriptor.make()
    apply(descriptor, layer)
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            # Small changes keep the scales of norms, and so the outputs, close to 1.
            weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    return Subject(descriptor, layer)


def apply(descriptor, layer, inputs=None):
    """Calls the layer on the inputs of the descriptor, or on other inputs."""
    (_, main), *others = (inputs or descriptor.inputs).items()
    return layer(main, **dict(others), **descriptor.call)


def array(tensor):
    """Returns a tensor as float64, which represents all values of bfloat16 (unknown to NumPy)."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype("float64")


def assert_close(descriptor, actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(array(actual), array(expected), rtol=0, atol=descriptor.tolerance)


def serialized(layer):
    return json.dumps(keras.saving.serialize_keras_object(layer))


def own_arguments(layer):
    """Returns the constructor arguments that not every Keras layer has, with their defaults."""
    if "__init__" not in vars(type(layer)):
        return {}
    parameters = list(inspect.signature(type(layer).__init__).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    keras_own = ("name", "dtype", "trainable")
    named = [p for p in parameters if p.kind not in variadic and p.name not in keras_own]
    return {p.name: p.default for p in named}


def changed_arguments(layer):
    """Returns the names of the constructor arguments that differ from their defaults."""
    config = layer.get_config()
    return {name for name, default in own_arguments(layer).items() if config[name] != default}


# --- Checks ---


def check_config_survives_json(subject):
    text = serialized(subject.layer)
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(restored) is type(subject.layer)
    assert serialized(restored) == text


def check_arguments_are_attributes_and_config(subject):
    config = subject.layer.get_config()
    for name in own_arguments(subject.layer):
        assert hasattr(subject.layer, name), f"no attribute for the argument {name}"
        assert name in config, f"no entry in get_config for the argument {name}"


def check_output_is_the_same_in_every_mode(subject):
    descriptor, inputs = subject.descriptor, dict(subject.descriptor.inputs)
    specs = {
        name: tf.TensorSpec([None, *value.shape[1:]], value.dtype)  # unknown batch size
        for name, value in inputs.items()
    }
    graph = tf.function(
        lambda inputs: apply(descriptor, subject.layer, inputs), input_signature=[specs]
    )
    assert_close(descriptor, graph(inputs), subject.output)
    dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(2)
    assert_close(descriptor, next(iter(dataset.map(graph))), subject.output)
    assert_close(descriptor, subject.functional_output, subject.output)


def check_batch_equals_its_examples(subject):
    descriptor = subject.descriptor
    for index in range(2):
        one = {name: value[index : index + 1] for name, value in descriptor.inputs.items()}
        output = apply(descriptor, subject.layer, one)
        assert_close(descriptor, output, subject.output[index : index + 1])
    first, second = array(subject.output)
    assert not np.array_equal(first, second), "the two examples must give different outputs"


def check_output_dtype_follows_the_policy(descriptor, policy):
    keras.config.set_dtype_policy(policy)
    subject = make_subject(descriptor)
    layer, expected = subject.layer, descriptor.output_dtype or POLICIES[policy]
    assert keras.backend.standardize_dtype(subject.output.dtype) == expected
    assert np.isfinite(array(subject.output)).all()
    for weight in layer.trainable_weights:
        assert weight.dtype == "float32", f"{weight.path} is {weight.dtype}"
    # A restored layer keeps its own dtype policy, whatever the default is.
    keras.config.set_dtype_policy("float32")
    restored = keras.saving.deserialize_keras_object(json.loads(serialized(layer)))
    apply(descriptor, restored)  # builds it
    restored.set_weights(layer.get_weights())
    output = apply(descriptor, restored)
    assert keras.backend.standardize_dtype(output.dtype) == expected
    np.testing.assert_array_equal(array(output), array(subject.output))


def check_saved_model_is_bit_identical(subject, path):
    subject.functional.save(path)
    loaded = keras.models.load_model(path)
    assert [w.path for w in loaded.weights] == [w.path for w in subject.functional.weights]
    weights = zip(loaded.get_weights(), subject.functional.get_weights(), strict=True)
    for ours, theirs in weights:
        np.testing.assert_array_equal(ours, theirs, strict=True)
    output = loaded(dict(subject.descriptor.inputs))
    np.testing.assert_array_equal(array(output), array(subject.functional_output), strict=True)


def check_output_shape_and_dtype_are_predicted(subject):
    layer, descriptor = subject.layer, subject.descriptor
    shape = next(iter(descriptor.inputs.values())).shape
    actual = tuple(subject.output.shape)
    known = inspect.signature(layer.compute_output_shape).parameters
    options = {name: value for name, value in descriptor.call.items() if name in known}
    assert tuple(layer.compute_output_shape(shape, **options)) == actual
    assert tuple(layer.compute_output_shape((None, *shape[1:]), **options)) == (None, *actual[1:])
    assert tuple(subject.functional.output_shape) == (None, *actual[1:])
    assert keras.backend.standardize_dtype(subject.output.dtype) == "float32"

"""Sounds and lengths that a classifier cannot process: one line that says what to do."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras.errors import ArgumentError
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.classifier_inputs import checked_data, one_line_errors
from tests.helpers.arrays import random

FRAMES, MEL, SAMPLES = 24, 16, 3000
WAVEFORM = (0.1 * random(2, SAMPLES)).astype("float32")
CLASSES = np.array([0, 1])


def make_model(padding="masked", frontend=True):
    backbone = ASTBackbone(
        embed_dim=12,
        num_layers=1,
        num_heads=3,
        mlp_dim=16,
        num_frames=FRAMES,
        num_mel_bins=MEL,
        padding=padding,
    )
    filterbank = LogMelFilterbank(sample_rate=8000, num_mel_bins=MEL, num_frames=FRAMES)
    model = ASTClassifier(backbone, 3, frontend=filterbank if frontend else None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module", params=["masked", "original", "spectrograms"])
def any_model(request):
    if request.param == "spectrograms":
        return make_model(frontend=False)
    return make_model(padding=request.param)


def sound_for(model):
    return WAVEFORM if model.frontend is not None else random(2, FRAMES, MEL)


def assert_refused(call, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- Sounds ---

PAD = "Sounds of different lengths.*'lengths'"
SCALED = r"\[-1, 1\].*look like integers: divide 16-bit samples by 32768.*peak of"


@pytest.mark.parametrize(
    ("sounds", "message"),
    [
        ([WAVEFORM[0], WAVEFORM[1, :2000]], PAD + r".*list of 2, shapes \(3000,\), \(2000,\)"),
        ((WAVEFORM[0], WAVEFORM[1, :2000]), PAD),
        ([[0.1, 0.2], [0.3]], PAD),
        (np.array([WAVEFORM[0], WAVEFORM[1, :9]], object), PAD + ".*array of objects"),
        (tf.ragged.constant([[0.1, 0.2], [0.3]]), "ragged.to_tensor().*ragged.row_lengths"),
        ([WAVEFORM[0], WAVEFORM[1]], r"np.stack.*list of 2, each of shape \(3000,\)"),
        ([0.1, 0.2, 0.3], "make it one array"),
        (WAVEFORM * 32768, SCALED),
        (WAVEFORM.astype("float64") * 32768, SCALED),
        (tf.constant(WAVEFORM * 32768), SCALED),
        ((WAVEFORM * 32768).astype("int16"), "divide int16 by 32768.*dtype=int16"),
        (WAVEFORM > 0, r"floating point in \[-1, 1\].*dtype=bool"),
        (np.where(WAVEFORM > 0.1, np.nan, WAVEFORM), "finite number.*peak of nan"),
        (np.where(WAVEFORM > 0.1, np.inf, WAVEFORM), "finite number.*peak of inf"),
        (WAVEFORM[0], r"batch axis, waveform\[None\].*shape=\(3000,\)"),
        (np.stack([WAVEFORM, WAVEFORM], 2), r"mean of the channels.*shape=\(2, 3000, 2\)"),
        (WAVEFORM.T, r"mean of the channels.*shape=\(3000, 2\)"),
        (np.zeros((2, FRAMES, MEL), "float32"), "load the model with frontend=None"),
        (np.zeros((0, SAMPLES), "float32"), "nothing to process"),
        ("dog.wav", "load_audio.*Predictor.*'dog.wav'"),
    ],
)
def test_sounds_of_another_form_are_refused_everywhere(model, sounds, message):
    calls = [
        lambda: model(sounds),
        lambda: model.predict(sounds, verbose=0),
        lambda: model.evaluate(sounds, CLASSES, verbose=0),
        lambda: model.fit(sounds, CLASSES, verbose=0),
        lambda: model.fit(WAVEFORM, CLASSES, validation_data=(sounds, CLASSES), verbose=0),
        lambda: model.train_on_batch(sounds, CLASSES),
        lambda: model.test_on_batch(sounds, CLASSES),
        lambda: model.predict_on_batch(sounds),
        lambda: model({"waveform": sounds}),
    ]
    for call in calls:
        assert_refused(call, message)


def test_sounds_that_only_look_unusual_are_processed(model):
    expected = model(WAVEFORM).numpy()
    np.testing.assert_array_equal(model(WAVEFORM.astype("float64")), expected)
    np.testing.assert_array_equal(model(waveform=tf.constant(WAVEFORM)), expected)
    assert np.isfinite(model(5 * WAVEFORM / WAVEFORM.max())).all()  # loud, but not integers
    functional = keras.Sequential([keras.Input((SAMPLES,)), model])
    np.testing.assert_array_equal(functional(WAVEFORM), expected)


@pytest.mark.parametrize("shape", [(2, FRAMES), (2, FRAMES, MEL + 1), (2, FRAMES, MEL, 1)])
def test_a_model_of_spectrograms_refuses_other_shapes(shape):
    message = r"takes spectrograms of the shape \[batch, frames, 16\].*Received: shape="
    assert_refused(lambda: make_model(frontend=False)(random(*shape)), message)


# --- Dictionaries and lengths ---


def test_unknown_and_missing_keys_are_refused(any_model):
    sound, lengths = sound_for(any_model), np.array([20, 20])
    for inputs, message in [
        ({"waveform": sound, "length": lengths}, "Did you mean 'lengths'.*'length'"),
        ({"waveforms": sound}, "Did you mean 'waveform'"),
        ({"waveform": sound, "lengths": lengths, "label": lengths}, "Known: waveform, lengths"),
        ({"lengths": lengths}, "waveform is required"),
    ]:
        assert_refused(lambda inputs=inputs: any_model(inputs), message)
        assert_refused(lambda inputs=inputs: any_model.predict(inputs, verbose=0), message)
        dataset = tf.data.Dataset.from_tensors((inputs, CLASSES))
        assert_refused(lambda dataset=dataset: any_model.fit(dataset, verbose=0), message)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.array([1.5, 0.4]), "whole numbers of (samples|frames).*convert seconds.*float64"),
        (np.array([20.0, 10.0], "float32"), "convert seconds to (samples|frames)"),
        (np.array([True, False]), "whole numbers"),
        ([1.5, 0.4], "whole numbers"),
        (np.array([20, 0]), r"between 1 and the number of .*length 0, an array of (3000|24) "),
        (np.array([-1, 20]), r"between 1 and.*length -1"),
        (np.array([20, SAMPLES + 1]), r"between 1 and.*length 3001"),
        ([20, 0], "between 1 and"),
        (tf.constant([20, 0]), "between 1 and"),
        (np.array([20]), r"one number for each sound.*shape \(1,\) for 2 sounds"),
        (np.array([[20], [20]]), r"one number for each sound.*shape \(2, 1\)"),
        (20, r"one number for each sound.*shape \(\)"),
    ],
)
def test_wrong_lengths_are_refused(any_model, lengths, message):
    sound = sound_for(any_model)
    assert_refused(lambda: any_model(sound, lengths=lengths), message)
    assert_refused(lambda: any_model({"waveform": sound, "lengths": lengths}), message)
    inputs = {"waveform": sound, "lengths": lengths}
    assert_refused(lambda: any_model.predict(inputs, verbose=0), message)
    assert_refused(lambda: any_model.fit(inputs, CLASSES, verbose=0), message)


def test_wrong_seeds_are_refused(model):
    for seeds in (np.zeros((2, 2)), np.zeros((2, 3), int), np.zeros(2, int)):
        assert_refused(
            lambda seeds=seeds: model(WAVEFORM, seeds=seeds), r"seeds are int \[batch, 2"
        )


def test_lengths_of_every_integer_type_give_the_same_result(model):
    expected = model(WAVEFORM, lengths=np.array([3000, 2000], "int32")).numpy()
    for lengths in ([3000, 2000], np.array([3000, 2000], "uint16"), tf.constant([3000, 2000])):
        np.testing.assert_array_equal(model(WAVEFORM, lengths=lengths), expected)
    listed = model.predict({"waveform": WAVEFORM, "lengths": [3000, 2000]}, verbose=0)
    np.testing.assert_allclose(listed, expected, rtol=0, atol=1e-6)  # another batch layout


# --- Datasets and generators ---


def batches(second_length):
    for lengths in ([20, 20], [20, second_length], [20, 20]):
        yield {"waveform": WAVEFORM, "lengths": np.array(lengths, "int32")}, CLASSES


def as_dataset(second_length):
    inputs = {
        "waveform": tf.TensorSpec((None, None), tf.float32),
        "lengths": tf.TensorSpec((None,), tf.int32),
    }
    return tf.data.Dataset.from_generator(
        lambda: batches(second_length),
        output_signature=(inputs, tf.TensorSpec((None,), tf.int64)),
    )


@pytest.mark.parametrize("make", [batches, as_dataset])
@pytest.mark.parametrize("length", [0, -5, SAMPLES + 1])
def test_lengths_in_a_stream_of_batches_are_checked(model, make, length):
    def read():
        with one_line_errors():
            return list(checked_data(model, make(length)))

    assert_refused(
        read, rf"^Each length must lie.*Received: length {length}, an array of 3000 samples$"
    )


def test_evaluation_of_a_dataset_ends_in_one_line(model):
    message = r"^Each length must lie.*Received: length 0, an array of 3000 samples$"
    assert_refused(lambda: model.evaluate(as_dataset(0), verbose=0), message)
    assert model.evaluate(as_dataset(SAMPLES), verbose=0) > 0


def test_checked_dataset_is_the_same_dataset(model):
    dataset = as_dataset(30).apply(tf.data.experimental.assert_cardinality(3))
    checked = checked_data(model, dataset)
    assert checked.element_spec == dataset.element_spec
    assert int(checked.cardinality()) == 3
    for (ours, target), (theirs, _) in zip(checked, dataset, strict=True):
        np.testing.assert_array_equal(ours["lengths"], theirs["lengths"])
        assert target.shape == (2,)
    plain = tf.data.Dataset.from_tensors((WAVEFORM, CLASSES))
    assert checked_data(model, plain) is plain  # nothing is added where there is nothing to check


def test_a_dataset_of_wrong_form_is_refused_before_training(model):
    ragged = tf.data.Dataset.from_tensors((tf.ragged.constant([[0.1, 0.2], [0.3]]), CLASSES))
    single = tf.data.Dataset.from_tensor_slices((WAVEFORM, CLASSES))
    integers = tf.data.Dataset.from_tensors(((WAVEFORM * 9).astype("int16"), CLASSES))
    for dataset, message in [(ragged, "ragged"), (single, "batch axis"), (integers, "int16")]:
        assert_refused(lambda dataset=dataset: model.fit(dataset, verbose=0), message)
        validation = {"validation_data": dataset, "verbose": 0}
        assert_refused(lambda v=validation: model.fit(WAVEFORM, CLASSES, **v), message)


def test_an_exported_graph_holds_no_checks(model):
    @tf.function(input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec((None,), tf.int32)])
    def forward(waveform, lengths):
        return model(waveform, lengths=lengths)

    operations = {
        operation.type for operation in forward.get_concrete_function().graph.get_operations()
    }
    assert not {kind for kind in operations if re.search("Assert|Print|PyFunc", kind)}
    # A length of 0 in a graph gives the one patch that a backbone needs, as filling rows do.
    assert np.isfinite(forward(WAVEFORM, np.array([0, 20], "int32"))).all()

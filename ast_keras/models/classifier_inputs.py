"""Checks of what a classifier is called with: one line that says what to do, before Keras fails.

Shapes, dtypes and names are checked in every call, also of tensors without values. Values are
checked where they are at hand: in arrays and eager tensors in the memory of the CPU, and lengths in
a `tf.data.Dataset`. Tensors on a GPU are not copied back for it. Exported files hold no checks.
"""

import contextlib
import os
import re
import types
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from ast_keras.audio.loading import INTEGER_PEAK
from ast_keras.errors import ArgumentError, did_you_mean

KEYS = ("waveform", "lengths", "seeds")

_PAD = (
    "pad them with zeros to one array and pass {'waveform': array, 'lengths': lengths}, or "
    "classify files with ast_keras.Predictor"
)
_LENGTHS_RULE = (
    "Each length must lie between 1 and the number of {0} of the array. Received: length {1}, "
    "an array of {2} {0}"
)
# So few samples are the channels of one sound, as soundfile returns it: [samples, channels].
_MAX_CHANNELS = 8


# --- One call ---


@tf.autograph.experimental.do_not_convert
def check_call(model, waveform=None, training=None, lengths=None, seeds=None, **_):
    """Checks the arguments of a call of a classifier.

    Args:
        model: An `AudioClassifier`.
        waveform: The first argument of the call, an array, a tensor or a dictionary of them.
        training: Not used.
        lengths: Valid samples of each clip, or None.
        seeds: Seeds of the augmentation, or None.
        **_: Further arguments of the `call` of a subclass.

    Raises:
        ArgumentError: If the model cannot process them.

    Example:

    >>> from ast_keras import from_preset
    >>> model = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> check_call(model, np.zeros((1, 16000), "float32"), lengths=[16000])
    >>> check_call(model, np.zeros((1, 16000), "int16"))
    Traceback (most recent call last):
      ...
    ast_keras.errors.ArgumentError: The waveform must be floating point in [-1, 1]: divide int16 \
by 32768, or use ast_keras.audio_from_array. Received: dtype=int16
    """
    if isinstance(waveform, Mapping):
        unknown = next((key for key in waveform if key not in KEYS), None)
        if unknown is not None or "waveform" not in waveform:
            hint = did_you_mean(str(unknown), KEYS) if unknown is not None else ""
            raise ArgumentError(
                f"The keys of a dictionary of inputs are {', '.join(KEYS)}, of which waveform is "
                f"required. {hint} Received: keys={list(waveform)}"
            )
        lengths, seeds = waveform.get("lengths", lengths), waveform.get("seeds", seeds)
        waveform = waveform["waveform"]
    _check_form(model, waveform)
    if lengths is not None:
        _check_lengths(model, waveform, lengths)
    _check_values(model, waveform, lengths)
    if seeds is not None:
        shape, dtype = _shape(seeds), _dtype(seeds)
        if not _is_integer(dtype) or len(shape) != 2 or shape[1] != 2:
            raise ArgumentError(
                f"seeds are int [batch, 2]. Received: seeds of shape {shape}, dtype {dtype}"
            )


def _check_form(model, sound):
    """Checks shape and dtype of waveforms, or of spectrograms without a frontend."""
    if isinstance(sound, str | bytes | os.PathLike):
        raise ArgumentError(
            "A model takes samples, not files: use ast_keras.load_audio(path)[None], or classify "
            f"files with ast_keras.Predictor. Received: {sound!r:.80}"
        )
    if isinstance(sound, list | tuple):
        raise ArgumentError(_list_message(sound))
    if isinstance(sound, tf.RaggedTensor | tf.RaggedTensorSpec):
        raise ArgumentError(
            "Sounds of different lengths need padding: pass {'waveform': ragged.to_tensor(), "
            "'lengths': ragged.row_lengths()}. Received: a ragged tensor"
        )
    shape, dtype = _shape(sound), _dtype(sound)
    if shape is None or dtype is None:
        return  # an object that Keras knows or refuses
    if dtype == "object":
        raise ArgumentError(f"Sounds of different lengths: {_PAD}. Received: an array of objects")
    _check_shape(model, shape)
    if not keras.backend.is_float_dtype(dtype):
        raise ArgumentError(
            "The waveform must be floating point in [-1, 1]: divide int16 by 32768, or use "
            f"ast_keras.audio_from_array. Received: dtype={dtype}"
        )


def _check_values(model, sound, lengths):
    values = _values(sound)
    if values is None:
        return
    peak = _peak(values)
    most = np.inf if model.frontend is None else INTEGER_PEAK
    if lengths is not None and not (np.isfinite(peak) and peak <= most):
        valid = _values(lengths)
        if valid is None:
            return
        # Padding may hold anything.
        peak = np.max([_peak(row[:size]) for row, size in zip(values, valid, strict=True)])
    if not np.isfinite(peak):
        raise ArgumentError(f"Every sample must be a finite number. Received: a peak of {peak}")
    if peak > most:
        raise ArgumentError(
            "The waveform must lie in [-1, 1]; these floats look like integers: divide 16-bit "
            f"samples by 32768. Received: a peak of {peak:g}"
        )


def _peak(values):
    return max(values.max(), -values.min())  # NaN if any value is


def _check_shape(model, shape):
    if 0 in shape:
        raise ArgumentError(f"There is nothing to process. Received: shape={shape}")
    if model.frontend is None:
        mel = model.backbone.num_mel_bins
        if len(shape) != 3 or shape[2] not in (None, mel):
            raise ArgumentError(
                "This model has no frontend and takes spectrograms of the shape "
                f"[batch, frames, {mel}]: load it without frontend=None for waveforms. "
                f"Received: shape={shape}"
            )
        return
    if len(shape) == 2 and (shape[1] is None or shape[1] > _MAX_CHANNELS):
        return
    if len(shape) == 1:
        fix = "add the batch axis, waveform[None]"
    elif len(shape) == 3 and shape[2] == model.frontend.num_mel_bins:
        fix = "for spectrograms, load the model with frontend=None"
    elif len(shape) in (2, 3):
        fix = "take the mean of the channels, as ast_keras.audio_from_array does"
    else:
        fix = "one row for each sound"
    raise ArgumentError(f"The waveform must be [batch, samples]: {fix}. Received: shape={shape}")


def _list_message(sounds):
    try:
        shapes = [np.shape(sound) for sound in sounds]
    except ValueError:  # nested lists of different lengths
        shapes = []
    if len(set(shapes)) == 1:
        return (
            "Keras takes a list for several inputs: make it one array [batch, samples], as "
            f"np.stack does. Received: a list of {len(sounds)}, each of shape {shapes[0]}"
        )
    listed = ", ".join(map(str, shapes[:3])) + (", ..." if len(shapes) > 3 else "")
    return (
        f"Sounds of different lengths: {_PAD}. Received: a list of {len(sounds)}, shapes {listed}"
    )


def _check_lengths(model, sound, lengths):
    unit = _unit(model)
    shape, dtype = _shape(lengths), _dtype(lengths)
    if not _is_integer(dtype):
        raise ArgumentError(
            f"lengths are whole numbers of {unit}, int [batch]: convert seconds to {unit}. "
            f"Received: lengths of dtype {dtype}"
        )
    size, most = (_shape(sound) or (None, None))[:2]
    wrong_rank = shape is not None and len(shape) != 1
    if wrong_rank or (shape and size and shape[0] not in (None, size)):
        raise ArgumentError(
            "lengths hold one number for each sound, int [batch]. "
            f"Received: lengths of shape {shape} for {size} sounds"
        )
    values = _values(lengths)
    if values is not None and most is not None:
        wrong = values[(values < 1) | (values > most)]
        if wrong.size:
            raise ArgumentError(_LENGTHS_RULE.format(unit, wrong[0], most))


def _unit(model):
    return "frames" if model.frontend is None else "samples"


# --- The data of fit, evaluate and predict ---


def checked_data(model, data):
    """Checks the data of `fit`, `evaluate` or `predict`.

    Args:
        model: An `AudioClassifier`.
        data: The argument `x` of the method.

    Returns:
        The data. A dataset with lengths, or a generator, also checks each batch when it is read.

    Raises:
        ArgumentError: If the model cannot process the data.
    """
    if isinstance(data, tf.data.Dataset):
        inputs = keras.utils.unpack_x_y_sample_weight(data.element_spec)[0]
        check_call(model, inputs)
        if isinstance(inputs, Mapping) and inputs.get("lengths") is not None:
            return data.map(lambda *element: _with_checked_lengths(model, element))
        return data
    if isinstance(data, types.GeneratorType):
        return (_checked_element(model, element) for element in data)
    if isinstance(data, Mapping):
        lists = {k: np.asarray(data[k]) for k in KEYS[1:] if isinstance(data.get(k), list | tuple)}
        data = {**data, **lists}  # Keras would take a list for several inputs
    known = Mapping | list | tuple | str | bytes | os.PathLike
    if isinstance(data, known | tf.RaggedTensor) or _dtype(data) is not None:
        check_call(model, data)
    return data


def _checked_element(model, element):
    check_call(model, keras.utils.unpack_x_y_sample_weight(element)[0])
    return element


def _with_checked_lengths(model, element):
    """Adds a check of the lengths to an element of a dataset. It runs on the CPU, also with XLA."""
    inputs = element[0]
    lengths, most = inputs["lengths"], tf.shape(inputs["waveform"])[1]
    wrong = lengths[(lengths < 1) | (lengths > tf.cast(most, lengths.dtype))]
    rule = _LENGTHS_RULE.format(_unit(model), "{}", "{}")
    is_right = tf.size(wrong) == 0
    message = tf.cond(is_right, lambda: "", lambda: tf.strings.format(rule, (wrong[0], most)))
    with tf.control_dependencies([tf.debugging.Assert(is_right, [message])]):
        inputs = {**inputs, "lengths": tf.identity(lengths)}
    return (inputs, *element[1:]) if len(element) > 1 else inputs


@contextlib.contextmanager
def one_line_errors():
    """Raises the error of a check in a dataset or generator again, without TensorFlow's lines."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"(?:ArgumentError: |assertion failed: \[)(.+?Received: .+)", str(error))
        if found is None:
            raise
        raise ArgumentError(found[1].rstrip("]")) from None


# --- Arrays and tensors of any kind ---


def _shape(value):
    number = isinstance(value, list | tuple | int | float)
    shape = np.shape(value) if number else getattr(value, "shape", None)
    if isinstance(shape, tf.TensorShape):
        return None if shape.rank is None else tuple(shape)
    return None if shape is None else tuple(shape)


def _dtype(value):
    """Returns the name of the dtype; None for an object that is no array."""
    if isinstance(value, list | tuple | int | float):
        return np.asarray(value).dtype.name
    dtype = getattr(value, "dtype", None)
    return None if dtype is None else getattr(dtype, "name", str(dtype).rpartition(".")[2])


def _is_integer(dtype):
    return dtype is not None and dtype.startswith(("int", "uint"))


def _values(value):
    """Returns the values of an array or an eager tensor on the CPU; None for others."""
    if isinstance(value, list | tuple | np.ndarray):
        return np.asarray(value)
    is_eager = isinstance(value, tf.Tensor) and hasattr(value, "numpy")
    # A copy from a GPU would wait for all that it still computes.
    return value.numpy() if is_eager and "CPU" in value.backing_device else None

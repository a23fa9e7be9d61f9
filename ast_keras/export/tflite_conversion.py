"""Conversion of a classifier to TFLite: built-in operators only, float32, without metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import tensorflow as tf

from ast_keras.errors import ExportError
from ast_keras.export.isolated_run import operators
from ast_keras.export.quantization import silent_stderr
from ast_keras.export.serving_module import ServingModule
from ast_keras.models.audio_classifier import AudioClassifier

_SIGNATURE = "serving_default"


def convert(model: AudioClassifier, num_samples: int, takes_length: bool = False) -> bytes:
    """Converts a classifier to a float32 TFLite model without metadata.

    Args:
        model: `AudioClassifier` with a frontend.
        num_samples: Length of the input `waveform` in samples.
        takes_length: Whether to add an input `length`, the number of valid samples.

    Returns:
        The bytes of the file.

    Raises:
        ExportError: If an operator is not built into TFLite.
    """
    module = ServingModule(model, method="conv")
    inputs = [tf.TensorSpec((1, num_samples), tf.float32, name="waveform")]
    if takes_length:
        inputs.append(tf.TensorSpec((1,), tf.int32, name="length"))

    @tf.function(input_signature=inputs)
    def classify(waveform, length=None):
        return {"scores": module.scores(waveform, length)}

    return to_tflite(module, {_SIGNATURE: classify.get_concrete_function()})


def to_tflite(module: tf.Module, signatures: dict[str, Callable[..., tf.Tensor]]) -> bytes:
    """Converts the signatures of a module to one float32 TFLite model of built-in operators.

    Args:
        module: Module that holds the variables.
        signatures: Concrete functions by signature name; they may use the module's variables.

    Returns:
        The bytes of the file.

    Raises:
        ExportError: If an operator is not built into TFLite.
    """
    # Converted from a SavedModel: from concrete functions of a Keras model the converter silently
    # writes files without weights (TensorFlow 2.16 to 2.21).
    with tempfile.TemporaryDirectory() as folder, silent_stderr():
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:  # the converter's error types are in private modules
            lines = str(error).splitlines() or [type(error).__name__]
            reason = next((line for line in lines if "is neither a custom" in line), lines[0])
            raise ExportError(
                f"TFLite has no built-in operator for a part of this model: {reason}"
            ) from None
    custom = [name for name in operators(content) if name.startswith("Flex") or name == "CUSTOM"]
    if custom:
        raise ExportError(f"The file may contain built-in operators only. Received: {custom}")
    return content

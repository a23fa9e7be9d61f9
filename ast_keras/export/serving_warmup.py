"""Requests that TensorFlow Serving sends to a new model before it lets anyone else do so.

The first call of a signature takes seconds: kernels are chosen and buffers made then. The records
are TFRecords of `PredictionLog`, in `assets.extra/tf_serving_warmup_requests`.
"""

from __future__ import annotations

import io
import pathlib
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from ast_keras.errors import ExportError

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def require_serving() -> None:
    """Raises ExportError unless TensorFlow Serving's messages are installed."""
    _messages()


def write_warmup(folder: pathlib.Path, model_name: str, num_samples: int, sample_rate: int) -> None:
    """Writes one request for each signature into a version's folder.

    Args:
      folder: Of the version.
      model_name: Under which the model is served.
      num_samples: Length of the sound in the requests.
      sample_rate: In Hz.
    """
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in _records(model_name, num_samples, sample_rate):
            file.write(record.SerializeToString())


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Returns sound in [-1, 1] as a mono 16-bit WAV file, as `serving_bytes` takes it.

    Example:

    >>> len(wav_bytes(np.zeros(16000), 16000))
    32044
    """
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, sample_rate, len(waveform), "NONE", ""))
        scaled = np.clip(np.rint(np.asarray(waveform) * 32768), -32768, 32767)
        file.writeframes(scaled.astype("<i2").tobytes())
    return stream.getvalue()


def _records(model_name: str, num_samples: int, sample_rate: int) -> Iterator[Any]:
    messages = _messages()
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.1, 0.1, num_samples).astype(np.float32)
    encoded = wav_bytes(sound, sample_rate)
    inputs = {
        "serving_default": {"waveform": tf.make_tensor_proto(sound[None])},
        "embed": {"waveform": tf.make_tensor_proto(sound[None])},
        "serving_bytes": {"audio_bytes": tf.make_tensor_proto([encoded])},
    }
    for signature, tensors in inputs.items():
        record = messages.PredictionLog()
        request = record.predict_log.request
        request.model_spec.name, request.model_spec.signature_name = model_name, signature
        for name, tensor in tensors.items():
            request.inputs[name].CopyFrom(tensor)
        yield record
    record = messages.PredictionLog()
    request = record.classify_log.request
    request.model_spec.name, request.model_spec.signature_name = model_name, "classify"
    example = request.input.example_list.examples.add()
    example.features.feature["audio_bytes"].bytes_list.value.append(encoded)
    yield record


def _messages() -> Any:
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        raise ExportError(
            "Warm-up requests need tensorflow-serving-api: pip install 'ast-keras[export]'"
        ) from None
    return prediction_log_pb2

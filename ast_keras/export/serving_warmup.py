"""Warm-up requests, which TensorFlow Serving sends to a new version before it takes traffic.

The first call of a signature takes seconds, because kernels are chosen and buffers are allocated.
The requests are `PredictionLog` messages in a TFRecord file inside the version's folder.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from ast_keras.audio.encoding import wav_bytes
from ast_keras.errors import ExportError

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def require_serving() -> None:
    """Checks that the messages of TensorFlow Serving are installed.

    Raises:
        ExportError: If tensorflow-serving-api is not installed.
    """
    _messages()


def write_warmup(folder: pathlib.Path, model_name: str, num_samples: int, sample_rate: int) -> None:
    """Writes one request for each signature into the folder of a version.

    Args:
        folder: Folder of the version.
        model_name: Name under which the model is served.
        num_samples: Length of the waveform in each request, in samples.
        sample_rate: Sample rate of the waveform in Hz.
    """
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in _records(model_name, num_samples, sample_rate):
            file.write(record.SerializeToString())


def _records(model_name: str, num_samples: int, sample_rate: int) -> Iterator[Any]:
    messages = _messages()
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.1, 0.1, num_samples).astype(np.float32)
    encoded = wav_bytes(noise, sample_rate)
    inputs = {
        "serving_default": {"waveform": tf.make_tensor_proto(noise[None])},
        "embed": {"waveform": tf.make_tensor_proto(noise[None])},
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

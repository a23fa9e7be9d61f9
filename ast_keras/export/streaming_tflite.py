"""TFLite files for streams: one block of audio and the state in, scores and the new state out.

The caller keeps the state, which consists of all tensors whose names begin with `state_`. They are
zeros for the first block of a stream, and for every other block the outputs of the call before.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from ast_keras.audio import mel
from ast_keras.errors import ExportError
from ast_keras.export.quantization import quantize_layers, require_quantizer
from ast_keras.export.reference_clips import comparison_clips
from ast_keras.export.serving_module import exportable, label_names
from ast_keras.export.tflite import check_output_file
from ast_keras.export.tflite_conversion import to_tflite
from ast_keras.files import replacing, write_json
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

SIGNATURE = "stream"
# Largest allowed difference of a score from the model's, by quantization.
_MAX_ERROR = {"none": 1e-5, "float16": 1e-2, "int8": 0.1}
# The comparison runs three times the blocks of the attended past, so that the state wraps around.
_COMPARED_CYCLES = 3


class StreamingModule(tf.Module):
    """Computes one block of a stream from its samples and the state.

    Args:
        model: `AudioClassifier` with a `CausalASTBackbone` and a frontend, in float32.

    Attributes:
        num_samples: Length of a block in samples.
        state: Shape and dtype of each state tensor by name. `state_samples` holds the last samples
            of the block before, `state_number` the number of the block, and `state_keys_N` and
            `state_values_N` the keys and values of earlier blocks in transformer block N.
    """

    def __init__(self, model: AudioClassifier) -> None:
        super().__init__()
        network = _StreamingNetwork(model)
        self._network = network
        self.num_samples = network.num_samples
        cache_shape = tuple(model.backbone.initial_cache()[0][0].shape)
        self.state: dict[str, tuple[tuple[int, ...], type]] = {
            "state_samples": ((1, network.num_overlapping), np.float32),
            "state_number": ((1,), np.int32),
        }
        for index in range(model.backbone.num_layers):
            self.state[f"state_keys_{index}"] = (cache_shape, np.float32)
            self.state[f"state_values_{index}"] = (cache_shape, np.float32)
        self.stream = tf.function(network.step)
        self.model_variables = [variable.value for variable in model.variables]

    def initial_state(self) -> dict[str, np.ndarray]:
        """Returns the state before the first block of a stream: zeros."""
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.state.items()}


class _StreamingNetwork:
    """The function of a `StreamingModule`, hidden from TensorFlow's search for variables.

    See `ast_keras.export.serving_module._Network` for the reason.
    """

    def __init__(self, model: AudioClassifier) -> None:
        frontend, backbone = model.require_frontend(), model.backbone
        config = {**frontend.get_config(), "method": "conv", "num_frames": None}
        self.model = model
        self.filterbank = LogMelFilterbank.from_config({**config, "remove_waveform_mean": False})
        length, step = (
            mel.seconds_to_samples(seconds, frontend.sample_rate)
            for seconds in (frontend.frame_length_seconds, frontend.frame_step_seconds)
        )
        self.num_samples = backbone.block_columns * backbone.strides[1] * step
        # The last patch and frame of a block extend this far beyond the start of the next block.
        self.num_overlapping = (backbone.min_frames - 1) * step + length - self.num_samples

    def step(self, waveform: tf.Tensor, **state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes one block.

        Args:
            waveform: float32 `[1, num_samples]` in [-1, 1].
            **state: The state tensors.

        Returns:
            `scores` float32 `[1, num_classes]` and the new state tensors.
        """
        model, backbone = self.model, self.model.backbone
        samples = tf.concat([state["state_samples"], waveform], axis=1)
        number = state["state_number"]
        cache = [
            (state[f"state_keys_{index}"], state[f"state_values_{index}"])
            for index in range(backbone.num_layers)
        ]
        patches = backbone.get_layer("patches")(self.filterbank(samples))
        tokens, cache = backbone.step(patches, number, cache)
        # Once the cache is full only the number modulo its size matters: reduced to that, the
        # number never overflows.
        cycle = backbone.past_blocks + 1
        next_number = tf.where(number + 1 >= 2 * cycle, number + 1 - cycle, number + 1)
        result = {
            "scores": model.scores(model.classify(backbone.pool_blocks(tokens)[:, 0])),
            "state_samples": samples[:, self.num_samples :],
            "state_number": next_number,
        }
        for index, (keys, values) in enumerate(cache):
            result |= {f"state_keys_{index}": keys, f"state_values_{index}": values}
        return result


def export_streaming_tflite(
    model: AudioClassifier,
    path: str | os.PathLike[str],
    *,
    quantize: str = "none",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a causal classifier as a TFLite file that processes a stream block by block.

    The signature `stream` takes `waveform` float32 `[1, samples of a block]` and the `state_`
    tensors, and gives `scores` `[1, num_classes]` and the same state tensors. All-zero state at the
    start of a stream stands for silence before it, so the first block begins earlier than the first
    sample by the length of `state_samples`.

    The file is run block by block and compared with the model on the whole signal before it is
    written. `FILE.json` next to it holds the names and shapes of the state, the sample rate and
    the labels.

    Args:
        model: `AudioClassifier` with a `CausalASTBackbone` and a frontend.
        path: File to write, by convention `*.tflite`.
        quantize: "none", "float16" or "int8".
        overwrite: Whether to replace an existing file.

    Returns:
        The content of the JSON file.

    Raises:
        ExportError: If the model is not causal, the file exists, a package is missing, or the
            scores differ too much from the model's. Nothing is written in these cases.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> from ast_keras.weights.build import to_causal
    >>> tiny = to_causal(from_preset("ast_test", num_classes=2, num_frames=98), 4, 1)
    >>> about = export_streaming_tflite(tiny, os.path.join(tempfile.mkdtemp(), "tiny.tflite"))
    >>> about["num_samples"], about["max_error"] < 1e-5
    (6400, True)
    """
    path = pathlib.Path(path)
    _check_arguments(model, path, quantize, overwrite)
    model = exportable(model)
    module = StreamingModule(model)
    content = _convert(module)
    if quantize != "none":
        content = quantize_layers(content, quantize, model)
    error, num_blocks = _largest_error(content, module, model)
    if not error <= _MAX_ERROR[quantize]:
        raise ExportError(
            f"The TFLite file is not within its tolerance: scores differ by {error:.2g}, allowed "
            f"are {_MAX_ERROR[quantize]}. Choose another quantization. Nothing was written"
        )
    about = {
        "sample_rate": model.frontend.sample_rate,
        "num_samples": module.num_samples,
        "labels": label_names(model),
        "state": {name: list(shape) for name, (shape, _) in module.state.items()},
        "quantize": quantize,
        "compared_blocks": num_blocks,
        "max_error": error,
        "size_bytes": len(content),
    }
    with replacing(path) as part:
        part.write_bytes(content)
        write_json(path.with_name(f"{path.name}.json"), about)
    return about


def _check_arguments(
    model: AudioClassifier, path: pathlib.Path, quantize: str, overwrite: bool
) -> None:
    backbone = model.backbone
    if model.frontend is None or not isinstance(backbone, CausalASTBackbone):
        raise ExportError(
            "Only a causal model with a frontend can be exported for streams: train one with "
            f"--set model.block_columns=10. Received: {type(backbone).__name__}, "
            f"frontend={model.frontend}"
        )
    if quantize not in _MAX_ERROR:
        raise ExportError(
            f"quantize must be one of {', '.join(_MAX_ERROR)}. Received: {quantize!r}"
        )
    if backbone.past_blocks < 1 or backbone.patch_size[1] < backbone.strides[1]:
        raise ExportError(
            "A file for streams needs at least one past block, and patches without gaps. Received: "
            f"past_blocks={backbone.past_blocks}, patch_size={backbone.patch_size}, "
            f"strides={backbone.strides}"
        )
    check_output_file(path, overwrite)
    require_quantizer(quantize)


def _convert(module: StreamingModule) -> bytes:
    state = {
        name: tf.TensorSpec(shape, dtype, name=name)
        for name, (shape, dtype) in module.state.items()
    }
    waveform = tf.TensorSpec((1, module.num_samples), tf.float32, name="waveform")
    function = module.stream.get_concrete_function(waveform, **state)
    return to_tflite(module, {SIGNATURE: function})


def _largest_error(
    content: bytes, module: StreamingModule, model: AudioClassifier
) -> tuple[float, int]:
    """Compares the file, block by block, with the model on the whole signal."""
    from ai_edge_litert.interpreter import Interpreter

    backbone = model.backbone
    num_blocks = _COMPARED_CYCLES * (backbone.past_blocks + 1)
    clips, _ = comparison_clips(model, num_blocks * module.num_samples, num_clips=2)
    runner = Interpreter(model_content=content, num_threads=2).get_signature_runner(SIGNATURE)
    largest = 0.0
    for clip in clips:
        silence = np.zeros(module.state["state_samples"][0][1], np.float32)
        whole = np.concatenate([silence, clip])[None]
        tokens = backbone(model.spectrogram(whole))
        expected = model.scores(model.classify(backbone.pool_blocks(tokens)))[0].numpy()
        state: dict[str, np.ndarray] = module.initial_state()
        for number in range(num_blocks):
            block = clip[number * module.num_samples :][: module.num_samples]
            outputs = runner(waveform=block[None], **state)
            error = float(np.abs(outputs.pop("scores")[0] - expected[number]).max())
            largest = max(largest, error)
            state = outputs
    return largest, num_blocks * len(clips)

"""A TFLite file for endless sound: one block in, scores out, and what is to be kept for the next.

The caller holds the state: all tensors whose names begin with `state_`. Each goes in as it came out
of the call before, and as zeros before the first; `reset` needs nothing else.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from ast_keras.audio import mel
from ast_keras.errors import ExportError
from ast_keras.export.quantization import quantise, require_quantizer
from ast_keras.export.reference_clips import comparison_clips
from ast_keras.export.serving_module import in_float32, label_names
from ast_keras.export.tflite import to_tflite
from ast_keras.files import replacing, write_json
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

SIGNATURE = "stream"
# Largest difference of a score from the model's, as for files of whole clips.
_BOUNDS = {"none": 1e-5, "float16": 1e-2, "int8": 0.1}
_COMPARED_BLOCKS = 3  # times as many as are in sight: the state has wrapped around


class StreamedGraph(tf.Module):
    """Computes one block of a stream from its samples and the state.

    Args:
      model: An `ASTClassifier` with a `CausalASTBackbone`, in float32.

    Attributes:
      num_samples: Of a block.
      state: Shape and dtype of each state tensor by name: `state_samples` are the last samples of
        the block before, `state_number` counts the blocks, `state_keys_N` and `state_values_N`
        are the past of transformer block N.
    """

    def __init__(self, model: ASTClassifier) -> None:
        super().__init__()
        backbone = model.backbone
        config = {**model.frontend.get_config(), "method": "conv", "num_frames": None}
        fbank = LogMelFilterbank.from_config({**config, "remove_waveform_mean": False})
        frontend = model.frontend
        length, step = (
            mel.seconds_to_samples(seconds, frontend.sample_rate)
            for seconds in (frontend.frame_length_seconds, frontend.frame_step_seconds)
        )
        self.num_samples = backbone.block_columns * backbone.strides[1] * step
        # A block's last patch and frame reach this far beyond the next block's beginning.
        overlap = (backbone.min_frames - 1) * step + length - self.num_samples
        shape = tuple(backbone.initial_cache()[0][0].shape)
        self.state: dict[str, tuple[tuple[int, ...], type]] = {
            "state_samples": ((1, overlap), np.float32),
            "state_number": ((1,), np.int32),
        }
        for index in range(backbone.num_layers):
            self.state[f"state_keys_{index}"] = (shape, np.float32)
            self.state[f"state_values_{index}"] = (shape, np.float32)

        def stream(waveform: tf.Tensor, **state: tf.Tensor) -> dict[str, tf.Tensor]:
            heard = tf.concat([state["state_samples"], waveform], axis=1)
            frames = fbank(heard)
            number = state["state_number"]
            cache = [
                (state[f"state_keys_{index}"], state[f"state_values_{index}"])
                for index in range(backbone.num_layers)
            ]
            tokens, cache = backbone.step(backbone.get_layer("patches")(frames), number, cache)
            scores = model.scores(model.classify(backbone.pool_blocks(tokens)[:, 0]))
            # Beyond what is in sight only the phase counts: the number never overflows.
            cycle = backbone.past_blocks + 1
            following = tf.where(number + 1 >= 2 * cycle, number + 1 - cycle, number + 1)
            result = {
                "scores": scores,
                "state_samples": heard[:, self.num_samples :],
                "state_number": following,
            }
            for index, (keys, values) in enumerate(cache):
                result |= {f"state_keys_{index}": keys, f"state_values_{index}": values}
            return result

        self.stream = tf.function(stream)
        self.model_variables = [variable.value for variable in model.variables]

    def initial_state(self) -> dict[str, np.ndarray]:
        """Returns the state of a stream that has not begun."""
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.state.items()}


def export_streaming_tflite(
    model: ASTClassifier,
    path: str | os.PathLike[str],
    *,
    quantize: str = "none",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a causal classifier as a TFLite file that hears a stream block by block.

    Signature `stream`: `waveform` float32 `[1, samples of a block]` and the `state_` tensors in;
    `scores` `[1, num_classes]` and the same state tensors out. A stream begins with all state
    zero, which is as if there were silence before it: its blocks begin earlier than the samples by
    the length of `state_samples`. The file is run block by block and compared with the model on
    the whole sound before it appears; beside it `FILE.json` says names, shapes, rate and labels.

    Args:
      model: An `ASTClassifier` with a `CausalASTBackbone` and a frontend.
      path: The file to write, by convention `*.tflite`.
      quantize: "none", "float16" or "int8".
      overwrite: Whether a file of this name may be replaced.

    Returns what is in the JSON file.

    Raises:
      ExportError: If the model is not causal, the file exists, something is not installed, or the
        file's scores are not the model's; nothing is written then.

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
    model = in_float32(model)
    graph = StreamedGraph(model)
    content = _convert(graph)
    if quantize != "none":
        content = quantise(content, quantize, model)
    error, blocks = _largest_error(content, graph, model)
    if not error <= _BOUNDS[quantize]:
        raise ExportError(
            f"The file misses its bound: scores differ by {error:.2g}, at most {_BOUNDS[quantize]} "
            "is allowed. Choose another --quantize. Nothing was written"
        )
    about = {
        "sample_rate": model.frontend.sample_rate,
        "num_samples": graph.num_samples,
        "labels": label_names(model, None),
        "state": {name: list(shape) for name, (shape, _) in graph.state.items()},
        "quantize": quantize,
        "compared_blocks": blocks,
        "max_error": error,
        "size_bytes": len(content),
    }
    with replacing(path) as part:
        part.write_bytes(content)
        write_json(path.with_name(f"{path.name}.json"), about)
    return about


def _check_arguments(
    model: ASTClassifier, path: pathlib.Path, quantize: str, overwrite: bool
) -> None:
    backbone = model.backbone
    if model.frontend is None or not isinstance(backbone, CausalASTBackbone):
        raise ExportError(
            "Only a causal model that hears sound can be exported for streams: train one with "
            f"--set model.block_columns=10. Received: {type(backbone).__name__}"
        )
    if quantize not in _BOUNDS:
        raise ExportError(f"quantize must be one of {', '.join(_BOUNDS)}. Received: {quantize!r}")
    if backbone.past_blocks < 1 or backbone.patch_size[1] < backbone.strides[1]:
        raise ExportError(
            "A file for streams needs at least one past block, and patches without gaps. Received: "
            f"past_blocks={backbone.past_blocks}, patch_size={backbone.patch_size}, "
            f"strides={backbone.strides}"
        )
    if path.is_dir():
        raise ExportError(f"Name a file, not a folder. Received: {path}")
    if path.exists() and not overwrite:
        raise ExportError(f"The file exists: add --overwrite to replace it. Received: {path}")
    require_quantizer(quantize)


def _convert(graph: StreamedGraph) -> bytes:
    takes = {
        name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in graph.state.items()
    }
    waveform = tf.TensorSpec((1, graph.num_samples), tf.float32, name="waveform")
    return to_tflite(graph, {SIGNATURE: graph.stream.get_concrete_function(waveform, **takes)})


def _largest_error(content: bytes, graph: StreamedGraph, model: ASTClassifier) -> tuple[float, int]:
    """Compares the file, block by block, with the model on the whole sound."""
    from ai_edge_litert.interpreter import Interpreter

    backbone = model.backbone
    count = _COMPARED_BLOCKS * (backbone.past_blocks + 1)
    clips, _ = comparison_clips(model, count * graph.num_samples, num_clips=2)
    runner = Interpreter(model_content=content, num_threads=2).get_signature_runner(SIGNATURE)
    worst = 0.0
    for clip in clips:
        before = np.zeros(graph.state["state_samples"][0][1], np.float32)
        whole = np.concatenate([before, clip])[None]
        tokens = backbone(model.spectrogram(whole))
        expected = model.scores(model.classify(backbone.pool_blocks(tokens)))[0].numpy()
        state: dict[str, np.ndarray] = graph.initial_state()
        for block in range(count):
            part = clip[block * graph.num_samples :][: graph.num_samples]
            found = runner(waveform=part[None], **state)
            worst = max(worst, float(np.abs(found.pop("scores")[0] - expected[block]).max()))
            state = found
    return worst, count * len(clips)

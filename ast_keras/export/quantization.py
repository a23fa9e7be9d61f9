"""Quantization of a TFLite model: fewer bits for the large matrices of the transformer.

The patch projection and the four matrices of every block are quantized. They hold 99 % of a model's
weights. The filterbank stays float32, because eight bits cannot represent the range of a power
spectrum. The norms, the attention products and the head stay float32, because they are small.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ast_keras.errors import ExportError
from ast_keras.models.audio_classifier import AudioClassifier

SCHEMES = ("none", "float16", "int8", "int4")
_BLOCK_LAYERS = ("attention/qkv", "attention/projection", "mlp_hidden", "mlp_output")
_PATCHES = "patches/projection"
_INT4_BLOCK = 32  # weights with a common scale


def quantizable_layers(model: AudioClassifier) -> list[str]:
    """Returns the names of the layers that can be quantized, from the input to the output.

    Args:
        model: The classifier.

    Example:

    >>> from ast_keras import from_preset
    >>> quantizable_layers(from_preset("ast_test", num_classes=2, num_frames=98))[:3]
    ['patches/projection', 'block_0/attention/qkv', 'block_0/attention/projection']
    """
    blocks = range(model.backbone.num_layers)
    return [_PATCHES, *(f"block_{i}/{name}" for i in blocks for name in _BLOCK_LAYERS)]


def layer_pattern(layer: str) -> str:
    """Returns a regular expression that matches a layer's tensor names in a TFLite file.

    Keras numbers a scope that is entered again: `block_0` may be called `block_0_1`. The scope of
    the attention is optional, because the block calls some of the attention's layers itself.

    Args:
        layer: Name from `quantizable_layers`.

    Example:

    >>> pattern = layer_pattern("block_1/mlp_output")
    >>> [bool(re.search(pattern, f"{x}/mlp_output_2/Dot")) for x in ("block_1_2", "block_10")]
    [True, False]
    """
    first, *scopes, last = (f"{part}(_[0-9]+)?/" for part in layer.split("/"))
    return "(^|[/;])" + first + "".join(f"({scope})?" for scope in scopes) + last


def quantize_layers(
    content: bytes, scheme: str, model: AudioClassifier, layers: Iterable[str] | None = None
) -> bytes:
    """Quantizes the matrices of some layers of a TFLite model.

    Args:
        content: The float32 model as the converter wrote it.
        scheme: "float16"; "int8", with one scale for each row and activations quantized at run
            time; or "int4", with one scale for every 32 weights, and eight bits for the patch
            projection.
        model: The classifier that was converted.
        layers: Names of the layers to quantize; None for all of `quantizable_layers`.

    Returns:
        The quantized model.

    Raises:
        ExportError: If litert-quantizer is not installed.
    """
    quantizer = _load_quantizer().quantizer.Quantizer(bytearray(content))
    for layer in quantizable_layers(model) if layers is None else layers:
        operation, settings, algorithm = _settings(scheme, layer, model)
        quantizer.update_quantization_recipe(
            layer_pattern(layer), operation, settings, algorithm_key=algorithm
        )
    if not quantizer.get_quantization_recipe():
        return content
    with silent_stderr():
        result = quantizer.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def require_quantizer(scheme: str) -> None:
    """Checks that a scheme exists and that the package it needs is installed.

    Args:
        scheme: Name of the quantization.

    Raises:
        ExportError: If the scheme is unknown or litert-quantizer is not installed.
    """
    if scheme not in SCHEMES:
        raise ExportError(f"quantize must be one of {', '.join(SCHEMES)}. Received: {scheme!r}")
    if scheme != "none":
        _load_quantizer()


def _load_quantizer() -> Any:
    try:
        import litert_quantizer
        import litert_quantizer.algorithm_manager
        import litert_quantizer.qtyping
        import litert_quantizer.quantizer
    except ImportError as error:
        raise ExportError(
            "Quantization needs litert-quantizer: pip install 'ast-keras[export]'. "
            f"Received: {error}"
        ) from None
    return litert_quantizer


def _settings(scheme: str, layer: str, model: AudioClassifier) -> tuple[Any, Any, str]:
    package = _load_quantizer()
    types, names = package.qtyping, package.algorithm_manager.AlgorithmName
    operations = types.TFLOperationName
    operation = operations.CONV_2D if layer == _PATCHES else operations.FULLY_CONNECTED
    if scheme == "float16":
        half = types.TensorQuantizationConfig(16, dtype=types.TensorDataType.FLOAT)
        settings = types.OpQuantizationConfig(
            weight_tensor_config=half,
            compute_precision=types.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        return operation, settings, names.FLOAT_CASTING
    bits, granularity = 8, types.QuantGranularity.CHANNELWISE
    if scheme == "int4" and layer != _PATCHES:
        bits = 4
        width = model.backbone.mlp_dim if "mlp_output" in layer else model.backbone.embed_dim
        if width % _INT4_BLOCK == 0:
            granularity = types.QuantGranularity.BLOCKWISE_32
    weights = types.TensorQuantizationConfig(bits, symmetric=True, granularity=granularity)
    settings = types.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=types.ComputePrecision.INTEGER
    )
    return operation, settings, names.MIN_MAX_UNIFORM_QUANT


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discards what Python and C++ libraries write to standard error inside the block."""
    with open(os.devnull, "wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def signal_to_noise(
    content: bytes, scheme: str, model: AudioClassifier, layers: Iterable[str], clips: np.ndarray
) -> dict[str, float]:
    """Measures the noise that the quantization of each layer adds to the logits.

    One layer is quantized at a time: a comparison inside a fully quantized model would blame
    every layer that follows a bad one.

    Args:
        content: The float32 TFLite model.
        scheme: Quantization as for `quantize_layers`.
        model: The classifier that was converted.
        layers: Names of the layers to measure.
        clips: A few clips, float32 `[clips, samples]`.

    Returns:
        Signal-to-noise ratio of the logits in dB by layer, the worst layer first.
    """
    exact = _logits(content, clips)
    signal = float(np.square(exact - exact.mean(axis=1, keepdims=True)).sum())
    ratios = {}
    for layer in layers:
        noise = _logits(quantize_layers(content, scheme, model, [layer]), clips) - exact
        power = float(np.square(noise).sum())
        ratios[layer] = 10 * np.log10(signal / power) if power else float("inf")
    return dict(sorted(ratios.items(), key=lambda item: item[1]))


def _logits(content: bytes, clips: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # The logits are a tensor between two operators, which an interpreter with delegates hides.
    interpreter = Interpreter(
        model_content=content,
        num_threads=2,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    # The last tensor of the head with the shape of the scores is the head's output.
    pattern = re.compile(r"(^|[/;])head(_[0-9]+)?/")
    details = [d for d in interpreter.get_tensor_details() if pattern.search(d["name"])]
    shape = tuple(interpreter.get_output_details()[0]["shape"])
    (logits,) = [d["index"] for d in details if tuple(d["shape"]) == shape][-1:]
    values = []
    for clip in clips:
        for detail in interpreter.get_input_details():
            is_length = len(detail["shape"]) == 1
            value = np.array([len(clip)], np.int32) if is_length else clip[None]
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
        values.append(interpreter.get_tensor(logits)[0].copy())
    return np.array(values, np.float64)

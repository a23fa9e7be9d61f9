"""One TFLite file: sound in, scores out, ready for LiteRT and MediaPipe."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from ast_keras import __version__
from ast_keras.errors import ExportError
from ast_keras.export.acceptance import DEFAULT_TOLERANCE, Report, Tolerance, compare
from ast_keras.export.isolated_run import measure, operators
from ast_keras.export.quantization import (
    quantisable_layers,
    quantise,
    quiet,
    require_quantizer,
    signal_to_noise,
)
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.serving_module import ServedGraph, default_num_samples, label_names
from ast_keras.export.tflite_metadata import add_metadata
from ast_keras.files import replacing, write_json
from ast_keras.labels import LabelSet
from ast_keras.models.ast_classifier import ASTClassifier

_SIGNATURE = "serving_default"
_JUDGED_ON = 4  # clips that tell good layers from bad ones
_LEFT_AT_ONCE = 8  # an eighth of the layers goes back to float32 in one round


def export_tflite(
    model: ASTClassifier,
    path: str | os.PathLike[str],
    *,
    quantize: str = "none",
    num_samples: int | None = None,
    labels: LabelSet | None = None,
    method: str = "conv",
    takes_length: bool = False,
    clips: str | os.PathLike[str] | None = None,
    num_clips: int = 200,
    bounds: Tolerance | None = None,
    fallback: bool = False,
    overwrite: bool = False,
    num_threads: int = 2,
    log: Callable[[str], None] = lambda line: None,
) -> Report:
    """Writes a classifier as one TFLite file, if the file is as good as the model.

    The file has one input, `waveform` `[1, num_samples]`, one output, `scores` `[1, classes]`, only
    built-in operators, and metadata from which MediaPipe's AudioClassifier takes the sample rate
    and the labels. It is run in a new process and compared with the model before it appears; beside
    it `FILE.json` holds the report, the sample rate, the length and the labels.

    Args:
      model: An `ASTClassifier` with a frontend.
      path: The file to write, by convention `*.tflite`.
      quantize: "none", "float16", "int8" or "int4": see `ast_keras.export.quantization`.
      num_samples: Length of the sound that the file takes; None for whole seconds of what the
        model hears.
      labels: Names of the classes; None for the model's own, or numbers.
      method: Of the filterbank: "conv" runs on everything, GPUs included; "fft" is refused, since
        TFLite has no transform in float64.
      takes_length: Whether there is a second input, `length` int32 `[1]`: how many samples of
        `waveform` are sound. MediaPipe takes no such file. With `padding="masked"` what follows is
        not attended to, and `num_samples` may be more than the model was trained on.
      clips: A folder of sounds to compare on; None for rendered ones.
      num_clips: How many clips to compare on.
      bounds: What the file must keep; None for `DEFAULT_TOLERANCE[quantize]`.
      fallback: Whether layers that lose most are left in float32 until the bounds hold.
      overwrite: Whether a file of this name may be replaced.
      num_threads: Of the run that is measured.
      log: Is told in words what goes on.

    Returns the report.

    Raises:
      ExportError: If an argument is wrong, something is not installed, the file exists, an operator
        is not built in, or the bounds are missed; nothing is written then.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> tiny = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> export_tflite(tiny, file, num_clips=2).agreement
    1.0
    """
    path = pathlib.Path(path)
    _check_arguments(model, path, quantize, method, overwrite)
    num_samples = _checked_length(model, num_samples)
    names = label_names(model, labels)
    content = convert(model, num_samples, takes_length)
    waveforms, source = comparison_clips(model, num_samples, clips, num_clips)
    lengths = _lengths(waveforms) if takes_length else None
    expected = keras_scores(model, waveforms, lengths)
    bounds = bounds or DEFAULT_TOLERANCE[quantize]

    def judged(layers: Sequence[str]) -> tuple[bytes, Report]:
        made = content if quantize == "none" else quantise(content, quantize, model, layers)
        made = add_metadata(
            made,
            name=model.name,
            description=f"Audio Spectrogram Transformer, {len(names)} classes, {quantize}",
            version=__version__,
            sample_rate=model.frontend.sample_rate,
            labels=names,
        )
        left = [] if quantize == "none" else _left(model, layers)
        with _scratch_file(made) as file:
            measurement = measure("tflite", file, waveforms, num_threads, lengths)
        report = compare(
            quantize, source, bounds, expected, measurement,
            size_bytes=len(made), operators=operators(made), float_layers=tuple(left),
        )  # fmt: skip
        return made, report

    layers = quantisable_layers(model)
    made, report = judged(layers)
    if report.missed and quantize != "none":
        log(f"{report.missed}: looking for the layers that lose most")
        worst = signal_to_noise(content, quantize, model, layers, waveforms[:_JUDGED_ON])
        while report.missed and fallback and layers:
            step = max(1, len(worst) // _LEFT_AT_ONCE)
            left = [*_left(model, layers), *[x for x in worst if x in layers][:step]]
            layers = [x for x in layers if x not in left]
            made, report = judged(layers)
            log(f"{len(left)} layers in float32: {report.missed or 'all bounds hold'}")
        if report.missed:
            listed = ", ".join(f"{x} {db:.1f} dB" for x, db in list(worst.items())[:3])
            raise ExportError(
                f"The file misses its bound: {report.missed}. Leave the worst layers in float32 "
                f"with --fallback, or choose another --quantize. Worst signal to noise: {listed}"
            )
    if report.missed:
        raise ExportError(f"The file misses its bound: {report.missed}. Nothing was written")
    about = {
        "sample_rate": model.frontend.sample_rate,
        "num_samples": num_samples,
        "labels": names,
    }
    with replacing(path) as part:
        part.write_bytes(made)
        write_json(path.with_name(f"{path.name}.json"), {**report.to_dict(), **about})
    return report


def convert(model: ASTClassifier, num_samples: int, takes_length: bool = False) -> bytes:
    """Returns the classifier as a float32 TFLite model without metadata.

    Arguments as of `export_tflite`.

    Raises:
      ExportError: If an operator is not built into TFLite.
    """
    graph = ServedGraph(model, method="conv")
    takes = [tf.TensorSpec((1, num_samples), tf.float32, name="waveform")]
    if takes_length:
        takes.append(tf.TensorSpec((1,), tf.int32, name="length"))

    @tf.function(input_signature=takes)
    def classify(waveform, length=None):
        return {"scores": graph.scores(waveform, length)}

    return to_tflite(graph, {_SIGNATURE: classify.get_concrete_function()})


def to_tflite(module: tf.Module, signatures: dict[str, Callable[..., tf.Tensor]]) -> bytes:
    """Returns signatures as one float32 TFLite model of built-in operators.

    Args:
      module: Holds the variables.
      signatures: Concrete functions, which may use its variables.

    Raises:
      ExportError: If an operator is not built into TFLite.
    """
    # By way of a SavedModel: from functions of a Keras model the converter makes files without
    # weights, silently (TensorFlow 2.16 to 2.21).
    with tempfile.TemporaryDirectory() as folder, quiet():
        tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            content = converter.convert()
        except Exception as error:  # the converter's own types lie in private modules
            line = next((x for x in str(error).splitlines() if "is neither a custom" in x), "")
            reason = line or str(error).splitlines()[0]
            raise ExportError(
                f"TFLite has no built-in operator for a part of this model: {reason}"
            ) from None
    custom = [name for name in operators(content) if name.startswith("Flex") or name == "CUSTOM"]
    if custom:
        raise ExportError(f"Only built-in operators may be in the file. Received: {custom}")
    return content


def _check_arguments(
    model: ASTClassifier, path: pathlib.Path, quantize: str, method: str, overwrite: bool
) -> None:
    if model.frontend is None:
        raise ExportError(
            "Only a model that hears sound can be exported: this one takes spectrograms. Load it "
            "without frontend=None"
        )
    if method != "conv":
        raise ExportError(
            'A TFLite file needs the filterbank method="conv": TFLite has no Fourier transform in '
            f"float64. Received: method={method!r}"
        )
    if path.is_dir():
        raise ExportError(f"Name a file, not a folder. Received: {path}")
    if path.exists() and not overwrite:
        raise ExportError(f"The file exists: add --overwrite to replace it. Received: {path}")
    require_quantizer(quantize)
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:
        raise ExportError(
            "Running the file needs ai-edge-litert: pip install 'ast-keras[export]'"
        ) from None


def _checked_length(model: ASTClassifier, num_samples: int | None) -> int:
    if num_samples is None:
        return default_num_samples(model)
    heard = model.frontend.num_samples
    # What is less than a frame more is not heard, but whole seconds are what clients like.
    step = round(model.frontend.frame_step_seconds * model.frontend.sample_rate)
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ExportError(
            "A TFLite file takes sounds of one length, which must be said: a client reserves that "
            f"many samples. Received: num_samples={num_samples}"
        )
    if model.padding == "original" and num_samples >= heard + step:
        raise ExportError(
            f"The model hears {heard} samples ({heard / model.frontend.sample_rate:.2f} s) and no "
            f'more; with padding="masked" it hears any length. Received: num_samples={num_samples}'
        )
    return int(num_samples)


def _lengths(waveforms: np.ndarray) -> np.ndarray:
    """Returns lengths to compare with: every second clip is whole, of the others a part is."""
    lengths = np.full(len(waveforms), waveforms.shape[1], np.int32)
    lengths[1::2] = np.linspace(0.1, 1.0, len(lengths[1::2])) * waveforms.shape[1]
    return lengths


def _left(model: ASTClassifier, layers: Sequence[str]) -> list[str]:
    return [layer for layer in quantisable_layers(model) if layer not in layers]


@contextlib.contextmanager
def _scratch_file(content: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.tflite")
        file.write_bytes(content)
        yield str(file)

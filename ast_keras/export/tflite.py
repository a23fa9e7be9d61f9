"""TFLite files for LiteRT and MediaPipe: waveform in, scores out."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from ast_keras import __version__
from ast_keras.errors import ExportError
from ast_keras.export.acceptance import DEFAULT_TOLERANCE, Report, Tolerance, compare
from ast_keras.export.isolated_run import measure, operators
from ast_keras.export.quantization import (
    quantizable_layers,
    quantize_layers,
    require_quantizer,
    signal_to_noise,
)
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.serving_module import label_names
from ast_keras.export.tflite_conversion import convert
from ast_keras.export.tflite_metadata import add_metadata
from ast_keras.files import replacing, write_json
from ast_keras.labels import Labels
from ast_keras.models.audio_classifier import AudioClassifier

_NOISE_CLIPS = 4  # clips on which the noise of each layer is measured
_SEARCH_ROUNDS = 8  # an eighth of the layers returns to float32 in each round


def export_tflite(
    model: AudioClassifier,
    path: str | os.PathLike[str],
    *,
    quantize: str = "none",
    num_samples: int | None = None,
    labels: Labels | None = None,
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
    """Writes a classifier as one TFLite file, if its scores are close enough to the model's.

    The file has one input, `waveform` float32 `[1, num_samples]`, one output, `scores` float32
    `[1, classes]`, built-in operators only, and metadata that give MediaPipe's AudioClassifier the
    sample rate and the labels. It is run in a new process and compared with the model before it is
    written. `FILE.json` next to it holds the report, the sample rate, the length and the labels.

    Args:
        model: `AudioClassifier` with a frontend.
        path: File to write, by convention `*.tflite`.
        quantize: "none", "float16", "int8" or "int4" (see `ast_keras.export.quantization`).
        num_samples: Length of the input in samples; None for the longest whole number of seconds
            that the model processes.
        labels: Names of the classes; None for the model's own labels, or numbers.
        method: Computation of the filterbank. Only "conv" is possible: "fft" needs a Fourier
            transform in float64, which TFLite does not have.
        takes_length: Whether to add an input `length` int32 `[1]`, the number of valid samples in
            `waveform`. With `padding="masked"` the rest is not attended to, and `num_samples` may
            exceed the length that the model was trained on. MediaPipe does not accept such a file.
        clips: Folder of recordings to compare on; None for rendered sounds.
        num_clips: Number of clips to compare on.
        bounds: Largest allowed differences from the model; None for `DEFAULT_TOLERANCE[quantize]`.
        fallback: Whether to leave the layers with the most quantization noise in float32 until the
            file is within its tolerance.
        overwrite: Whether to replace an existing file.
        num_threads: Number of threads of the process that is measured.
        log: Function that receives one line of text for each step of the search for layers.

    Returns:
        The report of the comparison.

    Raises:
        ArgumentError: If the model takes spectrograms.
        LabelError: If there is not one label for each class.
        ExportError: If an argument is invalid, a package is missing, the file exists, an operator
            is not built into TFLite, or the file is not within its tolerance. Nothing is written
            in these cases.

    Example:

    >>> import tempfile
    >>> from ast_keras import from_preset
    >>> file = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> tiny = from_preset("ast_test", num_classes=2, num_frames=98)
    >>> export_tflite(tiny, file, num_clips=2).agreement
    1.0
    """
    path = pathlib.Path(path)
    model.require_frontend()
    _check_arguments(path, quantize, method, overwrite)
    num_samples = _checked_length(model, num_samples)
    names = label_names(model, labels)
    waveforms, source = comparison_clips(model, num_samples, clips, num_clips)
    lengths = _comparison_lengths(waveforms) if takes_length else None
    builder = _CandidateBuilder(
        model=model,
        content=convert(model, num_samples, takes_length),
        quantize=quantize,
        names=names,
        tolerance=bounds or DEFAULT_TOLERANCE[quantize],
        waveforms=waveforms,
        lengths=lengths,
        source=source,
        expected=keras_scores(model, waveforms, lengths),
        num_threads=num_threads,
    )
    candidate = builder.evaluate_layers(quantizable_layers(model) if quantize != "none" else [])
    if candidate.report.violations and quantize != "none":
        candidate = _improve(candidate, builder, fallback, log)
    if candidate.report.violations:
        raise ExportError(
            f"The TFLite file is not within its tolerance: {candidate.report.violations}. "
            "Nothing was written"
        )
    details = {
        "sample_rate": model.frontend.sample_rate,
        "num_samples": num_samples,
        "labels": names,
    }
    with replacing(path) as part:
        part.write_bytes(candidate.content)
        write_json(path.with_name(f"{path.name}.json"), {**candidate.report.to_dict(), **details})
    return candidate.report


@dataclasses.dataclass(frozen=True)
class TfliteCandidate:
    """A complete TFLite file that has been run and compared with its model.

    Attributes:
        content: Bytes of the file.
        layers: Names of the quantized layers.
        report: Comparison with the model.
    """

    content: bytes
    layers: tuple[str, ...]
    report: Report


def search_float_layers(
    candidate: TfliteCandidate,
    noisiest: Sequence[str],
    evaluate: Callable[[Sequence[str]], TfliteCandidate],
    log: Callable[[str], None] = lambda line: None,
) -> TfliteCandidate:
    """Returns layers to float32, the noisiest first, until the file is within its tolerance.

    Each round returns an eighth of the layers and evaluates the file again.

    Args:
        candidate: File in which all layers are quantized.
        noisiest: Names of the layers, the one with the lowest signal-to-noise ratio first.
        evaluate: Function that makes and compares the file in which the given layers are quantized.
        log: Function that receives one line of text for each round.

    Returns:
        The first file without violations, or the one without any quantized layer.
    """
    step = max(1, len(noisiest) // _SEARCH_ROUNDS)
    while candidate.report.violations and candidate.layers:
        dropped = [layer for layer in noisiest if layer in candidate.layers][:step]
        candidate = evaluate([layer for layer in candidate.layers if layer not in dropped])
        result = candidate.report.violations or "within the tolerance"
        log(f"{len(candidate.report.float_layers)} layers in float32: {result}")
    return candidate


@dataclasses.dataclass(frozen=True)
class _CandidateBuilder:
    """Makes files of one model that differ in their quantized layers, and compares each.

    Attributes:
        model: The classifier.
        content: The converted float32 model, without metadata.
        quantize: Quantization of the layers.
        names: Names of the classes.
        tolerance: Tolerance of the file.
        waveforms: Clips to compare on, float32 `[clips, samples]`.
        lengths: Valid samples of each clip, int32 `[clips]`, or None.
        source: Description of where the clips come from.
        expected: The model's scores of the clips, float32 `[clips, classes]`.
        num_threads: Number of threads of the process that is measured.
    """

    model: AudioClassifier
    content: bytes
    quantize: str
    names: tuple[str, ...]
    tolerance: Tolerance
    waveforms: np.ndarray
    lengths: np.ndarray | None
    source: str
    expected: np.ndarray
    num_threads: int

    def evaluate_layers(self, layers: Sequence[str]) -> TfliteCandidate:
        """Makes the file in which the given layers are quantized, and compares it."""
        content = self.content
        if self.quantize != "none":
            content = quantize_layers(content, self.quantize, self.model, layers)
        content = add_metadata(
            content,
            name=self.model.name,
            description=f"Audio Spectrogram Transformer, {len(self.names)} classes, "
            f"{self.quantize}",
            version=__version__,
            sample_rate=self.model.frontend.sample_rate,
            labels=self.names,
        )
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "model.tflite")
            file.write_bytes(content)
            measurement = measure("tflite", file, self.waveforms, self.num_threads, self.lengths)
        report = compare(
            self.quantize,
            self.source,
            self.tolerance,
            self.expected,
            measurement,
            size_bytes=len(content),
            operators=operators(content),
            float_layers=self._unquantized(layers),
        )
        return TfliteCandidate(content, tuple(layers), report)

    def noise(self) -> dict[str, float]:
        """Returns the signal-to-noise ratio in dB by quantized layer, the worst layer first."""
        layers = quantizable_layers(self.model)
        clips = self.waveforms[:_NOISE_CLIPS]
        return signal_to_noise(self.content, self.quantize, self.model, layers, clips)

    def _unquantized(self, layers: Sequence[str]) -> tuple[str, ...]:
        if self.quantize == "none":
            return ()
        return tuple(layer for layer in quantizable_layers(self.model) if layer not in layers)


def _improve(
    candidate: TfliteCandidate,
    builder: _CandidateBuilder,
    fallback: bool,
    log: Callable[[str], None],
) -> TfliteCandidate:
    """Leaves noisy layers in float32 if `fallback`, or raises an error that names them."""
    log(f"{candidate.report.violations}: measuring the quantization noise of each layer")
    noise = builder.noise()
    if fallback:
        candidate = search_float_layers(candidate, list(noise), builder.evaluate_layers, log)
    if candidate.report.violations:
        worst = ", ".join(f"{layer} {db:.1f} dB" for layer, db in list(noise.items())[:3])
        raise ExportError(
            f"The TFLite file is not within its tolerance: {candidate.report.violations}. Leave "
            "the noisiest layers in float32 with --fallback (fallback=True), or choose another "
            f"quantization. Lowest signal-to-noise ratios: {worst}"
        )
    return candidate


def _check_arguments(path: pathlib.Path, quantize: str, method: str, overwrite: bool) -> None:
    if method != "conv":
        raise ExportError(
            'A TFLite file needs the filterbank method="conv": TFLite has no Fourier transform in '
            f"float64. Received: method={method!r}"
        )
    check_output_file(path, overwrite)
    require_quantizer(quantize)
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:
        raise ExportError(
            "Running the file needs ai-edge-litert: pip install 'ast-keras[export]'"
        ) from None


def check_output_file(path: pathlib.Path, overwrite: bool) -> None:
    """Checks that a file may be written.

    Args:
        path: The file.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ExportError: If the path is a folder, or the file exists and may not be replaced.
    """
    if path.is_dir():
        raise ExportError(f"The output must be a file, not a folder. Received: {path}")
    if path.exists() and not overwrite:
        raise ExportError(
            f"The file exists: add --overwrite (overwrite=True) to replace it. Received: {path}"
        )


def _checked_length(model: AudioClassifier, num_samples: int | None) -> int:
    if num_samples is None:
        return model.default_num_samples
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ExportError(
            "The input of a TFLite file has a fixed length: num_samples must be a positive "
            f"integer. Received: num_samples={num_samples}"
        )
    limit = model.max_input_samples
    if limit is not None and num_samples > limit:
        seconds = limit / model.frontend.sample_rate
        raise ExportError(
            f"The model processes at most {limit} samples ({seconds:.2f} s). Load it with "
            f'padding="masked" for longer input. Received: num_samples={num_samples}'
        )
    return int(num_samples)


def _comparison_lengths(waveforms: np.ndarray) -> np.ndarray:
    """Returns valid lengths for the comparison: every second clip is valid in part only."""
    lengths = np.full(len(waveforms), waveforms.shape[1], np.int32)
    lengths[1::2] = np.linspace(0.1, 1.0, len(lengths[1::2])) * waveforms.shape[1]
    return lengths

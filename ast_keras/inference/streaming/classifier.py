"""`StreamingClassifier`: samples of an endless stream in, a result every hop out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from ast_keras.audio.loading import INTEGER_PEAK
from ast_keras.errors import InferenceError
from ast_keras.inference.streaming.causal_engine import CausalEngine
from ast_keras.inference.streaming.engine import StreamEngine, StreamResult
from ast_keras.inference.streaming.filterbank import StreamingFilterbank
from ast_keras.inference.streaming.window_engine import WindowEngine
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[np.float32]


class StreamingClassifier:
    """Classifies an endless stream of samples, pushed in pieces of any size.

    Every hop yields a result for the last window. Before the first window is complete, the result
    covers the samples received so far. It equals the model's result for those samples, except that
    the mean of the waveform is not subtracted (see `StreamingFilterbank`). Spectrogram frames and
    embedded patches of the overlap between windows are reused; only the transformer runs again.
    Memory does not grow with the length of the stream. (TensorFlow 2.16 itself leaks about 1 KB
    per hop; 2.20 does not.)

    With a `CausalASTBackbone`, keys and values of past blocks are reused too. The hop is one block,
    and each result is that of the block, given the past blocks that the model attends to.

    Args:
        model: An `ASTClassifier` with a frontend.
        window_seconds: Length of the window in seconds. None for the length that the model was
            trained on, in whole seconds. Longer windows need `padding="masked"`. Causal models have
            a window of their own.
        hop_seconds: Seconds from one result to the next: a multiple of the time between two
            patches. None for the multiple nearest to 1 s; for causal models, one block.
        input_rate: Sample rate of the pushed samples in Hz. None for the rate of the model; samples
            at another rate are resampled.

    Raises:
        ArgumentError: If the model takes spectrograms.
        InferenceError: If the window or the hop does not fit the model.

    Example:

    >>> from ast_keras import from_preset
    >>> stream = StreamingClassifier(from_preset("ast_test", num_classes=2, num_frames=98))
    >>> results = stream.push(np.zeros(40_000, "float32"))
    >>> [(result.start_seconds, result.end_seconds) for result in results]
    [(0.0, 1.0), (1.0, 2.0)]
    """

    def __init__(
        self,
        model: ASTClassifier,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        input_rate: int | None = None,
    ) -> None:
        self.model = model
        frontend = model.require_frontend()
        self.sample_rate: int = frontend.sample_rate
        self.input_rate = input_rate or self.sample_rate
        self._filterbank = StreamingFilterbank(frontend)
        # Samples between the starts of two patches: windows that start there have patches in
        # common.
        column_samples = self._filterbank.frame_step * model.backbone.strides[1]
        is_causal = isinstance(model.backbone, CausalASTBackbone)
        make_engine = CausalEngine if is_causal else WindowEngine
        self._engine: StreamEngine = make_engine(model, column_samples, window_seconds, hop_seconds)
        self.reset()

    @property
    def window_seconds(self) -> float:
        """Seconds that one result covers, once the stream is at least as long."""
        return self._engine.window_samples / self.sample_rate

    @property
    def hop_seconds(self) -> float:
        """Seconds from one result to the next."""
        return self._engine.hop_samples / self.sample_rate

    def reset(self) -> None:
        """Starts a new stream, for example after a gap in the input."""
        self._filterbank.reset()
        self._engine.reset()
        self._resampler = None
        if self.input_rate != self.sample_rate:
            self._resampler = soxr.ResampleStream(
                self.input_rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )

    def push(self, samples: npt.ArrayLike, sample_rate: int | None = None) -> list[StreamResult]:
        """Processes the next samples of the stream.

        Args:
            samples: `[samples]`, floating point in [-1, 1], any number.
            sample_rate: Rate of the samples in Hz, which must equal `input_rate`. None skips this
                check.

        Returns:
            The results that these samples complete, oldest first.

        Raises:
            InferenceError: If the sample rate differs from `input_rate`, or the samples are not
                finite floating-point numbers in the range of audio. The stream is then unchanged
                and can go on.
        """
        if sample_rate not in (None, self.input_rate):
            raise InferenceError(
                f"The stream expects {self.input_rate} Hz: create it with "
                f"input_rate={sample_rate}. Received: sample_rate={sample_rate}"
            )
        checked = _checked(samples)
        if self._resampler is not None:
            checked = self._resampler.resample_chunk(checked)
        return self._process(checked)

    def flush(self) -> list[StreamResult]:
        """Ends the stream and starts a new one.

        Returns:
            The results of the remaining samples. The last one may come less than a hop after the
            one before. Causal models process whole blocks only.
        """
        results = []
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            results = self._process(rest)
        results += self._engine.finish()
        self.reset()
        return results

    def _process(self, samples: Array) -> list[StreamResult]:
        results: list[StreamResult] = []
        while len(samples):  # hop by hop, so that a long piece needs no more memory
            piece = samples[: self._engine.samples_to_next_hop()]
            samples = samples[len(piece) :]
            results += self._engine.consume(self._filterbank.push(piece), len(piece))
        return results


def _checked(samples: npt.ArrayLike) -> Array:
    array = np.asarray(samples)
    if array.ndim != 1:
        raise InferenceError(
            "A stream takes one channel, [samples]: average the channels first. "
            f"Received: shape={array.shape}"
        )
    if array.size and array.dtype.kind != "f":
        raise InferenceError(
            "Samples must be floating point in [-1, 1]: divide int16 by 32768. "
            f"Received: dtype={array.dtype}"
        )
    checked: Array = array.astype(np.float32)
    peak = float(np.abs(checked).max(initial=0.0))
    if not np.isfinite(peak):
        place = int(np.argmin(np.isfinite(checked)))
        raise InferenceError(
            "Samples must be finite: drop the others or replace them by zeros. "
            f"Received: {checked[place]} at sample {place} of {len(checked)}"
        )
    if peak > INTEGER_PEAK:
        raise InferenceError(
            "Samples must be in [-1, 1]: divide 16-bit samples by 32768. "
            f"Received: a peak of {peak:g}"
        )
    return checked

"""Sound that does not end: pushed in pieces of any size, heard every hop."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import tensorflow as tf

from ast_keras.audio.mel import seconds_to_samples
from ast_keras.errors import InferenceError
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone

Array = npt.NDArray[np.float32]

_INTEGER_PEAK = 8.0  # as for files: 18 dB over full scale are integers kept as floats
_PIECE_FRAMES = 1000  # of the filterbank at once, whatever is pushed


@dataclasses.dataclass(frozen=True, eq=False)
class StreamResult:
    """What a model makes of a part of a stream.

    Attributes:
      start_seconds: Where the part begins, from the start of the stream.
      end_seconds: Where it ends.
      scores: Probabilities `[num_classes]`, float32.
    """

    start_seconds: float
    end_seconds: float
    scores: Array


class StreamingFilterbank:
    """Computes the filterbank of a stream: the frames are those of the whole sound.

    The mean over the whole sound, which `LogMelFilterbank` removes by default, is left in, since a
    stream has none: the frames equal those of the layer with `remove_waveform_mean=False`.

    Args:
      frontend: A `LogMelFilterbank`.

    Example:

    >>> fbank = StreamingFilterbank(LogMelFilterbank())
    >>> fbank.push(np.zeros(399, "float32")).shape, fbank.push(np.zeros(161, "float32")).shape
    ((0, 128), (2, 128))
    """

    def __init__(self, frontend: LogMelFilterbank) -> None:
        config = frontend.get_config()
        self.frontend = frontend
        self.layer = LogMelFilterbank.from_config(
            {**config, "num_frames": None, "remove_waveform_mean": False}
        )
        rate = frontend.sample_rate
        self.frame_length = seconds_to_samples(frontend.frame_length_seconds, rate)
        self.frame_step = seconds_to_samples(frontend.frame_step_seconds, rate)
        self._compute = tf.function(
            self.layer.call, input_signature=[tf.TensorSpec((1, None), tf.float32)]
        )
        self.reset()

    def reset(self) -> None:
        """Begins a new stream."""
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: Array) -> Array:
        """Takes the next samples, any number, and returns the frames they complete.

        Args:
          samples: `[samples]`, float32 in [-1, 1].

        Returns normalised log-mels `[frames, mel]`.
        """
        waveform = np.concatenate([self._rest, samples])
        count = self.layer.count_frames(len(waveform))
        frames = [np.zeros((0, self.layer.num_mel_bins), np.float32)]
        for first in range(0, count, _PIECE_FRAMES):
            size = min(_PIECE_FRAMES, count - first)
            start = first * self.frame_step
            piece = waveform[start : start + (size - 1) * self.frame_step + self.frame_length]
            frames.append(self._compute(piece[None]).numpy()[0])
        self._rest = waveform[count * self.frame_step :].copy()
        return np.concatenate(frames)


class StreamingClassifier:
    """Classifies an endless sound: samples are pushed in pieces of any size, results come back.

    Every hop there is a result for the last window, at first for what there is of one. It equals
    the model's own on those samples (without the mean over the clip, see `StreamingFilterbank`).
    Nothing is computed twice but attention: frames and embedded patches of the part that windows
    share are kept. Memory is that of one window, however long the stream (TensorFlow 2.16 itself
    keeps about 1 KB of each hop; 2.20 does not).

    A model with a `CausalASTBackbone` keeps its attention, too. Its hop is a block, and each result
    is the block's, heard with the past that the model attends to.

    Args:
      model: An `ASTClassifier` with a frontend.
      window_seconds: How much sound one result is about; None for what the model was made for, in
        whole seconds. Longer windows need `padding="masked"`. Causal models take none.
      hop_seconds: Time from one result to the next, a multiple of that between two patches; None
        for 1 s, or the nearest multiple, and for a block in causal models.
      input_rate: Of the samples that are pushed, in Hz; None for the model's. Others are resampled.

    Raises:
      InferenceError: If window or hop do not fit the model.

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
        if model.frontend is None:
            raise InferenceError(
                "This model takes spectrograms, not sound: load it without frontend=None"
            )
        self.model = model
        self.sample_rate = model.frontend.sample_rate
        self.input_rate = input_rate or self.sample_rate
        self._fbank = StreamingFilterbank(model.frontend)
        # Between two patches: windows that begin there share them.
        self._column = self._fbank.frame_step * model.backbone.strides[1]
        is_causal = isinstance(model.backbone, CausalASTBackbone)
        make = _CausalEngine if is_causal else _WindowEngine
        self._engine = make(self, window_seconds, hop_seconds)
        self.reset()

    @property
    def window_seconds(self) -> float:
        """How much sound one result is about, once there is so much."""
        return self._engine.window_samples / self.sample_rate

    @property
    def hop_seconds(self) -> float:
        """Time from one result to the next."""
        return self._engine.hop_samples / self.sample_rate

    def reset(self) -> None:
        """Begins a new stream, as after a gap."""
        self._fbank.reset()
        self._engine.reset()
        self._resampler = None
        if self.input_rate != self.sample_rate:
            self._resampler = soxr.ResampleStream(
                self.input_rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )

    def push(self, samples: npt.ArrayLike, sample_rate: int | None = None) -> list[StreamResult]:
        """Takes the next samples and returns the results that they complete, oldest first.

        Args:
          samples: `[samples]`, any number, floating point in [-1, 1].
          sample_rate: Of these samples, in Hz, to be checked; None for the stream's.

        Raises:
          InferenceError: If they come at another rate.
          InferenceError: If they are no sound. The stream stays as it was and may go on.
        """
        if sample_rate not in (None, self.input_rate):
            raise InferenceError(
                f"This stream is heard at {self.input_rate} Hz: make it with "
                f"input_rate={sample_rate}. Received: sample_rate={sample_rate}"
            )
        checked = _checked(samples)
        if self._resampler is not None:
            checked = self._resampler.resample_chunk(checked)
        return self._hear(checked)

    def flush(self) -> list[StreamResult]:
        """Returns the results of what is left at the end of a sound, and begins a new stream.

        The last one may come after less than a hop. Causal models hear whole blocks only.
        """
        results = []
        if self._resampler is not None:
            results = self._hear(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        results += self._engine.last()
        self.reset()
        return results

    def _hear(self, samples: Array) -> list[StreamResult]:
        results: list[StreamResult] = []
        while len(samples):  # hop by hop, so that a long piece needs no more memory
            piece = samples[: self._engine.wanted()]
            samples = samples[len(piece) :]
            results += self._engine.take(self._fbank.push(piece), len(piece))
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
            "Samples must be finite: leave these out, or put zeros in their place. "
            f"Received: {checked[place]} at sample {place} of {len(checked)}"
        )
    if peak > _INTEGER_PEAK:
        raise InferenceError(
            "Samples must be on the scale of [-1, 1]: divide those of 16 bits by 32768. "
            f"Received: a peak of {peak:g}"
        )
    return checked


class _WindowEngine:
    """Hears the last window every hop, with the embedded patches of the one before."""

    def __init__(
        self, stream: StreamingClassifier, window_seconds: float | None, hop_seconds: float | None
    ) -> None:
        self.model, self.stream = stream.model, stream
        column, rate = stream._column, stream.sample_rate
        if window_seconds is None:
            self.window_samples = _whole_window(self.model.frontend, column)
        else:
            self.window_samples = _multiple("window_seconds", window_seconds, column, rate)
        if hop_seconds is None:
            nearest = max(1, round(rate / column)) * column
            self.hop_samples = min(self.window_samples, nearest)
        else:
            self.hop_samples = _multiple("hop_seconds", hop_seconds, column, rate)
        if self.hop_samples > self.window_samples:
            raise InferenceError(
                "hop_seconds must not be longer than the window: what lies between would not be "
                f"heard. Received: {self.hop_samples / rate:g} s, {self.window_samples / rate:g} s"
            )
        backbone = self.model.backbone
        self._strides, self._patch = backbone.strides[1], backbone.patch_size[1]
        self._heard_frames = self.model.frontend.count_frames(self.window_samples)
        if backbone.padding == "original" and self._heard_frames > backbone.num_frames:
            raise InferenceError(
                f"The model hears {self.model.frontend.num_samples / rate:.2f} s at once: choose a "
                'shorter window, or load it with padding="masked". Received: window_seconds='
                f"{self.window_samples / rate:g}"
            )
        self._embed = tf.function(
            self._patches,
            input_signature=[tf.TensorSpec((None, backbone.num_mel_bins), tf.float32)],
        )
        columns = None if backbone.padding == "masked" else backbone.grid[1]
        shape = (columns, backbone.grid[0], backbone.embed_dim)
        self._classify = tf.function(
            self._scores, input_signature=[tf.TensorSpec(shape, backbone.policy.compute_dtype)]
        )

    def reset(self) -> None:
        backbone = self.model.backbone
        self._samples = 0  # since the start of the stream
        self._first = 0  # the frame that the kept ones begin with, on a patch's edge
        self._frames = np.zeros((0, backbone.num_mel_bins), np.float32)
        # In NumPy: TensorFlow 2.16 keeps 0.3 KB of every array and slice it is handed, for ever.
        dtype = tf.as_dtype(backbone.policy.compute_dtype).as_numpy_dtype
        self._columns = np.zeros((0, backbone.grid[0], backbone.embed_dim), dtype)

    def wanted(self) -> int:
        return self.hop_samples - self._samples % self.hop_samples

    def take(self, frames: Array, num_samples: int) -> list[StreamResult]:
        self._frames = np.concatenate([self._frames, frames])
        self._samples += num_samples
        return [] if self._samples % self.hop_samples else [self._result()]

    def last(self) -> list[StreamResult]:
        return [self._result()] if self._samples % self.hop_samples else []

    def _result(self) -> StreamResult:
        backbone, column = self.model.backbone, self.stream._column
        end = self._samples
        # On a patch's edge; a last window that ends between two hops is shorter by less than that.
        start = -(-max(0, end - self.window_samples) // column) * column
        self._forget(start // self.stream._fbank.frame_step)
        whole = max(0, (len(self._frames) - self._patch) // self._strides + 1)
        known = len(self._columns)
        if whole > known:
            stop = (whole - 1) * self._strides + self._patch
            fresh = self._embed(self._frames[known * self._strides : stop]).numpy()
            self._columns = np.concatenate([self._columns, fresh])
        columns = self._columns
        wanted = backbone.grid[1] if backbone.padding == "original" else max(whole, 1)
        if whole < wanted:
            stop = (wanted - 1) * self._strides + self._patch
            rest = self._frames[whole * self._strides : stop]
            padding = ((0, stop - whole * self._strides - len(rest)), (0, 0))
            fill = self.model.frontend.padding_value
            rest = np.pad(rest, padding, constant_values=fill)
            columns = np.concatenate([columns, self._embed(rest).numpy()])
        rate = self.stream.sample_rate
        return StreamResult(start / rate, end / rate, self._classify(columns).numpy())

    def _forget(self, first: int) -> None:
        """Drops frames and columns before the frame of this number."""
        dropped = first - self._first
        self._frames = self._frames[dropped:].copy()
        self._columns = self._columns[dropped // self._strides :].copy()
        self._first = first

    def _patches(self, frames: tf.Tensor) -> tf.Tensor:
        """Returns embedded patches `[time, mel, embed_dim]` of frames `[frames, mel]`."""
        backbone = self.model.backbone
        patches = backbone.get_layer("patches")(frames[None])[0]
        grid = tf.reshape(patches, [backbone.grid[0], -1, backbone.embed_dim])
        return tf.transpose(grid, [1, 0, 2])

    def _scores(self, columns: tf.Tensor) -> tf.Tensor:
        backbone, model = self.model.backbone, self.model
        patches = tf.reshape(tf.transpose(columns, [1, 0, 2]), [1, -1, backbone.embed_dim])
        asked = backbone.num_pooled_tokens
        tokens = backbone.encode(patches, training=False, num_tokens=asked)
        return model.scores(model.classify(model.pool(tokens)))[0]


class _CausalEngine:
    """Hears block after block, with keys and values of the past kept."""

    def __init__(
        self, stream: StreamingClassifier, window_seconds: float | None, hop_seconds: float | None
    ) -> None:
        self.model, self.stream = stream.model, stream
        backbone = self.model.backbone
        self.hop_samples = backbone.block_columns * stream._column
        self.window_samples = (backbone.past_blocks + 1) * self.hop_samples
        rate = stream.sample_rate
        for name, given, samples in (
            ("window_seconds", window_seconds, self.window_samples),
            ("hop_seconds", hop_seconds, self.hop_samples),
        ):
            if given is not None and round(given * rate) != samples:
                raise InferenceError(
                    f"A causal model has a {name} of its own, {samples / rate:g} s: leave it out. "
                    f"Received: {name}={given}"
                )
        self._step = tf.function(self._scores)

    def reset(self) -> None:
        backbone = self.model.backbone
        self._frames = np.zeros((0, backbone.num_mel_bins), np.float32)
        self._number = 0
        self._cache = backbone.initial_cache()

    def wanted(self) -> int:
        return self.hop_samples

    def take(self, frames: Array, num_samples: int) -> list[StreamResult]:
        backbone = self.model.backbone
        self._frames = np.concatenate([self._frames, frames])
        results = []
        while len(self._frames) >= backbone.min_frames:
            scores, self._cache = self._step(
                self._frames[None, : backbone.min_frames], tf.constant(self._number), self._cache
            )
            start, rate = self._number * self.hop_samples, self.stream.sample_rate
            end = start + self.hop_samples
            results.append(StreamResult(start / rate, end / rate, scores.numpy()))
            self._frames = self._frames[backbone.block_columns * backbone.strides[1] :].copy()
            self._number += 1
        return results

    def last(self) -> list[StreamResult]:
        return []

    def _scores(self, frames: tf.Tensor, number: tf.Tensor, cache: Any) -> tuple[tf.Tensor, Any]:
        backbone, model = self.model.backbone, self.model
        tokens, cache = backbone.step(backbone.get_layer("patches")(frames), number, cache)
        return model.scores(model.classify(backbone.pool_blocks(tokens)[:, 0]))[0], cache


def _whole_window(frontend: LogMelFilterbank, column: int) -> int:
    """Returns the longest window of whole seconds, or of whole patches, that a model hears."""
    rate = frontend.sample_rate
    heard = frontend.num_samples
    # What is less than a frame more is not heard, but makes seconds whole.
    seconds = (heard + round(frontend.frame_step_seconds * rate) - 1) // rate * rate
    return seconds if seconds and seconds % column == 0 else max(1, heard // column) * column


def _multiple(name: str, seconds: float, column: int, rate: int) -> int:
    samples = round(seconds * rate) if np.isfinite(seconds) else 0
    if samples < column or samples % column:
        nearest = max(1, round(max(samples, 0) / column)) * column / rate
        raise InferenceError(
            f"{name} must be a multiple of {column / rate:g} s, the time between two patches: "
            f"take {nearest:g}. Received: {name}={seconds}"
        )
    return samples

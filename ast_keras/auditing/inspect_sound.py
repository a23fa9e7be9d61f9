"""One sound under the lens: what its file is, what is wrong with it, what its log-mels are like.

It decodes on the same way as training does and measures before and after: clipping and offset on
the samples as they are in the file, silence and log-mels on what the model would hear.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio import decoding
from ast_keras.audio.loading import audio_from_array
from ast_keras.errors import AudioError, AudioSampleError

Array = npt.NDArray[Any]
LogMel = Callable[[Array], Array]

SAMPLE_RATE = 16_000
NUM_MEL_BINS = 128
MAX_FRAMES = 1024  # of log-mels; no published AST hears more
MAX_SECONDS = 60.0  # of a recording are decoded, so that one of hours fits into memory
SILENCE_DBFS = -60.0
MAX_OFFSET = 0.01
_MIN_SECONDS, _MAX_PEAK = 0.025, 2.0  # where `load_audio` warns
_CLIPPED_RUN = 3  # samples in a row; single ones touch full scale in any loud recording
# The largest value of a codec is a little less than 1; 16 bits and more come closer than this.
_FULL_SCALE = {"PCM_U8": 0.992, "PCM_S8": 0.992, "ULAW": 0.98, "ALAW": 0.984}
_NEARLY_ONE = 0.9995

_SEGMENTS, _BANDS = 32, 4  # of a fingerprint
_HEARD_BINS = 96  # up to 4 kHz: what lossy codecs and low sample rates leave alone
_RANGE = 7.0  # 30 dB under the loudest, in units of the natural logarithm
_MIN_CHANGE = 0.05  # a steadier sound has no course to tell it by


@dataclasses.dataclass(frozen=True)
class Sound:
    """Holds what was found in one sound.

    Args:
      sample_rate: Of the file, in Hz; None, as all that follows, where it cannot be read.
      channels: Of the file.
      format: Container and codec, as libsndfile calls them.
      seconds: Length.
      defects: What is wrong, by kind, with a few words each; empty for a good sound.
      digest: Hash of the samples that the model would hear; None for silence, which is all alike.
      fingerprint: Course of the sound in coarse bands, float32 of length 1, by which copies in
        another format or level are found; None where there is no course or no log-mels.
      frame_means: Of the log-mels in each frame, float64 `[frames]`.
      frame_squares: Sum of the squared deviations from the frame's mean, float64 `[frames]`.
    """

    sample_rate: int | None = None
    channels: int | None = None
    format: str | None = None
    seconds: float | None = None
    defects: dict[str, str] = dataclasses.field(default_factory=dict)
    digest: int | None = None
    fingerprint: Array | None = None
    frame_means: Array | None = None
    frame_squares: Array | None = None


def inspect_sound(source: decoding.Source, log_mel: LogMel | None = None) -> Sound:
    """Decodes a sound and describes it; one that cannot be read is described too, not raised.

    Of recordings longer than a minute the first is decoded; log-mels are of the first 10.24 s.

    Args:
      source: Path, or the bytes of a whole file.
      log_mel: Turns float32 `[samples]` at 16 kHz into `[frames, 128]`, as `log_mel_function`
        makes it; without, there are no log-mels and no fingerprint.

    Example:

    >>> import io, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((8_000, 2)), 8_000, format="FLAC")
    >>> sound = inspect_sound(file.getvalue())
    >>> sound.format, sound.seconds, sound.defects
    ('FLAC PCM_16', 1.0, {'silent': 'digital silence'})
    """
    notes: list[str] = []
    try:
        info = decoding.read_info(source, [])
        frames, rate = decoding.read_frames(source, 0.0, MAX_SECONDS, notes)
        waveform = audio_from_array(frames, rate, SAMPLE_RATE, channel_axis=1)
    except AudioSampleError as error:
        return Sound(defects={"invalid_samples": _reason(error)})
    except AudioError as error:
        return Sound(defects={"unreadable": _reason(error)})
    defects = {"damaged": " ".join(map(_reason, notes))} if notes else {}
    seconds = len(frames) / rate
    if info.frames and seconds >= MAX_SECONDS:
        seconds = info.frames / rate
    defects |= _defects(waveform, frames, _FULL_SCALE.get(info.codec, _NEARLY_ONE))
    is_silent = "silent" in defects
    sound = Sound(
        sample_rate=rate,
        channels=info.channels,
        format=f"{info.container} {info.codec}",
        seconds=seconds,
        defects=defects,
        digest=None if is_silent else _digest(waveform),
    )
    if log_mel is None:
        return sound
    frames = log_mel(waveform[: (MAX_FRAMES - 1) * 160 + 400]).astype(np.float64)
    means = frames.mean(axis=1)
    return dataclasses.replace(
        sound,
        fingerprint=None if is_silent else _fingerprint(frames),
        frame_means=means,
        frame_squares=np.square(frames - means[:, None]).sum(axis=1),
    )


def log_mel_function() -> LogMel:
    """Makes the function from a waveform to the log-mels that a model sees, not yet normalised.

    It may be called from several threads. This is what imports TensorFlow.
    """
    from ast_keras.layers.log_mel_filterbank import LogMelFilterbank

    filterbank: Any = LogMelFilterbank(num_mel_bins=NUM_MEL_BINS, mean=0.0, std=0.5)  # type: ignore[no-untyped-call]
    return lambda waveform: np.asarray(filterbank(waveform[None]))[0]


def _reason(message: object) -> str:
    return str(message).split(" Received: ")[0]


def _digest(waveform: Array) -> int:
    return int.from_bytes(hashlib.blake2b(waveform.tobytes(), digest_size=8).digest(), "little")


def _defects(waveform: Array, frames: Array, full_scale: float) -> dict[str, str]:
    """Returns what is wrong, from the mono waveform and the file's own `[samples, channels]`."""
    defects = {}
    offset = float(waveform.mean(dtype=np.float64))
    peak = float(np.abs(waveform - np.float32(offset)).max())
    if len(waveform) < _MIN_SECONDS * SAMPLE_RATE:
        defects["too_short"] = f"{1e3 * len(waveform) / SAMPLE_RATE:.3g} ms"
    if 20 * np.log10(max(peak, 1e-9)) < SILENCE_DBFS:
        level = f"peak {20 * np.log10(peak):.0f} dBFS" if peak > 1e-6 else "digital silence"
        defects["silent"] = level
    if peak > _MAX_PEAK:
        defects["too_loud"] = f"peak {peak:.3g}"
    if abs(offset) > MAX_OFFSET:
        defects["offset"] = f"mean {offset:+.3f}"
    limit = full_scale * 32_768 if frames.dtype == np.int16 else full_scale
    runs = np.concatenate([_runs(sign * c >= limit) for c in frames.T for sign in (1.0, -1.0)])
    runs = runs[runs >= _CLIPPED_RUN]
    if len(runs):
        share = runs.sum() / frames.size
        defects["clipped"] = f"{share:.2%} of the samples, up to {runs.max()} in a row"
    return defects


def _runs(holds: npt.NDArray[np.bool_]) -> Array:
    """Returns the lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(holds.astype(np.int8), prepend=0, append=0))
    lengths: Array = edges[1::2] - edges[::2]
    return lengths


def _fingerprint(log_mels: Array) -> Array | None:
    """Returns how the level in a few bands changes over the clip, scaled to length 1.

    Differences in time leave out what a filter or another level changes, and cutting off what is
    30 dB below the loudest leaves out where a recording fades into silence.
    """
    if len(log_mels) < _SEGMENTS:
        return None
    bands = log_mels[:, :_HEARD_BINS].reshape(len(log_mels), _BANDS, -1).mean(axis=2)
    bounds = np.linspace(0, len(bands), _SEGMENTS + 1).astype(int)
    levels = np.add.reduceat(bands, bounds[:-1]) / np.diff(bounds)[:, None]
    changes = np.diff(np.maximum(levels, levels.max() - _RANGE), axis=0).ravel()
    if np.sqrt(np.mean(changes**2)) < _MIN_CHANGE:
        return None
    result: Array = (changes / np.linalg.norm(changes)).astype(np.float32)
    return result


class LogMelStatistics:
    """Gathers mean and standard deviation of log-mels, in one pass and for any number of frames.

    Kept are number, mean and squared deviations of each frame's place in the clip, so that the
    length to which clips are cut or padded can be chosen afterwards. They are merged by the rule of
    Chan, Golub and LeVeque, which never subtracts large sums.

    Example:

    >>> statistics = LogMelStatistics()
    >>> statistics.add(np.array([-4.0, -6.0]), np.array([0.0, 0.0]))
    >>> statistics.over(4, padded=False), statistics.over(4, padded=True)[0]
    ((-5.0, 1.0), -2.5)
    """

    def __init__(self) -> None:
        self.num_clips = 0
        self._counts = np.zeros(MAX_FRAMES)
        self._means = np.zeros(MAX_FRAMES)
        self._squares = np.zeros(MAX_FRAMES)

    def add(self, frame_means: Array, frame_squares: Array) -> None:
        """Adds a clip, as `Sound` holds it."""
        self.num_clips += 1
        here = slice(min(len(frame_means), MAX_FRAMES))
        means, squares = frame_means[here], frame_squares[here]
        before = self._counts[here].copy()
        self._counts[here] += NUM_MEL_BINS
        apart = means - self._means[here]
        self._means[here] += apart * NUM_MEL_BINS / self._counts[here]
        self._squares[here] += squares + apart**2 * before * NUM_MEL_BINS / self._counts[here]

    def over(self, num_frames: int, padded: bool) -> tuple[float, float]:
        """Returns mean and standard deviation over the first frames of all clips.

        Args:
          num_frames: To which clips are cut, up to 1024.
          padded: Whether the zeros count with which shorter clips are filled up, as they do in the
            statistics that the authors publish.

        Reference:
          YuanGongND/ast, src/get_norm_stats.py, which also has masks and mixup in it, and averages
          the deviations of batches.
        """
        counts, means = self._counts[:num_frames], self._means[:num_frames]
        squares = self._squares[:num_frames].sum()
        if padded:
            missing = self.num_clips * num_frames * NUM_MEL_BINS - counts.sum()
            counts, means = np.append(counts, missing), np.append(means, 0.0)
        total = counts.sum()
        if not total:
            return float("nan"), float("nan")
        mean = float((counts * means).sum() / total)
        squares += (counts * (means - mean) ** 2).sum()
        return mean, float(np.sqrt(squares / total))

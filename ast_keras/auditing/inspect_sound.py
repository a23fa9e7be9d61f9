"""Inspection of one sound: file format, defects, fingerprint and log-mel statistics.

Sounds are decoded as in training. Clipping is measured on the samples of the file, offset, silence
and log-mels on the mono waveform that a model would receive, by default at 16 kHz.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio import decoding, mel
from ast_keras.audio.channels import channel_defect
from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.audio.loading import LOUD_PEAK, Channel, audio_from_array
from ast_keras.audio.opening import Source
from ast_keras.data.segment import Segment
from ast_keras.errors import AudioError, AudioSampleError

Array = npt.NDArray[Any]
LogMel = Callable[[Array], Array]
_AUDIOSET_RANGE = FilterbankRange()

NUM_MEL_BINS = 128  # of every published AST
MAX_FRAMES = 1024  # of log-mels: the longest input of a published AST
MAX_SECONDS = 60.0  # decoded of one recording, so that recordings of hours fit into memory
SILENCE_DBFS = -60.0
MAX_OFFSET = 0.01
_MIN_CLIPPED_RUN = 3  # samples in a row; single samples reach full scale in any loud recording
# The largest value of a codec is a little less than 1; 16 bits and more come closer than this.
_FULL_SCALE = {"PCM_U8": 0.992, "PCM_S8": 0.992, "ULAW": 0.98, "ALAW": 0.984}
_NEARLY_ONE = 0.9995

# A fingerprint has `_SEGMENTS` parts in time and `_BANDS` in frequency.
_SEGMENTS, _BANDS = 32, 4
# Fraction of the mel bins: up to 4 kHz by default, which lossy codecs and low sample rates leave
# unchanged.
_FINGERPRINT_BINS = 0.75
_RANGE = 7.0  # 30 dB below the loudest part, in units of the natural logarithm
_MIN_CHANGE = 0.05  # root mean square of the level changes below which there is no fingerprint


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Holds the findings about one sound.

    All fields except `defects` are None if the sound cannot be read.

    Args:
        sample_rate: Sample rate of the file in Hz.
        channels: Number of channels of the file.
        format: Container and codec, as libsndfile names them.
        seconds: Length in seconds.
        defects: Short description of each defect, by its kind. Empty for a good sound.
        digest: Hash of the mono samples; None for silent sounds, which are all equal.
        start_digest: Hash of the first half second, of sounds longer than a second; None if it is
            silent.
        fingerprint: Level changes in coarse bands, float32, of Euclidean norm 1. Copies in another
            format or at another level have similar fingerprints. None if the level does not change
            or there are no log-mels.
        frame_means: Mean of the log-mels of each frame, float64 `[frames]`.
        frame_squares: Sum of the squared deviations from the frame's mean, float64 `[frames]`.
    """

    sample_rate: int | None = None
    channels: int | None = None
    format: str | None = None
    seconds: float | None = None
    defects: dict[str, str] = dataclasses.field(default_factory=dict)
    digest: int | None = None
    start_digest: int | None = None
    fingerprint: Array | None = None
    frame_means: Array | None = None
    frame_squares: Array | None = None


def inspect_sound(
    source: Source | Segment,
    log_mel: LogMel | None = None,
    filterbank_range: FilterbankRange = _AUDIOSET_RANGE,
    *,
    channel: Channel = "mix",
) -> Inspection:
    """Decodes a sound and describes it. A sound that cannot be read is described, too.

    Only the first minute of a recording is decoded, and only the first 1,024 frames (10.24 s by
    default) give log-mels.

    Args:
        source: Path of a file, the bytes of a whole file, or a segment of a file.
        log_mel: Function from float32 `[samples]` to log-mels `[frames, mel]`, from
            `log_mel_function`. None computes no log-mels and no fingerprint.
        filterbank_range: Sample rate and frames of the model to train.
        channel: `"mix"` for the mean of all channels, or the index of the channel to inspect.

    Example:

    >>> import io, soundfile
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((8_000, 2)), 8_000, format="FLAC")
    >>> found = inspect_sound(file.getvalue())
    >>> found.format, found.seconds, found.defects
    ('FLAC PCM_16', 1.0, {'silent': 'digital silence'})
    """
    notes: list[str] = []
    file = source.path if isinstance(source, Segment) else source
    span = source if isinstance(source, Segment) else Segment("", 0.0)
    limit = min(MAX_SECONDS, span.duration_seconds or MAX_SECONDS)
    try:
        info = decoding.read_info(file, [])
        frames, rate = decoding.read_frames(file, span.start_seconds, limit, notes)
        waveform = audio_from_array(
            frames, rate, filterbank_range.sample_rate, channel=channel, channel_axis=1
        )
        frames = frames if channel == "mix" else frames[:, [channel]]
    except AudioSampleError as error:
        return Inspection(defects={"invalid_samples": _reason(error)})
    except AudioError as error:
        return Inspection(defects={"unreadable": _reason(error)})
    defects = {"damaged": " ".join(map(_reason, notes))} if notes else {}
    seconds = len(frames) / rate
    if seconds >= MAX_SECONDS:
        total = info.frames / rate - span.start_seconds if info.frames else seconds
        seconds = min(span.duration_seconds or total, total)
    if overhang := span.overhang_seconds(seconds):
        defects["past_end"] = f"by {overhang:.3g} s"
    waveform_seconds = len(waveform) / filterbank_range.sample_rate
    if waveform_seconds < filterbank_range.frame_length_seconds:
        defects["too_short"] = f"{1e3 * waveform_seconds:.3g} ms"
    defects |= _find_defects(waveform, frames, _FULL_SCALE.get(info.codec, _NEARLY_ONE))
    is_silent = "silent" in defects
    inspection = Inspection(
        sample_rate=rate,
        channels=info.channels,
        format=f"{info.container} {info.codec}",
        seconds=seconds,
        defects=defects,
        digest=None if is_silent else _digest(waveform),
        start_digest=_start_digest(waveform, filterbank_range.sample_rate),
    )
    if log_mel is None:
        return inspection
    frames = log_mel(waveform).astype(np.float64)
    means = frames.mean(axis=1)
    return dataclasses.replace(
        inspection,
        fingerprint=None if is_silent else _fingerprint(frames),
        frame_means=means,
        frame_squares=np.square(frames - means[:, None]).sum(axis=1),
    )


def log_mel_function(
    filterbank_range: FilterbankRange = _AUDIOSET_RANGE, num_mel_bins: int = NUM_MEL_BINS
) -> LogMel:
    """Returns a function from a waveform to the log-mels of a model's input, not normalised.

    It gives at most 1,024 frames, and may be called from several threads. Calling
    `log_mel_function` imports TensorFlow.

    Args:
        filterbank_range: Frequencies and frames of the filterbank.
        num_mel_bins: Number of mel filters.
    """
    from ast_keras.layers.log_mel_filterbank import LogMelFilterbank

    filterbank: Any = LogMelFilterbank(  # type: ignore[no-untyped-call]
        num_mel_bins=num_mel_bins, mean=0.0, std=0.5, **dataclasses.asdict(filterbank_range)
    )
    rate = filterbank_range.sample_rate
    step = mel.seconds_to_samples(filterbank_range.frame_step_seconds, rate)
    length = mel.seconds_to_samples(filterbank_range.frame_length_seconds, rate)
    num_samples = (MAX_FRAMES - 1) * step + length
    return lambda waveform: np.asarray(filterbank(waveform[None, :num_samples]))[0]


def _reason(message: object) -> str:
    return str(message).split(" Received: ")[0]


def _digest(waveform: Array) -> int:
    return int.from_bytes(hashlib.blake2b(waveform.tobytes(), digest_size=8).digest(), "little")


def _start_digest(waveform: Array, sample_rate: int) -> int | None:
    start = waveform[: sample_rate // 2]
    is_silent = np.ptp(start) < 2 * 10 ** (SILENCE_DBFS / 20)
    return None if len(waveform) <= sample_rate or is_silent else _digest(start)


def _find_defects(waveform: Array, frames: Array, full_scale: float) -> dict[str, str]:
    """Returns the defects of a mono waveform and of the file's `[samples, channels]`."""
    defects = {}
    if found := channel_defect(frames):
        kind, usable = found
        defects[f"{kind}_channel"] = f"set data.channel={usable}"
    offset = float(waveform.mean(dtype=np.float64))
    peak = float(np.abs(waveform - np.float32(offset)).max())
    # The mean of a sound and its inverse is silent; the sound is not.
    if 20 * np.log10(max(peak, 1e-9)) < SILENCE_DBFS and "inverted_channel" not in defects:
        level = f"peak {20 * np.log10(peak):.0f} dBFS" if peak > 1e-6 else "digital silence"
        defects["silent"] = level
    if peak > LOUD_PEAK:
        defects["too_loud"] = f"peak {peak:.3g}"
    if abs(offset) > MAX_OFFSET:
        defects["offset"] = f"mean {offset:+.3f}"
    limit = full_scale * 32_768 if frames.dtype == np.int16 else full_scale
    runs = np.concatenate([_runs(sign * c >= limit) for c in frames.T for sign in (1.0, -1.0)])
    runs = runs[runs >= _MIN_CLIPPED_RUN]
    if len(runs):
        fraction = runs.sum() / frames.size
        defects["clipped"] = f"{fraction:.2%} of the samples, up to {runs.max()} in a row"
    return defects


def _runs(holds: npt.NDArray[np.bool_]) -> Array:
    """Returns the length of each run of consecutive True values."""
    edges = np.flatnonzero(np.diff(holds.astype(np.int8), prepend=0, append=0))
    lengths: Array = edges[1::2] - edges[::2]
    return lengths


def _fingerprint(log_mels: Array) -> Array | None:
    """Returns the changes of the level in a few bands over the clip, scaled to norm 1.

    Differences in time cancel the effect of a filter or of another level. Limiting levels to 30 dB
    below the loudest cancels the difference between noise floors.
    """
    band_width = int(_FINGERPRINT_BINS * log_mels.shape[1]) // _BANDS
    if len(log_mels) < _SEGMENTS or not band_width:
        return None
    used = log_mels[:, : _BANDS * band_width]
    bands = used.reshape(len(log_mels), _BANDS, band_width).mean(axis=2)
    bounds = np.linspace(0, len(bands), _SEGMENTS + 1).astype(int)
    levels = np.add.reduceat(bands, bounds[:-1]) / np.diff(bounds)[:, None]
    changes = np.diff(np.maximum(levels, levels.max() - _RANGE), axis=0).ravel()
    if np.sqrt(np.mean(changes**2)) < _MIN_CHANGE:
        return None
    result: Array = (changes / np.linalg.norm(changes)).astype(np.float32)
    return result


class LogMelStatistics:
    """Accumulates mean and standard deviation of log-mels in one pass.

    Count, mean and squared deviations are kept for each frame position, so that the number of
    frames to which clips are cut or padded can be chosen afterwards. They are merged by the rule of
    Chan, Golub and LeVeque, which subtracts no large sums.

    Args:
        num_mel_bins: Number of mel bins of each frame.

    Example:

    >>> statistics = LogMelStatistics()
    >>> statistics.add(np.array([-4.0, -6.0]), np.array([0.0, 0.0]))
    >>> statistics.over(4, padded=False), statistics.over(4, padded=True)[0]
    ((-5.0, 1.0), -2.5)
    """

    def __init__(self, num_mel_bins: int = NUM_MEL_BINS) -> None:
        self.num_mel_bins = num_mel_bins
        self.num_clips = 0
        self._counts = np.zeros(MAX_FRAMES)
        self._means = np.zeros(MAX_FRAMES)
        self._squares = np.zeros(MAX_FRAMES)

    def add(self, frame_means: Array, frame_squares: Array) -> None:
        """Adds one clip.

        Args:
            frame_means: `Inspection.frame_means`, `[frames]`.
            frame_squares: `Inspection.frame_squares`, `[frames]`.
        """
        self.num_clips += 1
        first = slice(min(len(frame_means), MAX_FRAMES))
        means, squares = frame_means[first], frame_squares[first]
        num_before = self._counts[first].copy()
        self._counts[first] += self.num_mel_bins
        difference = means - self._means[first]
        self._means[first] += difference * self.num_mel_bins / self._counts[first]
        self._squares[first] += (
            squares + difference**2 * num_before * self.num_mel_bins / self._counts[first]
        )

    def over(self, num_frames: int, padded: bool) -> tuple[float, float]:
        """Returns mean and standard deviation over the first frames of all clips.

        Args:
            num_frames: Number of frames to which clips are cut, at most 1024.
            padded: Whether to count the zeros that pad shorter clips, as the authors' published
                statistics do.

        Reference:
            YuanGongND/ast, src/get_norm_stats.py. It also applies masks and mixup, and averages the
            deviations of batches.
        """
        counts, means = self._counts[:num_frames], self._means[:num_frames]
        squares = self._squares[:num_frames].sum()
        if padded:
            missing = self.num_clips * num_frames * self.num_mel_bins - counts.sum()
            counts, means = np.append(counts, missing), np.append(means, 0.0)
        total = counts.sum()
        if not total:
            return float("nan"), float("nan")
        mean = float((counts * means).sum() / total)
        squares += (counts * (means - mean) ** 2).sum()
        return mean, float(np.sqrt(squares / total))

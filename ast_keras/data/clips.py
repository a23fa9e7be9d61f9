"""Decoding of the clips of a split: cached in memory, with unreadable files skipped on request."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from ast_keras.audio import loading
from ast_keras.data.dataset import Source, Split
from ast_keras.data.segment import Segment
from ast_keras.errors import AudioError, AudioNotFoundError

# More unreadable files in a row than this are due to a broken disk, not to broken downloads.
_MAX_UNREADABLE_IN_A_ROW = 100

Array = npt.NDArray[Any]


class Clips:
    """Decodes the clips of a split on access. Threads may access it concurrently.

    Args:
        sources: Sources of the clips, as in `Split`.
        clip_samples: Length to which longer clips are cut, in samples.
        sample_rate: Sample rate in Hz; files at another rate are resampled.
        channel: `"mix"` for the mean of all channels of a file, or the index of one channel.
        cache_bytes: Memory for decoded clips, in bytes.
        skip_unreadable: Whether `readable` skips files that cannot be decoded.

    Attributes:
        unreadable: Error message of each unreadable clip found so far, by index.

    Example:

    >>> clips = Clips([np.zeros(20), b"no audio"], clip_samples=10, skip_unreadable=True)
    >>> index, clip = clips.readable(1)
    >>> index, clip.shape, list(clips.unreadable)
    (0, (10,), [1])
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        clip_samples: int,
        sample_rate: int = 16000,
        channel: loading.Channel = "mix",
        cache_bytes: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.sources = sources
        self.clip_samples = clip_samples
        self.sample_rate = sample_rate
        self.channel: loading.Channel = channel
        self.skip_unreadable = skip_unreadable
        self.unreadable: dict[int, str] = {}
        self._cache = _Cache(cache_bytes)
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Array:
        """Returns a decoded clip, float32 `[up to clip_samples]`."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        source = self.sources[index]
        if not isinstance(source, np.ndarray):
            source = _decode(source, self.sample_rate, self.channel)
        clip = np.ascontiguousarray(source[: self.clip_samples], dtype=np.float32)
        self._cache.add(index, clip)
        return clip

    def lengths(self) -> Array:
        """Returns the length of each clip in samples, int64 `[clips]`, read from the headers.

        A clip whose header is unreadable or does not state a length counts as `clip_samples` long.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return np.fromiter(pool.map(self._length, range(len(self.sources))), np.int64)

    def _length(self, index: int) -> int:
        try:
            source = self.sources[index]
            if isinstance(source, np.ndarray):
                return min(len(source), self.clip_samples)
            seconds = _seconds(source)
        except AudioError:
            seconds = None
        if seconds is None:
            return self.clip_samples
        return min(round(seconds * self.sample_rate), self.clip_samples)

    def readable(self, index: int) -> tuple[int, Array]:
        """Returns a clip and its index, or with `skip_unreadable` the next clip that is readable.

        The clip that is returned depends on the files only, not on earlier calls. Each unreadable
        file is logged once.

        Raises:
            AudioError: If a file does not exist, if 100 files in a row cannot be decoded, or,
                without `skip_unreadable`, if this file cannot be decoded.
        """
        if not self.skip_unreadable:
            return index, self[index]
        for place in range(index, index + min(len(self.sources), _MAX_UNREADABLE_IN_A_ROW)):
            candidate = place % len(self.sources)
            if candidate in self.unreadable:
                continue
            try:
                return candidate, self[candidate]
            except AudioNotFoundError:
                raise
            except AudioError as error:
                self._log_unreadable(candidate, str(error))
        raise AudioError(
            f"Too many files in a row cannot be decoded. The first: {self.unreadable[index]}"
        )

    def _log_unreadable(self, index: int, reason: str) -> None:
        with self._lock:
            if index not in self.unreadable:  # another thread may have logged it
                self.unreadable[index] = reason
                logging.warning(
                    "unreadable file skipped, %d so far: %s", len(self.unreadable), reason
                )


def _decode(source: str | bytes | Segment, sample_rate: int, channel: loading.Channel) -> Array:
    if isinstance(source, Segment):
        return source.load(sample_rate, channel=channel)
    return loading.load_audio(source, sample_rate, channel=channel)


def _seconds(source: str | bytes | Segment) -> float | None:
    """Returns the length that the labels or the header state; None if neither does."""
    if not isinstance(source, Segment):
        return loading.audio_info(source).duration_seconds
    if source.duration_seconds is not None:
        return source.duration_seconds
    total = loading.audio_info(source.path).duration_seconds
    return None if total is None else max(0.0, total - source.start_seconds)


class SharedDecoder:
    """Decodes each file or segment once, also if it is in several splits, as in cross-validation.

    Args:
        sample_rate: Sample rate in Hz; files at another rate are resampled.
        clip_samples: Length to which longer clips are cut, in samples.
        cache_bytes: Memory for decoded clips, in bytes. When it is full, the splits give the paths
            or segments of the remaining files.
        channel: `"mix"` for the mean of all channels of a file, or the index of one channel.

    Example:

    >>> import os, tempfile
    >>> from ast_keras.audio.encoding import write_wav
    >>> path = os.path.join(tempfile.mkdtemp(), "dog.wav")
    >>> write_wav(path, np.zeros(16000), 16000)
    >>> decoder = SharedDecoder(16000, clip_samples=8000, cache_bytes=32000)
    >>> split = decoder.wrap(Split(sources=[path], targets=[(0,)]))
    >>> split.sources[0].shape
    (8000,)
    """

    def __init__(
        self,
        sample_rate: int,
        clip_samples: int,
        cache_bytes: int,
        channel: loading.Channel = "mix",
    ) -> None:
        self._sample_rate = sample_rate
        self._channel: loading.Channel = channel
        self._clip_samples = clip_samples
        self._cache = _Cache(cache_bytes)

    def wrap(self, split: Split) -> Split:
        """Returns a split of files as a split of waveforms that are decoded on access.

        A split of records is returned unchanged: records are cheap to read, and have no path by
        which two splits could share them.
        """
        if not isinstance(split.sources, list):
            return split
        names = [split.source_name(index) for index in range(len(split))]
        return dataclasses.replace(split, sources=_Waveforms(split.sources, self), names=names)

    def decode(self, source: str | Segment) -> Array | str | Segment:
        """Returns the waveform of a file or segment; if the cache is full, what it was given."""
        waveform = self._cache.get(source)
        if waveform is None:
            if self._cache.is_full:
                return source
            waveform = _decode(source, self._sample_rate, self._channel)[: self._clip_samples]
            waveform = np.array(waveform, np.float32)  # a copy, not a view of a longer waveform
            self._cache.add(source, waveform)
        return waveform


class _Waveforms(Sequence[Any]):
    """Sources of a split. Those that are files are decoded on access."""

    def __init__(self, sources: Sequence[Any], decoder: SharedDecoder) -> None:
        self._sources, self._decoder = sources, decoder

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: Any) -> Any:
        source = self._sources[index]
        return self._decoder.decode(source) if isinstance(source, (str, Segment)) else source


class _Cache:
    """Keeps waveforms in a limited amount of memory. Threads may access it concurrently."""

    def __init__(self, num_bytes: int) -> None:
        self.is_full = num_bytes <= 0
        self._bytes_left = num_bytes
        self._waveforms: dict[Hashable, Array] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Array | None:
        return self._waveforms.get(key)

    def add(self, key: Hashable, waveform: Array) -> None:
        """Stores a waveform if it fits."""
        with self._lock:
            if key in self._waveforms:
                return
            if waveform.nbytes > self._bytes_left:
                self.is_full = True
                return
            self._bytes_left -= waveform.nbytes
            self._waveforms[key] = waveform

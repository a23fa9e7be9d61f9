"""The decoded sounds of a split: kept while they fit, and passed over where a file is broken."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from ast_keras.audio import loading
from ast_keras.data.dataset import Source

_UNREADABLE_IN_A_ROW = 100  # more than that is no broken download but a broken disk

Array = npt.NDArray[Any]


class Clips:
    """Decodes the sounds of a split on access; any number of threads may ask at once.

    Args:
      sources: What `Split` holds.
      sample_rate: In Hz; files at another rate are resampled.
      clip_samples: Longer clips are cut to this many samples.
      cache_bytes: How much decoded sound to keep in memory.
      skip_unreadable: Whether `readable` passes over files that cannot be decoded.

    Attributes:
      unreadable: Of each clip found to be unreadable so far, why.

    Example:

    >>> clips = Clips([np.zeros(20), b"no sound"], clip_samples=10, skip_unreadable=True)
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
        cache_bytes: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.sources = sources
        self.clip_samples = clip_samples
        self.sample_rate = sample_rate
        self.skip_unreadable = skip_unreadable
        self.unreadable: dict[int, str] = {}
        self._cache_bytes = cache_bytes
        self._cache: dict[int, Array] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Array:
        """Returns a clip as decoded, float32 `[up to clip_samples]`."""
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        source = self.sources[index]
        if not isinstance(source, np.ndarray):
            source = loading.load_audio(source, self.sample_rate)
        clip = np.ascontiguousarray(source[: self.clip_samples], dtype=np.float32)
        with self._lock:
            if clip.nbytes <= self._cache_bytes and index not in self._cache:
                self._cache_bytes -= clip.nbytes
                self._cache[index] = clip
        return clip

    def lengths(self) -> Array:
        """Returns how many samples each clip has, as the headers say: int64 `[clips]`.

        Where a header does not say it, or cannot be read, a clip counts as a whole one.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return np.fromiter(pool.map(self._length, range(len(self.sources))), np.int64)

    def _length(self, index: int) -> int:
        source = self.sources[index]
        if isinstance(source, np.ndarray):
            return min(len(source), self.clip_samples)
        try:
            seconds = loading.audio_info(source).duration_seconds
        except loading.AudioError:
            seconds = None
        if seconds is None:
            return self.clip_samples
        return min(round(seconds * self.sample_rate), self.clip_samples)

    def readable(self, index: int) -> tuple[int, Array]:
        """Returns a clip and its index: with `skip_unreadable` the next one that can be decoded.

        Which one that is depends on the files alone, not on what was asked for before. A file that
        cannot be decoded is reported once.

        Raises:
          AudioError: If a file is not there, or a hundred in a row cannot be decoded; without
            `skip_unreadable`, if this one cannot.
        """
        if not self.skip_unreadable:
            return index, self[index]
        for place in range(index, index + min(len(self.sources), _UNREADABLE_IN_A_ROW)):
            candidate = place % len(self.sources)
            if candidate in self.unreadable:
                continue
            try:
                return candidate, self[candidate]
            except loading.AudioNotFoundError:
                raise
            except loading.AudioError as error:
                self._report(candidate, str(error))
        raise loading.AudioError(
            f"Too many sounds in a row cannot be read; the first: {self.unreadable[index]}"
        )

    def _report(self, index: int, reason: str) -> None:
        with self._lock:
            if index not in self.unreadable:  # another thread may have met it too
                self.unreadable[index] = reason
                logging.warning(
                    "unreadable sound skipped, %d so far: %s", len(self.unreadable), reason
                )

"""Several sound files that are read as one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from ast_keras.audio.damage import Frames, read_valid

_BLOCK_FRAMES = 2**16


class JoinedStreams:
    """Streams of sound that are decoded one after the other, with the interface of `SoundFile`.

    Streams at another rate than the first are resampled to its rate. Streams with another number of
    channels are replaced by their mean in each of the first stream's channels.

    Args:
        streams: Each stream as an open file.
        open_stream: Function that opens one of them with libsndfile.

    Attributes:
        samplerate: Sample rate of the first stream in Hz.
        channels: Number of channels of the first stream.
        frames: Number of frames of all streams.
        format: Container of the first stream.
        subtype: Codec of the first stream.
        extra_info: libsndfile's logs of all streams.
        is_uniform: Whether all streams have the first one's rate and number of channels.
        num_unreadable: Number of streams that libsndfile cannot open. They are left out.

    Raises:
        soundfile.LibsndfileError: If no stream can be opened.
    """

    def __init__(
        self,
        streams: Sequence[BinaryIO],
        open_stream: Callable[[BinaryIO], soundfile.SoundFile] = soundfile.SoundFile,
    ) -> None:
        self._open = open_stream
        self.frames, self.extra_info = 0, ""
        self.is_uniform, self.num_unreadable = True, 0
        self._streams: list[BinaryIO] = []
        for stream in streams:
            try:
                file = open_stream(stream)
            except soundfile.LibsndfileError:
                self.num_unreadable += 1
                if self.num_unreadable == len(streams):
                    raise
                continue
            with file:
                if not self._streams:
                    self.samplerate, self.channels = file.samplerate, file.channels
                    self.format, self.subtype = file.format, file.subtype
                is_same = (file.samplerate, file.channels) == (self.samplerate, self.channels)
                self.is_uniform &= is_same
                self.frames += int(file.frames * self.samplerate / file.samplerate + 0.5)
                self.extra_info += file.extra_info
            self._streams.append(stream)
        self._blocks = self._decode()
        self._rest: Frames = np.zeros((0, self.channels), np.float32)

    def seekable(self) -> bool:
        """Returns False: the streams are read once, from the beginning."""
        return False

    def seek(self, frames: int) -> int:
        """Raises ValueError: see `seekable`."""
        raise ValueError("joined streams cannot be sought")

    def close(self) -> None:
        """Ends reading."""
        self._blocks.close()

    def read(
        self,
        frames: int = -1,
        dtype: str = "float32",
        always_2d: bool = True,
        out: Frames | None = None,
    ) -> Frames:
        """Returns the next frames, float32 `[frames, channels]`; fewer at the end.

        Args:
            frames: Number of frames; that of `out` if it is given.
            dtype: Only `"float32"` is supported.
            always_2d: Only True is supported.
            out: Array of the size of the result. It is not written to.
        """
        frames = frames if out is None else len(out)
        blocks, count = [self._rest], len(self._rest)
        while count < frames:
            block = next(self._blocks, None)
            if block is None:
                break
            blocks.append(block)
            count += len(block)
        joined = np.concatenate(blocks)
        self._rest = joined[frames:]
        return joined[:frames]

    def _decode(self) -> Generator[Frames]:
        for stream in self._streams:
            stream.seek(0)
            with self._open(stream) as file:
                resampler = None
                if file.samplerate != self.samplerate:
                    rates = file.samplerate, self.samplerate
                    resampler = soxr.ResampleStream(*rates, self.channels, "float32", "HQ")
                is_last = False
                while not is_last:
                    block = read_valid(file, _BLOCK_FRAMES)
                    is_last = len(block) < _BLOCK_FRAMES
                    if file.channels != self.channels:
                        block = block.mean(axis=1, keepdims=True).repeat(self.channels, axis=1)
                    if resampler is not None:
                        block = resampler.resample_chunk(block, last=is_last)
                    yield block

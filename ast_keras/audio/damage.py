"""Reading of damaged files: all frames that can be decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Frames = npt.NDArray[np.float32]

_FLAC_BLOCK_FRAMES = 4096
# Damaged frames of MP3 can give any value. Undamaged ones overshoot full scale by less than this.
_BURST_PEAK = 8.0
_MAX_FRAMES = 2**62  # a FLAC stream without a length states more


def read_valid(file: soundfile.SoundFile, size: int) -> Frames:
    """Returns the next `size` frames, or those before the point at which decoding fails.

    Args:
        file: The file.
        size: Number of frames.

    Returns:
        float32 `[frames, channels]`, shorter than `size` at the end of the file or at damage.
    """
    block: Frames = np.full((size, file.channels), np.nan, np.float32)
    try:
        block = file.read(out=block)
    except soundfile.LibsndfileError:  # it does not state how many frames were decoded
        block = block[~np.isnan(block[:, 0])]
    return block


def valid_blocks(
    file: Any, first: int, last: int, size: int, lost: list[int]
) -> Iterator[npt.NDArray[Any]]:
    """Yields the frames from `first` to `last`, with silence where a FLAC file is damaged.

    Other formats end at the damage, because libsndfile cannot find what follows it.

    Args:
        file: An opened file whose next frame is `first`.
        first: First frame.
        last: Frame after the last one, or a larger number.
        size: Largest number of frames in a block.
        lost: List to which the length of each silence is appended, in frames.

    Yields:
        Blocks of samples `[frames, channels]`.
    """
    is_pcm_16 = file.subtype == "PCM_16" and file.format != "FLAC"
    with contextlib.ExitStack() as stack:
        while first < last:
            wanted = min(size, last - first)
            block: npt.NDArray[Any]
            if is_pcm_16:
                block = file.read(wanted, "int16", always_2d=True)
            else:
                block = read_valid(file, wanted)
            first += len(block)
            yield block
            if len(block) < wanted:
                resumed = _resume(file, first, min(last, file.frames))
                if resumed is None:
                    return
                file, position = resumed
                stack.callback(file.close)
                lost.append(position - first)
                for start in range(first, position, size):
                    yield np.zeros((min(size, position - start), file.channels), np.float32)
                first = position


def _resume(file: Any, damage: int, last: int) -> tuple[soundfile.SoundFile, int] | None:
    """Returns a FLAC file at the next frame that can be decoded, and its number."""
    if file.format != "FLAC" or last > _MAX_FRAMES:
        return None
    step = _FLAC_BLOCK_FRAMES
    while damage + step < last:  # about 20 attempts in a file of an hour
        if hasattr(file.name, "seek"):
            file.name.seek(0)
        again = soundfile.SoundFile(file.name)
        try:
            again.seek(damage + step)
            if len(again.read(1)):
                again.seek(damage + step)
                return again, damage + step
        except soundfile.LibsndfileError:
            pass
        again.close()
        step += max(1, step // _FLAC_BLOCK_FRAMES // 2) * _FLAC_BLOCK_FRAMES
    return None


def silence_bursts(file: Any, frames: npt.NDArray[Any], lost: list[int]) -> None:
    """Sets values far over full scale to 0, if the file is an MP3.

    Args:
        file: The file.
        frames: Samples `[frames, channels]`, which are changed.
        lost: List to which the number of such frames is appended, if there are any.
    """
    if file.format != "MP3" or not len(frames):
        return
    if max(frames.max(), -frames.min()) > _BURST_PEAK:
        is_burst = np.abs(frames) > _BURST_PEAK
        frames[is_burst] = 0
        lost.append(int(is_burst.any(axis=1).sum()))

"""Hours of sound in bounded memory: a file decoded, mixed and resampled block by block."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import numpy as np
import soxr

from ast_keras.audio.decoding import read_blocks, source_name
from ast_keras.audio.loading import Channel, Samples, check_length, check_rate, mono_samples
from ast_keras.errors import AudioWarning

BLOCK_SECONDS = 30.0


def sound_blocks(
    path: str | os.PathLike[str],
    sample_rate: int = 16_000,
    *,
    channel: Channel = "mix",
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[Samples]:
    """Yields a sound file as mono float32 samples at one rate, block by block.

    The samples are those of `load_audio`, to the bit, resampled ones too (of MP3, whose decoder
    rounds otherwise in pieces, within 2e-7). Only one block is in memory, whatever the format.

    Args:
        path: Of the file.
        sample_rate: Rate of the result, Hz.
        channel: `"mix"` for the mean of all channels, or the number of one, from 0.
        block_seconds: How much is decoded at once.

    Output:
        `[samples]`, float32, of no particular length.

    Raises:
        AudioError: As `load_audio`, when the block in question is reached.

    Warns:
        AudioWarning: As `load_audio`; that a file is cut short, after its last block.

    Example:
        >>> import soundfile, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "long.wav")
        >>> soundfile.write(path, np.zeros(441_000), 44_100)
        >>> [len(block) for block in sound_blocks(path, block_seconds=6.0)][0] < 6 * 16_000
        True
        >>> sum(len(block) for block in sound_blocks(path))
        160000
    """
    name, notes, told = source_name(path), list[str](), set[str]()
    check_rate("sample_rate", sample_rate, name)
    count, resampler = 0, None
    for frames, rate in read_blocks(path, block_seconds, notes):
        block = mono_samples(frames, channel, name, notes)
        if count == 0 and resampler is None:
            check_rate("rate in the header", rate, name)
            if rate != sample_rate:
                resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
        if resampler is not None:
            block = resampler.resample_chunk(block)
        _warn(notes, told)
        count += len(block)
        if len(block):
            yield block
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        count += len(rest)
        if len(rest):
            yield rest
    check_length(count, sample_rate, name, notes)
    _warn(notes, told)


def _warn(notes: list[str], told: set[str]) -> None:
    """Warns of what is new; that a sound is loud would else be said of every block."""
    for note in notes:
        rule = note.partition("Received")[0]
        if rule not in told:
            told.add(rule)
            warnings.warn(note, AudioWarning, stacklevel=3)
    notes.clear()

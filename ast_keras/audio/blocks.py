"""Block-wise loading of long audio files in bounded memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import numpy as np
import soxr

from ast_keras.audio.channels import Channel, ChannelMoments, note_defect
from ast_keras.audio.decoding import read_blocks
from ast_keras.audio.loading import Samples, check_length, check_rate, mono_samples
from ast_keras.audio.opening import source_name
from ast_keras.errors import AudioWarning

BLOCK_SECONDS = 30.0


def sound_blocks(
    path: str | os.PathLike[str],
    sample_rate: int = 16_000,
    *,
    channel: Channel = "mix",
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[Samples]:
    """Yields an audio file as mono float32 samples at one sample rate, block by block.

    The concatenated blocks equal the result of `load_audio` to the bit, with and without
    resampling. Only one block is in memory, for every format.

    Args:
        path: Path of the file.
        sample_rate: Sample rate of the result in Hz.
        channel: `"mix"` for the mean of all channels, or the index of one channel, counted from 0.
        block_seconds: Length of the blocks that are decoded, in seconds.

    Yields:
        float32 arrays `[samples]`. Resampling makes their lengths vary.

    Raises:
        AudioError: Under the conditions of `load_audio`. Defects within the file are raised when
            the block that contains them is decoded.

    Warns:
        AudioWarning: Under the conditions of `load_audio`, each once per file. A truncated file and
            defective channels are reported after the last block.

    Example:

    >>> import soundfile, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "long.wav")
    >>> soundfile.write(path, np.zeros(441_000), 44_100)
    >>> [len(block) for block in sound_blocks(path, block_seconds=6.0)][0] < 6 * 16_000
    True
    >>> sum(len(block) for block in sound_blocks(path))
    160000
    """
    name, notes, reported = source_name(path), list[str](), set[str]()
    check_rate("sample_rate", sample_rate, name)
    count, resampler, moments = 0, None, ChannelMoments()
    for frames, rate in read_blocks(path, block_seconds, notes):
        block = mono_samples(frames, channel, name, notes)
        if channel == "mix":
            moments.add(frames)
        if count == 0 and resampler is None:
            check_rate("rate in the header", rate, name)
            if rate != sample_rate:
                resampler = soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
        if resampler is not None:
            block = resampler.resample_chunk(block)
        _warn(notes, reported)
        count += len(block)
        if len(block):
            yield block
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        count += len(rest)
        if len(rest):
            yield rest
    check_length(count, sample_rate, name, notes)
    note_defect(moments.defect(), name, notes)
    _warn(notes, reported)


def _warn(notes: list[str], reported: set[str]) -> None:
    """Emits each kind of warning once per file, although every block may add it to `notes`."""
    for note in notes:
        rule = note.partition("Received")[0]
        if rule not in reported:
            reported.add(rule)
            warnings.warn(note, AudioWarning, stacklevel=3)
    notes.clear()

"""The classes `_unknown_` and `_silence_` of Speech Commands (Warden 2018, section 6)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping

from ast_keras.audio.decoding import read_info
from ast_keras.data.dataset import Source
from ast_keras.data.readers.audio_folder import AudioFolder
from ast_keras.data.segment import Segment
from ast_keras.errors import DatasetError

UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE_FOLDER = "_background_noise_"
# The part of each noise recording that a split is cut from, so that no second is in two splits.
_NOISE_PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
_CLIP_SECONDS = 1.0

Examples = dict[str, list[tuple[Source, tuple[int, ...]]]]


def add_unknown(
    examples: Examples,
    other_clips: Mapping[str, list[str]],
    sizes: Mapping[str, int],
    fraction: float,
    target: int,
) -> list[str]:
    """Adds clips of other words to every split, chosen by a hash of their names.

    Args:
        examples: Source and targets of each example, by split; extended in place.
        other_clips: Clips of the words that are not chosen, by split.
        sizes: Number of clips of the chosen words, by split.
        fraction: Number of clips to add, as a fraction of `sizes`, rounded up.
        target: Index of the label.

    Returns:
        A note for each split that has fewer clips than that.
    """
    notes = []
    for split, size in sizes.items():
        wanted = _rounded_up("unknown_fraction", fraction, size)
        clips = sorted(other_clips[split], key=_hash_of_name)[:wanted]
        examples[split] += [(clip, (target,)) for clip in sorted(clips)]
        if len(clips) < wanted:
            notes.append(
                f"{UNKNOWN} has {len(clips)} of {wanted} {split} clips: other words have no more"
            )
    return notes


def add_silence(
    examples: Examples, folder: str, sizes: Mapping[str, int], fraction: float, target: int
) -> None:
    """Adds seconds of background noise to every split, spread evenly over its part of each file.

    They overlap if there are more of them than seconds. The level of the noise is not changed.

    Args:
        examples: Source and targets of each example, by split; extended in place.
        folder: Folder of the noise recordings.
        sizes: Number of clips of the chosen words, by split.
        fraction: Number of clips to add, as a fraction of `sizes`, rounded up.
        target: Index of the label.

    Raises:
        DatasetError: If there is no noise recording.
        AudioError: If a recording cannot be read.
    """
    names = AudioFolder.scan(folder).by_stem.values() if os.path.isdir(folder) else ()
    if not names:
        raise DatasetError(
            f"{SILENCE} is cut from the recordings in {NOISE_FOLDER}, which has none. "
            f"Received: {folder}"
        )
    files = [os.path.join(folder, name) for name in names]
    seconds = [_seconds(file) for file in files]
    for split, size in sizes.items():
        count = _rounded_up("silence_fraction", fraction, size)
        for number in range(count):
            # Every file in turn: the n-th clip of a file starts n / (clips of the file) into the
            # range of possible starts.
            file = number % len(files)
            clips = (count - file - 1) // len(files) + 1
            first, last = (part * seconds[file] for part in _NOISE_PARTS[split])
            length = min(_CLIP_SECONDS, last - first)
            start = first + (number // len(files)) / max(clips - 1, 1) * (last - first - length)
            segment = Segment(files[file], round(start, 4), round(start + length, 4))
            examples[split].append((segment, (target,)))


def _seconds(file: str) -> float:
    info = read_info(file, [])
    if info.frames is None:
        raise DatasetError(f"The file does not state its length: convert it. Received: {file}")
    return info.frames / info.sample_rate


def _rounded_up(name: str, fraction: float, size: int) -> int:
    if not 0 <= fraction < math.inf:
        raise DatasetError(f"{name} must not be negative. Received: {name}={fraction}")
    return math.ceil(round(fraction * size, 6))  # 0.1 * 70 is 7.000000000000001


def _hash_of_name(path: str) -> bytes:
    folder, name = os.path.split(path)
    key = f"{os.path.basename(folder)}/{os.path.splitext(name)[0]}"
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()

"""`tfds build ast_keras/data/builders/speech_commands_v2`: Speech Commands V2 with its 35 words.

It is not the data set of 12 classes that tensorflow-datasets calls `speech_commands`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from ast_keras.data.builders.sound_builder import Plan, SoundBuilder, read_clip
from ast_keras.data.dataset import Split
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.readers.array_record_index import Index
from ast_keras.data.readers.speech_commands import read_speech_commands
from ast_keras.errors import DatasetError, did_you_mean
from ast_keras.labels import LabelSet

OFFICIAL_SIZES = {"train": 84_843, "validation": 9_981, "test": 11_005}

_LIST = "testing_list.txt"


class SpeechCommandsV2(SoundBuilder):
    """Builds Speech Commands V2 with the official splits, in the order of words and names.

    Without --manual_dir it is downloaded, as for recipes (`ast_keras.data.downloads.public_data`).
    A partial copy is accepted.

    Reference:
        Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", arXiv
        1804.03209.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder of words with {_LIST}, as its archive unpacks."

    def _info(self) -> tfds.core.DatasetInfo:
        words = LabelSet.load("speech_commands").names
        return self.make_info(
            {"label": tfds.features.ClassLabel(names=list(words))},
            description="Speech Commands V2: 105,829 utterances of 35 words, up to 1 s each.",
            homepage="https://arxiv.org/abs/1804.03209",
        )

    def plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        folder = self.local_or_downloaded(dl_manager, _LIST, "speech_commands")
        dataset = read_speech_commands(folder)
        official = LabelSet.load("speech_commands")
        for word in dataset.labels.names:
            if word not in official.names:
                raise DatasetError(
                    "Speech Commands V2 has 35 words; read other words from their folder. "
                    f"{did_you_mean(word, official.names)} Received: {word!r} in {folder}"
                )
        numbers = [official.index_of(word) for word in dataset.labels.names]
        splits = {name: _index(s, folder, numbers) for name, s in dataset.splits.items()}
        sizes = {name: len(splits.get(name, ())) for name in OFFICIAL_SIZES}
        notes = [note for note in dataset.notes if "no training example" not in note]
        if sizes != OFFICIAL_SIZES:
            found = ", ".join(
                f"{sizes[name]:,} of {size:,} {name}" for name, size in OFFICIAL_SIZES.items()
            )
            notes.append(f"incomplete copy of Speech Commands V2: {found}")
        return Plan(folder, splits, notes)

    def example(self, folder: str, row: Mapping[str, Any]) -> dict[str, Any]:
        (label,) = row["targets"]
        return {"audio": read_clip(folder, row["path"]), "path": row["path"], "label": label}


def _index(split: Split, folder: str, numbers: list[int]) -> Index:
    """Returns the index of a split, with labels numbered as in the published list."""
    return Index(
        PackedPaths.pack(os.path.relpath(split.source_name(i), folder) for i in range(len(split))),
        PackedTargets.pack([(numbers[target],) for (target,) in split.targets]),
    )

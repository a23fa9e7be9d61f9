"""`tfds build ast_keras/data/builders/esc50`: ESC-50 as ArrayRecord."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ast_keras.data.builders.sound_builder import Plan, SoundBuilder, read_clip
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.readers.array_record_index import Index
from ast_keras.data.readers.audio_folder import AudioFolder
from ast_keras.data.readers.esc50 import read_rows
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

_TABLE = os.path.join("meta", "esc50.csv")
_LAYOUT = "ESC-50 is a folder with audio/ and meta/esc50.csv, as its archive unpacks."


class Esc50(SoundBuilder):
    """Builds ESC-50: one split with the official fold of every clip, in the order of the table.

    Without --manual_dir it is downloaded, as for recipes (`ast_keras.data.downloads.public_data`).
    A partial copy is accepted.

    Reference:
        Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = _LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        return self.make_info(
            {
                "label": tfds.features.ClassLabel(names=list(LabelSet.load("esc50").names)),
                "fold": tfds.features.Scalar(dtype=np.int64),
                "esc10": tfds.features.Scalar(dtype=np.bool_),
            },
            description="ESC-50: 2,000 environmental sounds of 5 s in 50 classes and 5 folds.",
            homepage="https://github.com/karolpiczak/ESC-50",
        )

    def plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        root = self.local_or_downloaded(dl_manager, _TABLE, "esc50")
        table, audio = os.path.join(root, _TABLE), os.path.join(root, "audio")
        rows = list(read_rows(table))
        if not os.path.isdir(audio):
            raise DatasetError(f"The folder audio/ is missing. {_LAYOUT} Received: {root}")
        folder = AudioFolder.scan(audio)
        files = [folder.find(row.filename) for row in rows]
        here = [(row, os.path.basename(f)) for row, f in zip(rows, files, strict=True) if f]
        if not here:
            raise DatasetError(f"No file of {table} exists. Received: {audio}")
        missing = len(rows) - len(here)
        return Plan(
            folder=root,
            splits={
                "train": Index(
                    PackedPaths.pack(os.path.join("audio", name) for _, name in here),
                    PackedTargets.pack([(row.target,) for row, _ in here]),
                    {
                        "fold": np.array([row.fold for row, _ in here], np.int32),
                        "esc10": np.array([row.in_esc10 for row, _ in here]),
                    },
                )
            },
            notes=[f"{missing} of {len(rows)} files were missing"] if missing else [],
            # From the whole table, so that labels keep their numbers in a partial copy.
            metadata={"esc10_targets": sorted({row.target for row in rows if row.in_esc10})},
        )

    def example(self, folder: str, row: Mapping[str, Any]) -> dict[str, Any]:
        (label,) = row["targets"]
        features = {name: row[name] for name in ("path", "fold", "esc10")}
        return {"audio": read_clip(folder, row["path"]), "label": label, **features}

"""`tfds build ast_keras/data/builders/audioset`: AudioSet as ArrayRecord.

It runs on Apache Beam (`pip install apache-beam`): on this machine, or with
`--beam_pipeline_options runner=...` on a cluster whose machines access the folder of the clips and
`--data_dir` under the same paths and have ast_keras installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ast_keras.data.builders import audioset_beam
from ast_keras.data.builders.sound_builder import Plan, SoundBuilder
from ast_keras.data.downloads.http import download
from ast_keras.data.downloads.public_data import data_folder
from ast_keras.data.packed import PackedPaths
from ast_keras.data.readers.array_record_index import Index, index_path
from ast_keras.data.readers.audioset import LIST_FILES
from ast_keras.data.readers.audioset_clips import FILE_NAMES, FoundClips, find_clips
from ast_keras.data.readers.audioset_lists import ClipList, read_clip_list
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet

URL = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"

_MAX_LIST_BYTES = 10**9
_LAYOUT = f"AudioSet is built from your own copy of the clips: a folder of files {FILE_NAMES}."


class Audioset(SoundBuilder):
    """Builds AudioSet's balanced, unbalanced and evaluation clips, in the order of the lists.

    The clips must be on this machine; those without a file are counted and left out. Of the
    official segment lists, those in the folder of the clips are built. If there are none, all three
    (100 MB) are downloaded once to the data folder (`ast_keras.data.downloads.public_data`).

    Reference:
        Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP
        2017.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = _LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        names = list(LabelSet.load("audioset").names)
        return self.make_info(
            {
                "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=names)),
                "ytid": tfds.features.Text(doc="YTID of the video."),
            },
            description="AudioSet: two million clips of 10 s from videos, with 527 labels.",
            homepage="https://research.google.com/audioset/",
        )

    def plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        manual = self.manual_dir(dl_manager)
        if manual is None:
            raise DatasetError(f"{_LAYOUT} Pass it: --manual_dir FOLDER. Received: no manual_dir")
        folder, labels = os.path.abspath(manual), LabelSet.load("audioset")
        files = self._lists(folder)
        lists = {split: read_clip_list(file, labels) for split, file in files.items()}
        clips = ClipList.concatenate(list(lists.values()))
        found, splits, notes, first = find_clips(folder, clips), {}, [], 0
        for split, part in lists.items():
            index = _index(clips, found, range(first, first + len(part)), folder)
            if len(index) < len(part):
                missing = len(part) - len(index)
                notes.append(f"{missing:,} of {len(part):,} {split} clips were missing")
            if len(index):
                splits[split] = index
            first += len(part)
        if found.num_other_segments:
            notes.append(
                f"{found.num_other_segments:,} files are other segments of the listed videos"
            )
        if not splits:
            raise DatasetError(
                f"No file exists for any of the {len(clips):,} listed clips; files must be named "
                f"{FILE_NAMES}. Received: {folder} with {found.suffix_counts or 'no file'}"
            )
        return Plan(folder, splits, notes)

    def _lists(self, folder: str) -> Mapping[str, str]:
        here = {split: os.path.join(folder, name) for split, name in LIST_FILES.items()}
        here = {split: file for split, file in here.items() if os.path.isfile(file)}
        if here:
            return here
        base = os.environ.get("AST_KERAS_MIRROR", URL).rstrip("/")
        lists = {split: data_folder() / "audioset" / name for split, name in LIST_FILES.items()}
        try:
            for file in lists.values():
                file.parent.mkdir(parents=True, exist_ok=True)
                if not file.is_file():
                    download(f"{base}/{file.name}", file, _MAX_LIST_BYTES)
        except OSError as error:  # DownloadError is one
            reason = " ".join(str(error).split()).rstrip(". ")
            raise DatasetError(
                f"AudioSet's segment lists cannot be downloaded ({reason}): put one or more of "
                f"{', '.join(LIST_FILES.values())} into the folder of the clips. "
                f"Received: {folder}"
            ) from error
        return {split: os.fspath(file) for split, file in lists.items()}

    def _generate_examples(self, folder: str, split: str) -> Any:
        return audioset_beam.examples(os.fspath(index_path(self.data_path, split)), folder)


def _index(clips: ClipList, found: FoundClips, listed: range, folder: str) -> Index:
    """Returns the index of the clips of one list that have a file."""
    here = np.flatnonzero((listed.start <= found.indices) & (found.indices < listed.stop))
    paths = found.paths.take(here)
    folders = [os.path.relpath(path, folder) for path in paths.folders]
    folders = ["" if path == os.curdir else path for path in folders]
    rows = found.indices[here]
    return Index(
        PackedPaths(folders, paths.folder_of, paths.rows),
        clips.targets.take(rows),
        {"ytid": clips.ytids[rows]},
    )

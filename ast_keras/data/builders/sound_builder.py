"""Base class of the builders: finds the data and writes encoded audio as ArrayRecord files."""

from __future__ import annotations

import abc
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer

from ast_keras.data.downloads.public_data import find_data
from ast_keras.data.readers.array_record_index import Index, index_path
from ast_keras.errors import DatasetError

_NUM_KEYS = 2**128  # range of keys that tfds distributes over its buckets


@dataclass(frozen=True)
class Plan:
    """The plan of a build: which clips to write, in which order.

    Args:
        folder: Folder of the clips.
        splits: Index of each split, in the order of its records.
        notes: Messages for the user, such as the number of missing clips.
        metadata: Further values that the reader needs.
    """

    folder: str
    splits: Mapping[str, Index]
    notes: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class SoundBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds ArrayRecord files of encoded audio in the order of `plan`, and an index of them.

    Subclasses find the data, plan the build and make the examples. The order is that of the reader
    of the same folder, so that both give the same batches.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, file_format: Any = None, **kwargs: Any) -> None:
        if getattr(file_format, "value", file_format) not in (None, "array_record"):
            raise DatasetError(
                "Training reads records by index, which needs ArrayRecord: omit --file_format. "
                f"Received: file_format={file_format!r}"
            )
        super().__init__(file_format="array_record", **kwargs)
        self._manual_dir: str | None = None

    @abc.abstractmethod
    def plan(self, dl_manager: tfds.download.DownloadManager) -> Plan:
        """Finds the data and plans the build."""

    def download_and_prepare(self, *, download_config: Any = None, **kwargs: Any) -> None:
        """Builds the data set; see `tfds.core.DatasetBuilder`."""
        config = download_config or tfds.download.DownloadConfig()
        if config.nondeterministic_order:
            raise DatasetError(
                "Records must be in the order of their index: omit --nondeterministic_order. "
                "Received: nondeterministic_order=True"
            )
        if config.manual_dir is not None:
            self._manual_dir = os.path.abspath(os.path.expanduser(os.fspath(config.manual_dir)))
            if not os.path.isdir(self._manual_dir):
                raise DatasetError(
                    f"manual_dir must be a folder. Received: manual_dir={self._manual_dir!r}"
                )
        super().download_and_prepare(download_config=config, **kwargs)

    def local_or_downloaded(
        self, dl_manager: tfds.download.DownloadManager, marker: str, kind: str
    ) -> str:
        """Returns the folder that holds the file `marker`: a local copy, or a download.

        The download is the one of recipes (`ast_keras.data.downloads.public_data`): made once,
        resumed and verified. If the user gave a manual folder, it is returned even without the
        file, and the reader reports what is missing.

        Raises:
            DatasetError: If the download fails; the message names the file to provide.
        """
        local = self.manual_dir(dl_manager)
        if local is not None:
            found = _holding(local, marker)
            if found or self._manual_dir:
                return found or local
        try:
            return os.fspath(find_data(kind, logging.info))  # type: ignore[arg-type]
        except DatasetError as error:
            raise DatasetError(f"{error} (--manual_dir FOLDER builds from it)") from error

    def manual_dir(self, dl_manager: tfds.download.DownloadManager) -> str | None:
        """Returns the folder given as --manual_dir, or tfds's own if it is not empty."""
        try:
            return self._manual_dir or os.fspath(dl_manager.manual_dir)
        except AssertionError:
            return None

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        plan = self.plan(dl_manager)
        for note in plan.notes:
            logging.warning("%s: %s", self.name, note)
        self.info.metadata.update(plan.metadata, notes=list(plan.notes))
        for split, index in plan.splits.items():
            index.save(index_path(self.data_path, split))
        return {split: self._generate_examples(plan.folder, split) for split in plan.splits}

    def _generate_examples(self, folder: str, split: str) -> Any:
        index = Index.load(index_path(self.data_path, split))
        # Keys over the whole range, so that tfds sorts a large data set on disk in parts.
        step = _NUM_KEYS // len(index)
        for position in range(len(index)):
            yield position * step, self.example(folder, index.row(position))

    def example(self, folder: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the features of an example, given its row of the index."""
        raise NotImplementedError

    def _example_writer(self) -> tfds_writer.ExampleWriter:
        return _PlainWriter(self.info.file_format)

    def make_info(self, features: Mapping[str, Any], **kwargs: Any) -> tfds.core.DatasetInfo:
        """Returns the description of a data set of examples with these features and the audio."""
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Scalar(
                        dtype=np.object_,
                        doc="Encoded audio file; ast_keras.audio.load_audio decodes it.",
                    ),
                    "path": tfds.features.Text(doc="Path in the folder of the data set."),
                    **features,
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
            **kwargs,
        )


class _PlainWriter(tfds_writer.ExampleWriter):
    """Writes ArrayRecord files without compression, which gains little and slows reading."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, record in examples:
            writer.write(record)
        writer.close()


def read_clip(folder: str, path: str) -> bytes:
    """Returns the unchanged bytes of an audio file.

    Raises:
        DatasetError: If the file was removed after the folder was listed.
    """
    file = pathlib.Path(folder, path)
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"Cannot read a clip: {error.strerror}. Received: {file}") from None


def _holding(folder: str, marker: str) -> str | None:
    """Returns the folder, or the first one directly below it, that holds a file."""
    below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    return next((f for f in [folder, *below] if os.path.exists(os.path.join(f, marker))), None)

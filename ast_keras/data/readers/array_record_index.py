"""The index of a built data set: paths and labels of its records, read without their audio."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.packed import PackedPaths, PackedTargets, Rows
from ast_keras.errors import DatasetError

Array = npt.NDArray[Any]


def index_path(folder: str | os.PathLike[str], split: str) -> pathlib.Path:
    """Returns the path of the index of a split in the folder of a built data set."""
    return pathlib.Path(folder, f"index-{split}.npz")


@dataclass(frozen=True, eq=False)
class Index:
    """Holds what is known about the records of a split without their audio, in the same order.

    It is a separate file, because reading the labels from two million records would read all audio.

    Args:
        paths: Path of each clip in the folder that the data set was built from.
        targets: Label indices of each clip, as in the published list.
        columns: Further arrays by name, with one value for each clip.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "index.npz")
    >>> Index(PackedPaths.pack(["a/dog.wav"]), PackedTargets.pack([(7,)])).save(path)
    >>> index = Index.load(path)
    >>> index.paths[0], index.targets[0]
    ('a/dog.wav', (7,))
    """

    paths: PackedPaths
    targets: PackedTargets
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def concatenate(cls, parts: Sequence[Index]) -> Index:
        """Returns the index of all parts, in order. All must have the same columns."""
        return cls(
            PackedPaths.concatenate([part.paths for part in parts]),
            PackedTargets(Rows.concatenate([part.targets.rows for part in parts])),
            {k: np.concatenate([p.columns[k] for p in parts]) for k in parts[0].columns},
        )

    def row(self, position: int) -> dict[str, Any]:
        """Returns path, targets and the columns by name of one clip."""
        columns = {name: column[position].item() for name, column in self.columns.items()}
        return {"path": self.paths[position], "targets": self.targets[position], **columns}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index as a NumPy archive."""
        names, targets = self.paths.rows, self.targets.rows
        np.savez(
            path,
            folders=np.frombuffer(os.fsencode("\0".join(self.paths.folders)), np.uint8),
            folder_of=self.paths.folder_of,
            names=names.flat(),
            name_lengths=names.lengths,
            targets=targets.flat(),
            target_lengths=targets.lengths,
            **{f"column_{name}": column for name, column in self.columns.items()},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """Reads an index.

        Raises:
            DatasetError: If the file does not exist or is not an index.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            return cls(
                PackedPaths(
                    os.fsdecode(arrays["folders"].tobytes()).split("\0"),
                    arrays["folder_of"],
                    Rows.from_lengths(arrays["names"], arrays["name_lengths"]),
                ),
                PackedTargets(Rows.from_lengths(arrays["targets"], arrays["target_lengths"])),
                {k.removeprefix("column_"): v for k, v in arrays.items() if k[:7] == "column_"},
            )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DatasetError(
                f"The index of a built data set cannot be read: {error}. Build it again. "
                f"Received: {path}"
            ) from None

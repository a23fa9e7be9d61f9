"""The Apache Beam pipeline of AudioSet's builder, in a module that its workers can import."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from ast_keras.data.builders.sound_builder import read_clip
from ast_keras.data.readers.array_record_index import Index
from ast_keras.errors import DatasetError

_ROWS_AT_ONCE = 1_000


def examples(index_file: str, folder: str) -> Any:
    """Returns the transform that yields positions and examples of a split.

    The pipeline holds only the number of every thousandth row, since the description of a job
    cannot hold two million rows. Workers read the index, which is next to the records.

    Args:
        index_file: Path of the index of the split.
        folder: Folder of the clips.

    Raises:
        DatasetError: If Apache Beam is not installed.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise DatasetError(
            f"AudioSet is built with Apache Beam: pip install apache-beam. Received: {error}"
        ) from None
    starts = list(range(0, len(_index(index_file)), _ROWS_AT_ONCE))
    return (
        beam.Create(starts)
        | beam.FlatMap(_rows, index_file)
        | beam.Reshuffle()  # otherwise one worker would read all clips
        | beam.Map(_example, folder)
    )


def _rows(start: int, index_file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    index = _index(index_file)
    for position in range(start, min(start + _ROWS_AT_ONCE, len(index))):
        yield position, index.row(position)


def _example(row: tuple[int, dict[str, Any]], folder: str) -> tuple[int, dict[str, Any]]:
    position, known = row
    audio = read_clip(folder, known["path"])
    features = {"path": known["path"], "ytid": known["ytid"], "labels": list(known["targets"])}
    return position, {"audio": audio, **features}


@functools.lru_cache(maxsize=4)
def _index(path: str) -> Index:
    return Index.load(path)

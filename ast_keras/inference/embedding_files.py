"""Embeddings in one file: Parquet or a NumPy archive. No TensorFlow."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ast_keras.errors import InferenceError
from ast_keras.files import replacing

Row = tuple[str, float, float, int, Any]  # an `ast_keras.inference.embedder.Embedding`

_SUFFIXES = (".parquet", ".npz")
_COLUMNS = ("path", "start", "end", "mel", "embedding")
_GROUP_ROWS = 4096


def write_embeddings(
    embeddings: Iterable[Row],
    path: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
) -> int:
    """Writes embeddings to one file, atomically.

    A Parquet file has the columns `path`, `start`, `end`, `mel` and `embedding`. It is written in
    groups, so that the embeddings need not fit into memory. A NumPy archive has an array for each
    of these columns; `embedding` is `[vectors, embed_dim]`.

    Args:
        embeddings: The embeddings, `ast_keras.inference.embedder.Embedding` each.
        path: Path of the file, with the suffix `.npz`, or `.parquet` (needs pyarrow).
        metadata: Names and values stored with the embeddings: as metadata of a Parquet file, or as
            the array `about` of pairs.

    Returns:
        Number of embeddings.

    Raises:
        InferenceError: If the suffix is another, or pyarrow is not installed.

    Example:

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "vectors.npz")
    >>> write_embeddings([("a.wav", 0.0, 1.0, -1, np.zeros(48, "float32"))], path)
    1
    >>> np.load(path)["embedding"].shape
    (1, 48)
    """
    suffix = check_output(path)
    with replacing(path) as part:
        write = _write_parquet if suffix == ".parquet" else _write_archive
        return write(embeddings, part, metadata or {})


def check_output(path: str | os.PathLike[str]) -> str:
    """Returns the suffix of a path after checking that embeddings can be written there.

    Args:
        path: Path of the file to write.

    Raises:
        InferenceError: If the suffix is neither `.parquet` nor `.npz`, or pyarrow is missing.
    """
    suffix = pathlib.Path(path).suffix
    if suffix not in _SUFFIXES:
        raise InferenceError(
            f"Embeddings are written to a file in {' or '.join(_SUFFIXES)}. Received: {path}"
        )
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise InferenceError(
                "Parquet needs pyarrow: pip install pyarrow, or write a .npz file"
            ) from None
    return suffix


def _write_archive(embeddings: Iterable[Row], path: pathlib.Path, metadata: dict[str, str]) -> int:
    rows = list(embeddings)
    columns = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    arrays = {name: np.array(column) for name, column in zip(_COLUMNS, columns, strict=True)}
    with open(path, "wb") as file:
        np.savez(file, **arrays, about=np.array(sorted(metadata.items()), str))
    return len(rows)


def _write_parquet(embeddings: Iterable[Row], path: pathlib.Path, metadata: dict[str, str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    types = (pa.string(), pa.float64(), pa.float64(), pa.int32(), pa.list_(pa.float32()))
    schema = pa.schema(dict(zip(_COLUMNS, types, strict=True)), metadata=metadata)
    count, rows = 0, list[Row]()
    with pa.parquet.ParquetWriter(path, schema) as writer:

        def write_rows() -> None:
            columns = [list(column) for column in zip(*rows, strict=True)]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
            rows.clear()

        for embedding in embeddings:
            rows.append(embedding)
            count += 1
            if len(rows) == _GROUP_ROWS:
                write_rows()
        if rows:
            write_rows()
    return count

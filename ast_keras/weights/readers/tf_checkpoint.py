"""TensorFlow checkpoints: the `.index` and `.data-*` files that `tf.train.Checkpoint` writes.

TensorFlow reads the tensors and verifies their checksums, after the sizes of all tensors have been
checked against the files (see `tf_checkpoint_index`).
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.tf_checkpoint_index import MAX_INDEX_BYTES, read_table

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_BOOKKEEPING = {"optimizer", ".OPTIMIZER_SLOT", "save_counter", "global_step"}
_ITEM_BYTES = {
    **{"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4},
    **{"int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8},
}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Reads the variables of a TensorFlow checkpoint.

    Names are paths through the saved objects, such as `backbone/layer_with_weights-0/kernel`,
    without the suffix `/.ATTRIBUTES/VARIABLE_VALUE`. Variables that only training needs are left
    out: step counters, the optimizer and its slots. An optimizer's moving average of the weights is
    such a slot, so the weights themselves are returned; the Model Garden saves averaged weights to
    a separate folder, `ema_checkpoints`. bfloat16 is converted to float32.

    Args:
        path: The prefix (`ckpt-123`), one of the files (`ckpt-123.index`), or a folder. In a
            folder, the checkpoint that its file `checkpoint` names as the latest is read, or the
            only one.

    Returns:
        The arrays by name, sorted by name.

    Raises:
        WeightsError: If there is no such checkpoint, if one of its files is missing, truncated or
            damaged, or if it holds partitioned variables or a type without a NumPy equivalent.

    Example:

    >>> import tempfile
    >>> import tensorflow as tf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = tf.train.Checkpoint(scale=tf.Variable([1.0, 2.0])).save(folder + "/ckpt")
    ...     read_checkpoint(folder)
    {'scale': array([1., 2.], dtype=float32)}
    """
    import tensorflow as tf

    prefix = _prefix(Path(path))
    tensors: dict[str, NDArray[Any]] = {}
    entries = _checked_entries(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for key, dtype in entries.items():
            name = key.removesuffix(_VALUE)
            if dtype == "string" or not _BOOKKEEPING.isdisjoint(name.split("/")):
                continue
            if name in tensors:
                raise ValueError(f"two variables are called {name}")
            array = np.asarray(reader.get_tensor(key))
            tensors[name] = array.astype(np.float32) if dtype == "bfloat16" else array
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        raise _damaged(prefix, error) from error
    logging.info("%s: %d of %d tensors are variables.", prefix, len(tensors), len(entries))
    return dict(sorted(tensors.items()))


def _damaged(prefix: Path, error: Exception) -> WeightsError:
    """Returns the error for a checkpoint that exists but cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return WeightsError(
        f"A checkpoint must be complete and hold plain tensors ({reason}); "
        f"if its files are damaged, copy them again. Received: path={prefix}"
    )


def _prefix(path: Path) -> Path:
    """Returns the common prefix of the files of a checkpoint."""
    if path.is_dir():
        return _latest_prefix(path)
    prefix = path
    if not Path(f"{path}.index").is_file():
        prefix = Path(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path)))
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError(
            f"A checkpoint needs its index, {prefix.name}.index: name the common prefix of its "
            f"files, or their folder. Received: path={path}"
        )
    return prefix


def _latest_prefix(folder: Path) -> Path:
    """Returns the only checkpoint of a folder, or the latest one according to `checkpoint`."""
    import tensorflow as tf

    names = sorted(file.name.removesuffix(".index") for file in folder.glob("*.index"))
    if len(names) == 1:
        return folder / names[0]
    latest = ""
    if names:
        try:
            state = tf.train.get_checkpoint_state(str(folder))
        except ValueError:
            state = None
        # Only the name is used, because the folder may have been moved.
        latest = Path(state.model_checkpoint_path).name if state else ""
    if latest in names:
        return folder / latest
    found = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "none"
    raise WeightsError(
        "A folder must hold one checkpoint, or name the latest in its file 'checkpoint': "
        f"name one of those in it ({found}). Received: path={folder}"
    )


def _checked_entries(prefix: Path) -> dict[str, str]:
    """Returns the type of every tensor, after checking that reading them is safe."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2

    index = Path(f"{prefix}.index")
    types: dict[str, str] = {}
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"the index is larger than {MAX_INDEX_BYTES} bytes")
        table = read_table(index.read_bytes())
        key, value = next(table, (None, b""))
        if key != b"":
            raise ValueError("the index has no header")
        shards = tensor_bundle_pb2.BundleHeaderProto.FromString(value).num_shards
        sizes: dict[int, int] = {}
        claimed = 0
        for key, value in table:
            entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
            name = key.decode()
            types[name] = _checked_type(name, entry)
            if entry.shard_id not in sizes:
                sizes[entry.shard_id] = _shard_bytes(prefix, entry.shard_id, shards)
            claimed += entry.size
            if not 0 <= entry.offset <= sizes[entry.shard_id] - entry.size:
                raise ValueError(f"{name} extends beyond its data file")
            if claimed > sum(sizes.values()):
                raise ValueError("the tensors are larger than the data files")
    except (ValueError, IndexError, DecodeError, OSError) as error:
        raise _damaged(prefix, error) from error
    return types


def _shard_bytes(prefix: Path, shard: int, shards: int) -> int:
    """Returns the size of one data file."""
    file = Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")
    if not 0 <= shard < shards or not file.is_file():
        raise ValueError(f"the data file {file.name} is missing")
    return file.stat().st_size


def _checked_type(name: str, entry: Any) -> str:
    """Returns the type of one tensor, after checking that its shape and its size agree."""
    import tensorflow as tf

    try:
        dtype = str(tf.dtypes.as_dtype(entry.dtype).name)
    except TypeError as error:
        raise ValueError(f"{name} is of an unknown type") from error
    if dtype not in _ITEM_BYTES and dtype != "string":
        raise ValueError(f"{name} is of type {dtype}, which is not supported")
    if entry.slices:
        raise ValueError(f"{name} is partitioned, which is not supported")
    shape = [dim.size for dim in entry.shape.dim]
    if entry.shape.unknown_rank or len(shape) > 32 or any(size < 0 for size in shape):
        raise ValueError(f"{name} has no shape")
    # TensorFlow multiplies the sizes in order, and aborts on an overflow, even before a zero.
    if math.prod(max(size, 1) for size in shape) > 1 << 40:
        raise ValueError(f"{name} of shape {shape} is too large")
    if dtype != "string" and math.prod(shape) * _ITEM_BYTES[dtype] != entry.size:
        raise ValueError(f"{name} of shape {shape} does not take {entry.size} bytes")
    return dtype

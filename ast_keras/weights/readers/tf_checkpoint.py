"""Reads TensorFlow checkpoints: the `.index` and `.data-*` files that `tf.train.Checkpoint` writes.

TensorFlow does the reading and checks every checksum, but it trusts what an index says: a false
shape ends the process, a false size reserves any amount of memory. So the index (a table in the
manner of LevelDB, whose values are protocol buffers) is walked first, and refused unless every
block lies in the file and every tensor in its data file.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from ast_keras.errors import WeightsError

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_BOOKKEEPING = {"optimizer", ".OPTIMIZER_SLOT", "save_counter", "global_step"}
_ITEM_BYTES = {
    **{"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4},
    **{"int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8},
}
_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5  # kind of compression, checksum
# Far above any real model (a ViT-B's index takes 15 kB), far below what would hurt.
_MAX_INDEX_BYTES = 16 << 20
_MAX_TENSORS = 100_000
_MAX_KEY_BYTES = 1024


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Reads the variables of a TensorFlow checkpoint.

    Names are paths through the saved objects, as in `backbone/layer_with_weights-0/kernel`, without
    the `/.ATTRIBUTES/VARIABLE_VALUE` behind them. What only training needs is left out: counters of
    steps, the optimizer and its slots. Where an optimizer kept a moving average of the weights, the
    average is such a slot, and the weights themselves are returned; the Model Garden writes
    the averaged ones to a folder of their own, `ema_checkpoints`. bfloat16 is widened to float32.

    Args:
        path: the prefix (`ckpt-123`), one of its files (`ckpt-123.index`), or a folder: the
            checkpoint that its file `checkpoint` calls the latest, or the only one in it.

    Returns:
        Dictionary from name to array, sorted by name.

    Raises:
        WeightsError: there is no such checkpoint, one of its files is missing, cut short or
            damaged, or it holds partitioned variables or a type of number NumPy does not have.

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
    """Returns the error of a checkpoint that is there but cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return WeightsError(
        f"A checkpoint must be whole and hold plain tensors ({reason}); "
        f"if its files are damaged, copy them again. Received: path={prefix}"
    )


def _prefix(path: Path) -> Path:
    """Returns what the names of a checkpoint's files begin with."""
    if path.is_dir():
        return _latest_prefix(path)
    prefix = path
    if not Path(f"{path}.index").is_file():
        prefix = Path(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path)))
    if not Path(f"{prefix}.index").is_file():
        raise WeightsError(
            f"A checkpoint needs its index, {prefix.name}.index; name the files' common prefix, "
            f"or their folder. Received: path={path}"
        )
    return prefix


def _latest_prefix(folder: Path) -> Path:
    """Returns a folder's only checkpoint, or the one that it calls the latest."""
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
        # Only the name counts: the folder may have been moved since.
        latest = Path(state.model_checkpoint_path).name if state else ""
    if latest in names:
        return folder / latest
    found = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "none"
    raise WeightsError(
        "A folder must hold one checkpoint, or say which is the latest in its file 'checkpoint'; "
        f"name one of those in it ({found}). Received: path={folder}"
    )


def _checked_entries(prefix: Path) -> dict[str, str]:
    """Returns the type of every tensor, having checked that reading them is safe."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2

    index = Path(f"{prefix}.index")
    types: dict[str, str] = {}
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"the index is larger than {_MAX_INDEX_BYTES} bytes")
        table = _table(index.read_bytes())
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
                raise ValueError(f"{name} ends behind the end of its data file")
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
    """Returns the type of one tensor whose shape and size agree."""
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
    # Zeros count as ones: TensorFlow multiplies from the left, and an overflow ends the process.
    if math.prod(max(size, 1) for size in shape) > 1 << 40:
        raise ValueError(f"{name} of shape {shape} is too large")
    if dtype != "string" and math.prod(shape) * _ITEM_BYTES[dtype] != entry.size:
        raise ValueError(f"{name} of shape {shape} does not take {entry.size} bytes")
    return dtype


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a table: blocks, a block that lists them, a footer."""
    footer = data[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise ValueError("the index does not end as one does")
    # Each block's place is two numbers: where it begins, and its size.
    *_, at = _numbers(footer, 0, 2)
    start, size, _ = _numbers(footer, at, 2)
    end = count = 0
    last_key = None
    for _, place in _block(data, start, size):
        start, size, _ = _numbers(place, 0, 2)
        # Blocks lie one behind the other, so that no two entries can stand for the same bytes.
        if start < end:
            raise ValueError("blocks of the index overlap")
        end = start + size
        for key, value in _block(data, start, size):
            count += 1
            if last_key is not None and key <= last_key:
                raise ValueError("the index is not sorted")
            if count > _MAX_TENSORS:
                raise ValueError(f"the index lists more than {_MAX_TENSORS} tensors")
            last_key = key
            yield key, value


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of one block; a key says how much of the last one it repeats."""
    if start + size + _BLOCK_TRAILER_BYTES > len(data) - _FOOTER_BYTES or size < 4:
        raise ValueError("a block ends behind the end of the index")
    if data[start + size] != 0:
        raise ValueError("the index is compressed")
    block = data[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block of the index is too short")
    key, at, whole = b"", 0, {0}
    while at < end:
        first = at
        shared, added, length, at = _numbers(block, at, 3)
        if shared > len(key) or at + added + length > end or shared + added > _MAX_KEY_BYTES:
            raise ValueError("an entry of the index is too long")
        if shared == 0:
            whole.add(first)
        key = key[:shared] + block[at : at + added]
        at += added + length
        yield key, block[at - length : at]
    # A look-up jumps to these places: elsewhere it would find an entry that was not seen here.
    if not whole.issuperset(memoryview(block[end:-4]).cast("I")):
        raise ValueError("a block of the index points between its entries")


def _numbers(data: bytes, at: int, count: int) -> tuple[int, ...]:
    """Returns numbers of seven bits a byte, lowest first, and the place behind them."""
    numbers = []
    for _ in range(count):
        value = shift = 0
        while data[at] >= 0x80:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if shift > 63:
                raise ValueError("a number of the index is too long")
        numbers.append(value | data[at] << shift)
        at += 1
    return *numbers, at

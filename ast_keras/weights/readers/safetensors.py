"""Safetensors files: reading without a copy, and writing.

The reader is ours and not that of the `safetensors` library, which has no bfloat16 for NumPy and
copies every tensor. The writer is the library's.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.files import replacing

Array = np.ndarray[Any, np.dtype[Any]]

# NumPy type of each stored type. Types that NumPy lacks are read as float32.
STORED = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "BOOL": "u1"},
    **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"},
    **{"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
}
_WRITABLE = {*STORED.values(), "b1"}
MAX_HEADER_BYTES = 2 << 20  # the header of a thousand tensors takes 0.1 MB
MAX_AXES = 32  # the limit of NumPy before version 2


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads every tensor of a safetensors file.

    The arrays are read-only views of the memory-mapped file: nothing is read from disk before they
    are used. The file must not be overwritten in place while they exist; `write_safetensors`
    replaces it instead. Half precision (F16, BF16) is converted to float32, which holds each value
    exactly.

    Args:
        path: The file.

    Returns:
        The arrays by name, in the order of the file's header.

    Raises:
        WeightsError: If the file is missing, truncated or damaged, or if it holds a type without a
            NumPy equivalent.

    Reference:
        The format of https://github.com/huggingface/safetensors.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_safetensors(path, {"norm.bias": np.zeros(3, "float32")})
    >>> read_safetensors(path)
    {'norm.bias': array([0., 0., 0.], dtype=float32)}
    """
    data = map_file(path)
    try:
        header, start = _header(data)
        return {
            name: to_array(data, code, math.prod(shape), start + begin).reshape(shape)
            for name, (code, shape, begin) in _entries(header, len(data) - start).items()
        }
    except WeightsError as error:
        raise WeightsError(f"Not a valid safetensors file: {error}. Received: {path}") from None


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a safetensors file, which appears complete or not at all.

    Args:
        path: The file; its folder is created.
        tensors: Arrays of any memory layout by name, each in its own dtype.
        metadata: Strings by key for the header, such as `{"format": "pt"}`.

    Raises:
        WeightsError: If the format has no equivalent of a dtype, or if the file cannot be written.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_safetensors(path, {"scale": np.ones(1, "float16")}, metadata={"format": "pt"})
    >>> path.stat().st_size
    106
    """
    from safetensors.numpy import save_file

    arrays = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype.str[1:] not in _WRITABLE or name == "__metadata__":
            raise WeightsError(
                "A safetensors file holds numbers of 8 to 64 bits, and no tensor called "
                f"__metadata__. Received: {name} of {array.dtype}"
            )
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    try:
        with replacing(path) as part:
            part.touch()
            mode = part.stat().st_mode
            save_file(arrays, part, dict(metadata) if metadata else None)
            part.chmod(mode)  # the library makes the file private
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"Cannot write here: {reason}. Received: {path}") from None


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """Maps a file into memory for reading.

    Raises:
        WeightsError: If there is no such file, or if it is empty.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block forever
            raise WeightsError(f"The weights are not a regular file. Received: {path}")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise WeightsError(f"The weights file is empty. Received: {path}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsError(
            f"The weights file cannot be read: {error.strerror or error}. Received: {path}"
        ) from None


def to_array(data: Any, code: str, count: int, offset: int = 0, big_endian: bool = False) -> Array:
    """Returns stored numbers as a flat read-only array: a view, or a copy if they are converted.

    Args:
        data: A buffer that holds the numbers; the caller has checked its size.
        code: A key of `STORED`.
        count: Number of elements.
        offset: Position of the first byte.
        big_endian: Whether the most significant byte comes first.
    """
    stored = np.dtype((">" if big_endian else "<") + STORED[code])
    array = np.frombuffer(data, stored, count, offset) if count else np.zeros(0, stored)
    if code == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif code == "F16":
        array = array.astype(np.float32)
    elif code == "BOOL":
        array = array != 0
    elif not (array.dtype.isnative and array.flags.aligned):
        array = array.astype(stored.newbyteorder("="))
    array.flags.writeable = False
    return array


def checked_shape(sizes: Any) -> tuple[int, ...]:
    """Returns a shape that was read from a file, after checking that NumPy can hold it."""
    if len(sizes) > MAX_AXES or not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise WeightsError(f"a tensor's sizes must be at most {MAX_AXES} integers")
    if math.prod(max(size, 1) for size in sizes) >= 2**60:
        raise WeightsError("a tensor's sizes overflow")
    return tuple(sizes)


def checked_name(name: str) -> str:
    """Returns a tensor's name that was read from a file, after checking that it is printable."""
    if not name.isprintable() or len(name) > 500:
        raise WeightsError(f"a tensor's name is not readable text: {name[:60]!a}")
    return name


def _header(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Returns the header, and the position of the first byte after it."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise WeightsError(
            f"its header takes {size} bytes, the file has {len(data)} (probably truncated)"
        )
    if size > MAX_HEADER_BYTES:
        raise WeightsError(f"its header takes {size} bytes, more than {MAX_HEADER_BYTES}")
    try:
        header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):  # a WeightsError is a ValueError
        raise WeightsError("its header is not JSON, or names a tensor twice") from None
    if not isinstance(header, dict):
        raise WeightsError("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise WeightsError("its metadata are not strings by key")
    return header, 8 + size


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len(table := dict(pairs)) != len(pairs):
        raise WeightsError("a key appears twice")
    return table


def _entries(header: dict[str, Any], size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Returns dtype, shape and first byte of each tensor, after checking that they fill the data.

    Args:
        header: The header.
        size: Number of bytes after the header.
    """
    entries, spans = {}, []
    for name, entry in header.items():
        checked_name(name)
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise WeightsError(f"{name} needs dtype, shape and data_offsets")
        code, sizes, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in STORED:
            raise WeightsError(f"{name} has a dtype that NumPy lacks: {ascii(code)[:40]}")
        if not isinstance(sizes, list) or not isinstance(span, list) or len(span) != 2:
            raise WeightsError(f"shape and data_offsets of {name} must be lists")
        shape, (begin, end) = checked_shape(sizes), span
        if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= size:
            raise WeightsError(f"{name} does not lie inside the file (probably truncated)")
        if end - begin != math.prod(shape) * int(STORED[code][1]):
            raise WeightsError(f"shape and data_offsets of {name} disagree")
        entries[name] = (code, shape, begin)
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise WeightsError("its tensors overlap, or leave a gap")
        reached = end
    if reached != size:
        raise WeightsError(
            f"its tensors take {reached} bytes, the file has {size} (probably truncated)"
        )
    return entries

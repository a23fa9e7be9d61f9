"""Safetensors files: read without a copy, written whole or not at all."""

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

# How each type lies on disk. The formats without a NumPy type of their own come as float32.
STORED = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "BOOL": "u1"},
    **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"},
    **{"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
}
MAX_HEADER_BYTES = 2 << 20  # a thousand tensors take 0.1 MB
MAX_AXES = 32  # NumPy's, before version 2


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads every tensor of a safetensors file, in the order of the file's header.

    The arrays are read-only views of the file on disk, so that reading costs nothing until they
    are used; a file must not be overwritten in place meanwhile (`write_safetensors` does not).
    Half precisions (F16, BF16) come as float32, which holds each of their values exactly.

    Args:
      path: The file.

    Raises:
      WeightsError: If the file is missing, cut short or damaged, or holds a type without a NumPy
        equivalent.

    Reference:
      The format of https://github.com/huggingface/safetensors.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_safetensors(path, {"norm.bias": np.zeros(3, "float32")})
    >>> read_safetensors(path)
    {'norm.bias': array([0., 0., 0.], dtype=float32)}
    """
    data = mapped(path)
    try:
        header, start = _header(data)
        return {
            name: to_array(data, code, math.prod(shape), start + begin).reshape(shape)
            for name, (code, shape, begin) in _entries(header, len(data) - start).items()
        }
    except WeightsError as error:
        raise WeightsError(f"Not a sound safetensors file: {error}. Received: {path}") from None


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a safetensors file, which appears whole or not at all.

    Args:
      path: The file; its folder is made.
      tensors: Arrays of any layout by name, each in its own dtype.
      metadata: Text by key for the header, such as `{"format": "pt"}`.

    Raises:
      WeightsError: If a dtype has no place in the format, or the file cannot be written.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_safetensors(path, {"scale": np.ones(1, "float16")}, metadata={"format": "pt"})
    >>> path.stat().st_size
    106
    """
    # Wide types first, as the format's own library does, so that each tensor is aligned.
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    text = _header_text(arrays, metadata)
    try:
        with replacing(path) as part, part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    except OSError as error:
        raise WeightsError(f"Cannot write here: {error.strerror}. Received: {path}") from None


def _header_text(arrays: Mapping[str, Array], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, array in arrays.items():
        span = [position, position + array.nbytes]
        header[name] = {"dtype": _code(name, array), "shape": array.shape, "data_offsets": span}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _code(name: str, array: Array) -> str:
    codes = {value: code for code, value in STORED.items() if code != "BF16"}
    code = "BOOL" if array.dtype == bool else codes.get(array.dtype.str[1:])
    if code is None or name == "__metadata__":
        raise WeightsError(
            f"A safetensors file holds numbers of 8 to 64 bits, not under the name __metadata__. "
            f"Received: {name} of {array.dtype}"
        )
    return code


def mapped(path: str | os.PathLike[str]) -> mmap.mmap:
    """Maps a file into memory for reading.

    Raises:
      WeightsError: If there is no such file, or nothing in it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
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
    """Returns raw numbers as a flat read-only array: a view, or a copy where they must change.

    Args:
      data: A buffer that holds them; the caller has checked that it does.
      code: A key of `STORED`.
      count: How many.
      offset: Byte of the first.
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
    """Returns a shape read from a file, once it is known to be one that NumPy can hold."""
    if len(sizes) > MAX_AXES or not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise WeightsError(f"a tensor's sizes must be at most {MAX_AXES} whole numbers")
    if math.prod(max(size, 1) for size in sizes) >= 2**60:
        raise WeightsError("a tensor's sizes overflow")
    return tuple(sizes)


def checked_name(name: str) -> str:
    """Returns a tensor's name read from a file, once it is known to fit on a line."""
    if not name.isprintable() or len(name) > 500:
        raise WeightsError(f"a tensor's name is not readable text: {name[:60]!a}")
    return name


def _header(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Returns the header, and the byte at which the numbers begin."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise WeightsError(
            f"its header takes {size} bytes, the file has {len(data)} (probably cut short)"
        )
    if size > MAX_HEADER_BYTES:
        raise WeightsError(f"its header takes {size} bytes, more than {MAX_HEADER_BYTES}")
    try:
        header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):  # WeightsError is one as well
        raise WeightsError("its header is not JSON, or names a tensor twice") from None
    if not isinstance(header, dict):
        raise WeightsError("its header is not a table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise WeightsError("its metadata is not text by key")
    return header, 8 + size


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len(table := dict(pairs)) != len(pairs):
        raise WeightsError("a key appears twice")
    return table


def _entries(header: dict[str, Any], size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Returns dtype, shape and first byte of each tensor, once they fill the data exactly."""
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
            raise WeightsError(f"{name} does not lie inside the file (probably cut short)")
        if end - begin != math.prod(shape) * int(STORED[code][1]):
            raise WeightsError(f"shape and data_offsets of {name} disagree")
        entries[name] = (code, shape, begin)
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise WeightsError("its tensors overlap, or leave a hole")
        reached = end
    if reached != size:
        raise WeightsError(
            f"its tensors take {reached} bytes, the file has {size} (probably cut short)"
        )
    return entries

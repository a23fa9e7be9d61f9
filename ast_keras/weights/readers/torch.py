"""PyTorch files written by `torch.save`, read without PyTorch.

Such a file holds a pickle, which describes the tensors, and their numbers. A pickle is a program:
`torch_pickle` runs it in an interpreter that builds tensors and dictionaries only, and that imports
and calls nothing the file names.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.safetensors import Array, checked_name, map_file, to_array
from ast_keras.weights.readers.torch_pickle import MAX_PICKLE_BYTES, Interpreter, Storage, Tensor
from ast_keras.weights.readers.torch_zip import ZIP_MAGIC, zip_members, zip_read

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a file before PyTorch 1.6

# Keys under which training programs store the state dictionary, in order of preference.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net", "model_ema")

MAX_REUSE = 16  # limit of the size of all tensors, which may use the same storage, to the file's


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads the state dictionary of a PyTorch file without PyTorch.

    Both formats of `torch.save` are read: the zip file of PyTorch 1.6 and later, whose checksums
    are verified, and the earlier one, which has none. The state dictionary may be stored in a
    dictionary under one of `CONTAINERS`. Entries that are not tensors are dropped. The arrays are
    read-only views of the memory-mapped file where its layout allows. Half precision is converted
    to float32.

    Nothing that the file names is imported or called. A pickle that asks for anything but tensors,
    dictionaries, lists, strings and numbers is refused.

    Args:
        path: The file, usually `.pth`, `.pt` or `.bin`.

    Returns:
        The arrays by name, in the order of the state dictionary.

    Raises:
        WeightsError: If the file is missing, truncated, damaged or hostile, or if it holds no state
            dictionary.

    Reference:
        torch/serialization.py of PyTorch.

    Example:

    >>> import pathlib, pickle, tempfile, zipfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.pth")
    >>> with zipfile.ZipFile(path, "w") as file:  # PyTorch could be made to call a function
    ...     file.writestr("weights/data.pkl", pickle.dumps(print))
    >>> read_torch_file(path)
    Traceback (most recent call last):
    ...
    ast_keras.errors.WeightsError: Not a valid PyTorch file: this reader builds
    tensors and dictionaries only, and refuses builtins.print; in PyTorch, save ...
    """
    data = map_file(path)
    try:
        found, storage = _open_zip(data) if data[:4] == ZIP_MAGIC else _open_legacy(data)
        return _arrays(_state_dict(found), storage, MAX_REUSE * len(data))
    except WeightsError as error:
        raise WeightsError(f"Not a valid PyTorch file: {error}. Received: {path}") from None


def _state_dict(found: Any) -> dict[str, Tensor]:
    candidates = [found]
    if isinstance(found, dict):
        candidates = [found.get(key) for key in CONTAINERS] + candidates
    for candidate in candidates:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(v, Tensor)}
            if tensors and all(isinstance(key, str) for key in tensors):
                return tensors
    raise WeightsError(f"it holds no tensors by name, itself or under {', '.join(CONTAINERS)}")


def _arrays(
    tensors: dict[str, Tensor], storage: Callable[[Storage], Array], limit: int
) -> dict[str, Array]:
    flat: dict[str, Array] = {}  # every storage is read once, even if several tensors use it
    arrays: dict[str, Array] = {}
    for name, tensor in tensors.items():
        key = tensor.storage.key
        if key not in flat:
            flat[key] = storage(tensor.storage)
        numbers = flat[key]
        step = numbers.itemsize
        array: Array = np.ndarray(
            tensor.shape,
            numbers.dtype,
            numbers if numbers.size else None,
            tensor.offset * step if numbers.size else 0,
            [stride * step for stride in tensor.strides],
        )
        array.flags.writeable = False
        arrays[checked_name(name)] = array
        limit -= array.nbytes
        if limit < 0:
            raise WeightsError(f"its tensors take more than {MAX_REUSE} times the size of the file")
    return arrays


def _open_legacy(data: mmap.mmap) -> tuple[Any, Callable[[Storage], Array]]:
    """Opens a file before PyTorch 1.6: five pickles, then the storages.

    The pickles are the magic number, the version, facts about the machine, the saved object, and
    the keys of the storages.
    """
    if LEGACY_MAGIC.to_bytes(10, "little") not in data[:64]:
        raise WeightsError(
            "it begins with neither a zip file nor the magic number of older versions"
        )
    interpreter = Interpreter()
    stream = io.BytesIO(data[:MAX_PICKLE_BYTES])
    magic, version, _, found, keys = (interpreter.run(stream) for _ in range(5))
    if type(magic) is not int or magic != LEGACY_MAGIC or type(version) is not int:
        raise WeightsError("it does not begin with the magic number of torch.save")
    if version != 1001 or type(keys) is not list or not all(type(key) is str for key in keys):
        raise WeightsError("its list of storages is malformed")
    if len(keys) != len(interpreter.storages) or set(keys) != set(interpreter.storages):
        raise WeightsError("its list of storages does not match its tensors")
    position, starts = stream.tell(), {}
    for key in keys:
        storage = interpreter.storages[key]
        if data[position : position + 8] != storage.count.to_bytes(8, "little"):
            raise WeightsError(
                "a storage does not have the size that its tensors state (probably truncated)"
            )
        starts[key] = position + 8
        position += 8 + storage.nbytes
    if position != len(data):
        raise WeightsError(
            f"its storages end at byte {position} of {len(data)} (probably truncated)"
        )
    return found, lambda s: to_array(data, s.code, s.count, starts[s.key])


def _open_zip(data: mmap.mmap) -> tuple[Any, Callable[[Storage], Array]]:
    """Opens a zip file: one folder with data.pkl, byteorder, and data/KEY for every storage."""
    members = zip_members(data)
    folders = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1:
        first = ascii(next(iter(members), ""))
        raise WeightsError(f"its zip file has no data.pkl in a folder; its first member is {first}")
    (folder,) = folders

    def read(name: str) -> memoryview:
        return zip_read(data, members, f"{folder}/{name}")

    has_order = f"{folder}/byteorder" in members
    order = bytes(read("byteorder")) if has_order else b"little"
    if order not in (b"little", b"big"):
        raise WeightsError("its byteorder is neither little nor big")

    def storage(s: Storage) -> Array:
        numbers = read(f"data/{s.key}")
        if len(numbers) != s.nbytes:
            raise WeightsError(
                f"a storage takes {len(numbers)} bytes, its tensors state {s.nbytes}"
            )
        return to_array(numbers, s.code, s.count, big_endian=order == b"big")

    pickle = read("data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise WeightsError(f"its pickle takes {len(pickle)} bytes, more than {MAX_PICKLE_BYTES}")
    return Interpreter().run(io.BytesIO(pickle)), storage

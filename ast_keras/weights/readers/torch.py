"""Files of torch.save, read without PyTorch.

Such a file is a pickle, which describes the tensors, and their raw numbers. A pickle is a program;
`torch_pickle` runs the few instructions that torch.save writes, in an interpreter of its own that
knows tensors and dictionaries, and imports or calls nothing that the file names.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.safetensors import Array, checked_name, mapped, to_array
from ast_keras.weights.readers.torch_pickle import MAX_PICKLE_BYTES, Interpreter, Storage, Tensor
from ast_keras.weights.readers.torch_zip import ZIP_MAGIC, zip_members, zip_read

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first, before version 1.6

# Where training programs keep the state dictionary in a larger record, in order of preference.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net", "model_ema")

MAX_REUSE = 16  # bytes of all tensors, which may share storage, for each byte of the file


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads the state dictionary of a file of torch.save, in its order, without PyTorch.

    Both formats are read: the zip file of PyTorch 1.6 and later, whose checksums are verified, and
    the one before it, which has none. The state dictionary may lie in a record under one of
    `CONTAINERS`; entries that are not tensors are left out. The arrays are read-only views of the
    file on disk where its layout allows; half precisions come as float32.

    Nothing that the file names is imported or called: a pickle that asks for anything but tensors,
    dictionaries, lists, text and numbers is refused with the name of what it asked for.

    Args:
      path: The file, commonly `.pth`, `.pt` or `.bin`.

    Raises:
      WeightsError: If the file is missing, cut short, damaged or hostile, or holds no state
        dictionary.

    Reference:
      torch/serialization.py of PyTorch.

    Example (of a file that would run a function):

    >>> import pathlib, pickle, tempfile, zipfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "weights.pth")
    >>> with zipfile.ZipFile(path, "w") as file:
    ...     file.writestr("weights/data.pkl", pickle.dumps(print))
    >>> read_torch_file(path)
    Traceback (most recent call last):
    ...
    ast_keras.errors.WeightsError: Not a sound file of torch.save: this reader builds
    tensors and dictionaries only, and refuses builtins.print; in PyTorch, save ...
    """
    data = mapped(path)
    try:
        found, storage = _open_zip(data) if data[:4] == ZIP_MAGIC else _open_legacy(data)
        return _arrays(_state_dict(found), storage, MAX_REUSE * len(data))
    except WeightsError as error:
        raise WeightsError(f"Not a sound file of torch.save: {error}. Received: {path}") from None


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
    flat: dict[str, Array] = {}  # every storage is read once, however many tensors share it
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
            raise WeightsError(f"its tensors take {MAX_REUSE} times the size of the file")
    return arrays


# The two files around it.


def _open_legacy(data: mmap.mmap) -> tuple[Any, Callable[[Storage], Array]]:
    """Magic number, version, machine, object and storage keys as pickles; then the storages."""
    if LEGACY_MAGIC.to_bytes(10, "little") not in data[:64]:
        raise WeightsError("it begins with neither a zip file nor the mark of an older version")
    interpreter = Interpreter()
    stream = io.BytesIO(data[:MAX_PICKLE_BYTES])
    magic, version, _, found, keys = (interpreter.run(stream) for _ in range(5))
    if type(magic) is not int or magic != LEGACY_MAGIC or type(version) is not int:
        raise WeightsError("it begins with other than the mark of torch.save")
    if version != 1001 or type(keys) is not list or not all(type(key) is str for key in keys):
        raise WeightsError("its list of storages is malformed")
    if len(keys) != len(interpreter.storages) or set(keys) != set(interpreter.storages):
        raise WeightsError("its list of storages is not that of its tensors")
    position, starts = stream.tell(), {}
    for key in keys:
        storage = interpreter.storages[key]
        if data[position : position + 8] != storage.count.to_bytes(8, "little"):
            raise WeightsError(
                "a storage has another size than its tensors say (probably cut short)"
            )
        starts[key] = position + 8
        position += 8 + storage.nbytes
    if position != len(data):
        raise WeightsError(
            f"its storages end at byte {position} of {len(data)} (probably cut short)"
        )
    return found, lambda s: to_array(data, s.code, s.count, starts[s.key])


def _open_zip(data: mmap.mmap) -> tuple[Any, Callable[[Storage], Array]]:
    """One folder that holds data.pkl, byteorder, and data/KEY for every storage."""
    members = zip_members(data)
    folders = [name[:-9] for name in members if name.endswith(b"/data.pkl")]
    if len(folders) != 1:
        first = ascii(next(iter(members), b"").decode(errors="replace"))
        raise WeightsError(f"it is a zip file without a data.pkl in a folder; first holds {first}")
    (folder,) = folders

    def read(name: str) -> memoryview:
        return zip_read(data, members, folder + b"/" + name.encode())

    has_order = folder + b"/byteorder" in members
    order = bytes(read("byteorder")) if has_order else b"little"
    if order not in (b"little", b"big"):
        raise WeightsError("its byteorder is neither little nor big")

    def storage(s: Storage) -> Array:
        numbers = read(f"data/{s.key}")
        if len(numbers) != s.nbytes:
            raise WeightsError(f"a storage takes {len(numbers)} bytes, its tensors say {s.nbytes}")
        return to_array(numbers, s.code, s.count, big_endian=order == b"big")

    pickle = read("data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise WeightsError(f"its pickle takes {len(pickle)} bytes, more than {MAX_PICKLE_BYTES}")
    return Interpreter().run(io.BytesIO(pickle)), storage

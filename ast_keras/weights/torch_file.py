"""Files of torch.save, read without PyTorch.

Such a file is a pickle, which describes the tensors, and their raw numbers. A pickle is a program;
this module runs the few instructions that torch.save writes, in an interpreter of its own that
knows tensors and dictionaries, and imports or calls nothing that the file names.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import os
import pickletools
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ast_keras.weights.errors import WeightsError
from ast_keras.weights.safetensors_file import (
    STORED,
    Array,
    checked_name,
    checked_shape,
    mapped,
    to_array,
)

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first, before version 1.6

# Where training programs keep the state dictionary in a larger record, in order of preference.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net", "model_ema")

# A state dictionary of a thousand tensors takes 0.2 MB and 35,000 steps.
MAX_PICKLE_BYTES = 16 << 20
MAX_STEPS = 200_000
MAX_TEXT = 10_000  # characters, so that comparing two takes no time either
MAX_MEMBERS = 50_000
MAX_REUSE = 16  # bytes of all tensors, which may share storage, for each byte of the file

STORAGES = {
    **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16"},
    **{"BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32"},
    **{"ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL"},
}
# Stood in for by a mark that says nothing: what the settings of a run are kept in.
RECORDS = {
    ("argparse", "Namespace"),
    ("collections", "Counter"),
    ("torch", "Size"),
    ("torch", "device"),
}
BUILDERS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


@dataclasses.dataclass(frozen=True)
class _Named:
    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    code: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * int(STORED[self.code][1])


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _Record:
    pass


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
    ast_keras.weights.errors.WeightsError: Not a sound file of torch.save: this reader builds
    tensors and dictionaries only, and refuses builtins.print; in PyTorch, save ...
    """
    data = mapped(path)
    try:
        found, storage = _open_zip(data) if data[:4] == ZIP_MAGIC else _open_legacy(data)
        return _arrays(_state_dict(found), storage, MAX_REUSE * len(data))
    except WeightsError as error:
        raise WeightsError(f"Not a sound file of torch.save: {error}. Received: {path}") from None


def _state_dict(found: Any) -> dict[str, _Tensor]:
    candidates = [found]
    if isinstance(found, dict):
        candidates = [found.get(key) for key in CONTAINERS] + candidates
    for candidate in candidates:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(v, _Tensor)}
            if tensors and all(isinstance(key, str) for key in tensors):
                return tensors
    raise WeightsError(f"it holds no tensors by name, itself or under {', '.join(CONTAINERS)}")


def _arrays(
    tensors: dict[str, _Tensor], storage: Callable[[_Storage], Array], limit: int
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


# The pickle.

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Interpreter:
    """Runs pickles of one file: every step takes constant time, and a bounded number is taken.

    Only text and numbers, all of them small, are ever compared, hashed or printed, so that a
    pickle of tuples within tuples, each shared, costs no more than it takes on disk.
    """

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self.steps = 0

    def run(self, stream: io.BytesIO) -> Any:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.steps += 1
                if self.steps > MAX_STEPS:
                    raise WeightsError(f"its pickle takes more than {MAX_STEPS} steps")
                self._step(opcode.name, argument)
            (result,) = self.stack
            return result
        except WeightsError:
            raise
        except (ValueError, KeyError, IndexError):  # bad opcode, unset memo, empty stack
            raise WeightsError("its pickle is malformed or cut short") from None

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(_small(argument))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _SHORT_TUPLES:
            stack.append(tuple(self._pop(_SHORT_TUPLES[name])))
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(*self._pop(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(_call(*self._pop(2)))
        elif name == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._fill(name)

    def _fill(self, name: str) -> None:
        if name in ("SETITEM", "SETITEMS"):
            self._set_items(self._pop(2) if name == "SETITEM" else self._since_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif name == "BUILD":  # attributes, such as the `_metadata` of a state dictionary
            self._pop(1)
            self._top(dict, _Record)
        else:
            raise WeightsError(f"this reader refuses the pickle instruction {name}")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, *kinds: type) -> Any:
        if type(self.stack[-1]) not in kinds:
            raise WeightsError(f"its pickle fills a {type(self.stack[-1]).__name__.strip('_')}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # hashed at once
                raise WeightsError(f"its pickle has a {type(key).__name__} for a key")
            target[key] = value

    def _storage(self, identity: Any) -> _Storage:
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise WeightsError("its pickle refers to something other than a storage")
        label, kind, key, device, count = identity[:5]
        code = STORAGES.get(kind.name) if type(kind) is _Named else None
        texts = all(type(text) is str for text in (label, key, device))
        if not texts or label != "storage" or code is None or identity[5:] not in ((), (None,)):
            raise WeightsError("its pickle refers to something other than a storage")
        (count,) = checked_shape((count,))
        storage = self.storages.setdefault(key, _Storage(key, code, count))
        if storage != _Storage(key, code, count):
            raise WeightsError("its pickle describes one storage in two ways")
        return storage


def _small(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise WeightsError(f"its pickle holds a text of more than {MAX_TEXT} characters")
    if isinstance(value, int) and abs(value) >= 2**127:
        raise WeightsError("its pickle holds a number of more than 128 bits")
    return value


def _named(module: Any, name: Any) -> _Named:
    pair = (module, name)
    if type(module) is not str or type(name) is not str:
        raise WeightsError("its pickle names something by other than text")
    known = pair in BUILDERS or pair in RECORDS or (module == "torch" and name in STORAGES)
    if not known:
        raise WeightsError(
            f"this reader builds tensors and dictionaries only, and refuses "
            f"{ascii(f'{module}.{name}'[:80])[1:-1]}; in PyTorch, save model.state_dict() alone"
        )
    return _Named(module, name)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not _Named or type(arguments) is not tuple:
        raise WeightsError("its pickle calls what is no function")
    if (function.module, function.name) in RECORDS:
        return _Record()
    if function.name == "_rebuild_tensor_v2" and len(arguments) in (6, 7):
        return _tensor(*arguments[:4])
    if function.name == "_rebuild_parameter" and len(arguments) == 3:
        if type(arguments[0]) is _Tensor:
            return arguments[0]
    elif function.name == "OrderedDict" and not arguments:
        return {}
    raise WeightsError(f"its pickle calls {function.name} with other arguments than torch.save")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> _Tensor:
    kinds = [type(value) for value in (storage, shape, strides)]
    if kinds != [_Storage, tuple, tuple] or len(shape) != len(strides):
        raise WeightsError("its pickle describes a tensor by other than storage, sizes and strides")
    shape, (offset,) = checked_shape(shape), checked_shape((offset,))
    if any(type(stride) is not int or not 0 <= stride < 2**63 for stride in strides):
        raise WeightsError("a tensor's strides must be whole numbers, not negative")
    # Where there is one step to take, or none, the stride is not used, and may be anything.
    empty = 0 in shape
    strides = tuple(0 if n == 1 or empty else s for n, s in zip(shape, strides, strict=True))
    last = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and not empty and stride <= last:
            raise WeightsError("a tensor's elements overlap")
        last += (size - 1) * stride
    if offset + (0 if empty else last + 1) > storage.count:
        raise WeightsError("a tensor reaches outside its storage")
    return _Tensor(storage, offset, shape, strides)


# The two files around it.


def _open_legacy(data: mmap.mmap) -> tuple[Any, Callable[[_Storage], Array]]:
    """Magic number, version, machine, object and storage keys as pickles; then the storages."""
    if LEGACY_MAGIC.to_bytes(10, "little") not in data[:64]:
        raise WeightsError("it begins with neither a zip file nor the mark of an older version")
    interpreter = _Interpreter()
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


def _open_zip(data: mmap.mmap) -> tuple[Any, Callable[[_Storage], Array]]:
    """One folder that holds data.pkl, byteorder, and data/KEY for every storage."""
    members = _zip_members(data)
    folders = [name[:-9] for name in members if name.endswith(b"/data.pkl")]
    if len(folders) != 1:
        first = ascii(next(iter(members), b"").decode(errors="replace"))
        raise WeightsError(f"it is a zip file without a data.pkl in a folder; first holds {first}")
    (folder,) = folders

    def read(name: str) -> memoryview:
        return _zip_read(data, members, folder + b"/" + name.encode())

    has_order = folder + b"/byteorder" in members
    order = bytes(read("byteorder")) if has_order else b"little"
    if order not in (b"little", b"big"):
        raise WeightsError("its byteorder is neither little nor big")

    def storage(s: _Storage) -> Array:
        numbers = read(f"data/{s.key}")
        if len(numbers) != s.nbytes:
            raise WeightsError(f"a storage takes {len(numbers)} bytes, its tensors say {s.nbytes}")
        return to_array(numbers, s.code, s.count, big_endian=order == b"big")

    pickle = read("data.pkl")
    if len(pickle) > MAX_PICKLE_BYTES:
        raise WeightsError(f"its pickle takes {len(pickle)} bytes, more than {MAX_PICKLE_BYTES}")
    return _Interpreter().run(io.BytesIO(pickle)), storage


@dataclasses.dataclass(frozen=True)
class _Member:
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    begin: int  # of the header before the data


def _zip_read(data: mmap.mmap, members: dict[bytes, _Member], name: bytes) -> memoryview:
    member = members.get(name)
    shown = ascii(name.decode(errors="replace"))
    if member is None:
        raise WeightsError(f"its zip file lacks {shown}")
    if member.method or member.flags & 1 or member.packed != member.size:
        raise WeightsError(f"{shown} is compressed, which torch.save never does")
    begin = _data_begin(data, member)
    content = memoryview(data)[begin : begin + member.size]
    if zlib.crc32(content) != member.crc:
        raise WeightsError(f"{shown} is damaged: its checksum does not agree")
    return content


def _data_begin(data: mmap.mmap, member: _Member) -> int:
    head = data[member.begin : member.begin + 30]
    name_size, extra_size = struct.unpack("<2H", head[26:]) if len(head) == 30 else (0, 0)
    begin: int = member.begin + 30 + name_size + extra_size
    name = data[member.begin + 30 : member.begin + 30 + name_size]
    if head[:4] != ZIP_MAGIC or name != member.name:
        raise WeightsError("its zip directory does not agree with its members")
    return begin


def _zip_members(data: mmap.mmap) -> dict[bytes, _Member]:
    """Reads the zip directory; members lie before it, and share no byte."""
    position, end, count = _zip_directory(data)
    limit = position
    members: dict[bytes, _Member] = {}
    for _ in range(count):
        if position + 46 > end or data[position : position + 4] != b"PK\x01\x02":
            raise WeightsError("its zip directory is damaged")
        fields = struct.unpack("<6H3I5H2I", data[position + 4 : position + 46])
        flags, method, crc, packed, size = fields[2], fields[3], *fields[6:9]
        name_end = position + 46 + fields[9]
        name, extra = data[position + 46 : name_end], data[name_end : name_end + fields[10]]
        size, packed, begin = _zip64(extra, [size, packed, fields[15]])
        members[name] = _Member(name, flags, method, crc, packed, size, begin)
        position = name_end + fields[10] + fields[11]
    if position != end or len(members) != count:
        raise WeightsError("its zip directory is damaged, or names a member twice")
    reached = 0
    for member in sorted(members.values(), key=lambda m: m.begin):
        if member.begin < reached:
            raise WeightsError("members of its zip file overlap")
        reached = _data_begin(data, member) + member.packed
    if reached > limit:
        raise WeightsError("members of its zip file reach outside it")
    return members


def _zip64(extra: bytes, values: list[int]) -> list[int]:
    """Returns size, packed size and position, those too large for 32 bits from the extra field."""
    if 0xFFFFFFFF not in values:
        return values
    while len(extra) >= 4:
        kind, size = struct.unpack("<2H", extra[:4])
        if kind == 1:
            wide = extra[4 : 4 + size]
            if size != len(wide) or size < 8 * values.count(0xFFFFFFFF):
                break
            numbers = iter(struct.unpack(f"<{size // 8}Q", wide[: size // 8 * 8]))
            return [next(numbers) if value == 0xFFFFFFFF else value for value in values]
        extra = extra[4 + size :]
    raise WeightsError("its zip directory is damaged")


def _zip_directory(data: mmap.mmap) -> tuple[int, int, int]:
    """Returns where the zip directory begins and ends, and the number of its entries."""
    end = len(data) - 22
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise WeightsError("its zip directory is missing (probably cut short)")
    short = struct.unpack("<4H2IH", data[end + 4 :])  # disks, entries, size, begin, comment
    fields = short
    if end >= 76 and data[end - 20 : end - 16] == b"PK\x06\x07":  # a second one, of 64 bits
        (where,) = struct.unpack("<Q", data[end - 12 : end - 4])
        end -= 76
        if where != end or data[end : end + 4] != b"PK\x06\x06":
            raise WeightsError("its zip directory is damaged")
        fields = (*struct.unpack("<2I4Q", data[end + 16 : end + 56]), 0)
    widths = (*[0xFFFF] * 4, *[0xFFFFFFFF] * 2, 0)
    agree = all(a in (b, w) for a, b, w in zip(short, fields, widths, strict=True))
    first_disk, disk, here, count, size, begin, comment = fields
    if not agree or first_disk or disk or comment or here != count or begin + size != end:
        raise WeightsError("its zip directory is damaged")
    if count > MAX_MEMBERS:
        raise WeightsError(f"its zip file holds {count} members, more than {MAX_MEMBERS}")
    return begin, end, count

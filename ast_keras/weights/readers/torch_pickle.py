"""Interpreter for the pickles of `torch.save`: it builds tensors and dictionaries, nothing else.

A pickle is a program, and Python's own interpreter imports and calls whatever the program names.
This one knows the instructions that `torch.save` writes and the names in its allow-list.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.safetensors import STORED, checked_shape

# The state dictionary of a thousand tensors takes 0.2 MB and 35,000 steps.
MAX_PICKLE_BYTES = 16 << 20
MAX_STEPS = 200_000
MAX_TEXT = 10_000  # characters, so that comparing two strings takes little time

# Storage classes of PyTorch, and the types of safetensors that they correspond to.
STORAGES = {
    **{"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16"},
    **{"BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32"},
    **{"ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL"},
}
# Classes that hold the settings of a training run. Their objects become empty `Record`s.
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
class Named:
    """A class or function on the allow-list, by name. It is never imported."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors.

    Args:
        key: Name of the storage in the file.
        code: Type of its elements, a key of `safetensors.STORED`.
        count: Number of elements.
    """

    key: str
    code: str
    count: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.count * int(STORED[self.code][1])


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage.

    Args:
        storage: The storage.
        offset: Index of the first element.
        shape: Size of each axis.
        strides: Step of each axis, in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Record:
    """Stands for an object of `RECORDS`, whose content is dropped."""


class Interpreter:
    """Runs the pickles of one file in bounded time and memory.

    Every step takes constant time, and the number of steps is bounded. Only short strings and small
    numbers are compared, hashed or printed, so that tuples nested in shared tuples cost no more
    than they take on disk.

    Attributes:
        storages: The storages that the pickles describe, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._steps = 0

    def run(self, stream: io.BytesIO) -> Any:
        """Runs one pickle and returns its result.

        Args:
            stream: A stream at the beginning of the pickle; it is left at the end.

        Raises:
            WeightsError: If the pickle is malformed, too long, or asks for anything that is not on
                the allow-list.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._steps += 1
                if self._steps > MAX_STEPS:
                    raise WeightsError(f"its pickle takes more than {MAX_STEPS} steps")
                instruction = _INSTRUCTIONS.get(opcode.name)
                if instruction is None:
                    raise WeightsError(f"this reader refuses the pickle instruction {opcode.name}")
                instruction(self, argument)
            (result,) = self._stack
            return result
        except WeightsError:
            raise
        except (ValueError, KeyError, IndexError):  # unknown opcode or memo, empty stack
            raise WeightsError("its pickle is malformed or truncated") from None

    # --- Instructions: each takes the argument that follows the opcode ---

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # hashed in constant time
                raise WeightsError(f"its pickle has a {type(key).__name__} for a key")
            target[key] = value

    def _build(self, _: None) -> None:
        # Drops attributes, such as the `_metadata` of a state dictionary.
        self._pop(1)
        self._top(dict, Record)

    def _push_storage(self, identity: Any) -> None:
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise WeightsError("its pickle refers to something other than a storage")
        label, kind, key, device, count = identity[:5]
        code = STORAGES.get(kind.name) if type(kind) is Named else None
        texts = all(type(text) is str for text in (label, key, device))
        if not texts or label != "storage" or code is None or identity[5:] not in ((), (None,)):
            raise WeightsError("its pickle refers to something other than a storage")
        (count,) = checked_shape((count,))
        storage = self.storages.setdefault(key, Storage(key, code, count))
        if storage != Storage(key, code, count):
            raise WeightsError("its pickle describes one storage in two ways")
        self._stack.append(storage)

    # --- The stack ---

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())

    def _top(self, *kinds: type) -> Any:
        if type(self._stack[-1]) not in kinds:
            raise WeightsError(f"its pickle fills a {type(self._stack[-1]).__name__.strip('_')}")
        return self._stack[-1]


def _small(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise WeightsError(f"its pickle holds a string of more than {MAX_TEXT} characters")
    if isinstance(value, int) and abs(value) >= 2**127:
        raise WeightsError("its pickle holds a number of more than 128 bits")
    return value


def _named(module: Any, name: Any) -> Named:
    pair = (module, name)
    if type(module) is not str or type(name) is not str:
        raise WeightsError("its pickle names something that is not a string")
    known = pair in BUILDERS or pair in RECORDS or (module == "torch" and name in STORAGES)
    if not known:
        raise WeightsError(
            f"this reader builds tensors and dictionaries only, and refuses "
            f"{ascii(f'{module}.{name}'[:80])[1:-1]}; in PyTorch, save model.state_dict() alone"
        )
    return Named(module, name)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not Named or type(arguments) is not tuple:
        raise WeightsError("its pickle calls something that is not a function")
    if (function.module, function.name) in RECORDS:
        return Record()
    if function.name == "_rebuild_tensor_v2" and len(arguments) in (6, 7):
        return _tensor(*arguments[:4])
    if function.name == "_rebuild_parameter" and len(arguments) == 3:
        if type(arguments[0]) is Tensor:
            return arguments[0]
    elif function.name == "OrderedDict" and not arguments:
        return {}
    raise WeightsError(f"its pickle calls {function.name} with other arguments than torch.save")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    kinds = [type(value) for value in (storage, shape, strides)]
    if kinds != [Storage, tuple, tuple] or len(shape) != len(strides):
        raise WeightsError("its pickle describes a tensor by other than storage, sizes and strides")
    shape, (offset,) = checked_shape(shape), checked_shape((offset,))
    if any(type(stride) is not int or not 0 <= stride < 2**63 for stride in strides):
        raise WeightsError("a tensor's strides must be non-negative integers")
    # The stride of an axis of size 0 or 1 is never used and may be any number.
    empty = 0 in shape
    strides = tuple(0 if n == 1 or empty else s for n, s in zip(shape, strides, strict=True))
    last = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and not empty and stride <= last:
            raise WeightsError("a tensor's elements overlap")
        last += (size - 1) * stride
    if offset + (0 if empty else last + 1) > storage.count:
        raise WeightsError("a tensor extends beyond its storage")
    return Tensor(storage, offset, shape, strides)


_Instruction = Callable[[Interpreter, Any], None]


def _push_argument(machine: Interpreter, argument: Any) -> None:
    machine._push(_small(argument))


def _constant(value: Any) -> _Instruction:
    return lambda machine, _: machine._push(value)


def _ignore(machine: Interpreter, argument: Any) -> None:
    pass


# Instructions whose argument is the next value, by opcode name (see `pickletools`).
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
)
_INSTRUCTIONS: dict[str, _Instruction] = {
    **dict.fromkeys(_VALUES, _push_argument),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignore),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"), Interpreter._put),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), Interpreter._get),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "MARK": Interpreter._mark,
    "TUPLE": lambda machine, _: machine._tuple(machine._pop_to_mark()),
    "TUPLE1": lambda machine, _: machine._tuple(machine._pop(1)),
    "TUPLE2": lambda machine, _: machine._tuple(machine._pop(2)),
    "TUPLE3": lambda machine, _: machine._tuple(machine._pop(3)),
    "APPEND": lambda machine, _: machine._append(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "GLOBAL": lambda machine, names: machine._push(_named(*names.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine._push(_named(*machine._pop(2))),
    "REDUCE": lambda machine, _: machine._push(_call(*machine._pop(2))),
    "NEWOBJ": lambda machine, _: machine._push(_call(*machine._pop(2))),
    "BUILD": Interpreter._build,
    "BINPERSID": lambda machine, _: machine._push_storage(*machine._pop(1)),
}

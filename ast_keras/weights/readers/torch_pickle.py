"""Runs the pickles of torch.save, in an interpreter that knows tensors and dictionaries only."""

from __future__ import annotations

import dataclasses
import io
import pickletools
from typing import Any

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.safetensors import STORED, checked_shape

# A state dictionary of a thousand tensors takes 0.2 MB and 35,000 steps.
MAX_PICKLE_BYTES = 16 << 20
MAX_STEPS = 200_000
MAX_TEXT = 10_000  # characters, so that comparing two takes no time either

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
class Named:
    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    key: str
    code: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * int(STORED[self.code][1])


@dataclasses.dataclass(frozen=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class Record:
    pass


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Interpreter:
    """Runs pickles of one file: every step takes constant time, and a bounded number is taken.

    Only text and numbers, all of them small, are ever compared, hashed or printed, so that a
    pickle of tuples within tuples, each shared, costs no more than it takes on disk.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
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
            self._top(dict, Record)
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

    def _storage(self, identity: Any) -> Storage:
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
        return storage


def _small(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise WeightsError(f"its pickle holds a text of more than {MAX_TEXT} characters")
    if isinstance(value, int) and abs(value) >= 2**127:
        raise WeightsError("its pickle holds a number of more than 128 bits")
    return value


def _named(module: Any, name: Any) -> Named:
    pair = (module, name)
    if type(module) is not str or type(name) is not str:
        raise WeightsError("its pickle names something by other than text")
    known = pair in BUILDERS or pair in RECORDS or (module == "torch" and name in STORAGES)
    if not known:
        raise WeightsError(
            f"this reader builds tensors and dictionaries only, and refuses "
            f"{ascii(f'{module}.{name}'[:80])[1:-1]}; in PyTorch, save model.state_dict() alone"
        )
    return Named(module, name)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not Named or type(arguments) is not tuple:
        raise WeightsError("its pickle calls what is no function")
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
    return Tensor(storage, offset, shape, strides)

"""Damaged and hostile weights files: refused in one line, in little time and memory, and not run.

By default each file is read once, in bounded time, and once more in a process of limited memory.
The slow tests measure the memory of each file, and damage the stored files in more ways. This
module is longer than others, because each hostile file is listed once and goes through all tests.
"""

import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from ast_keras.errors import WeightsError
from ast_keras.weights.readers import read_tensors, torch_pickle
from ast_keras.weights.readers.safetensors import write_safetensors
from tests.unit.weights.test_torch import (
    SIX,
    items,
    named,
    number,
    storage,
    table,
    tensor,
    text,
    torch_legacy,
    torch_zip,
)

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens"
SECONDS = 1.0  # processor time; the slowest file takes half of it
MEGABYTES = 64  # four times the largest pickle that is read
# Number of flipped bits, truncations and swaps of each stored file.
DAMAGES = [(60, 20, 20), pytest.param((250, 60, 60), marks=pytest.mark.slow)]
SAMPLES = (
    "torch_types.pth",
    "torch_layouts.pth",
    "torch_run.pth",
    "torch_legacy_types.pth",
    "torch_legacy_layouts.pth",
    "torch_legacy_run.pth",
)


# --- Files made on purpose ---


def short_text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def global_by_stack(module, name):
    return short_text(module) + short_text(name) + b"\x93"


def sized(shape=(2, 3), strides=(3, 1), offset=0, **kwargs):
    return table(weight=tensor(shape, strides, offset, **kwargs))


def hostile_pickles(marker):
    """Returns pickle instructions that must be refused, by intent."""
    run = items(text(f"touch {marker}")) + b"R"
    code = items(text(f"open({str(marker)!r}, 'w')")) + b"R"
    good = table(weight=tensor())
    inside = "_rebuild_tensor_v2.__globals__"
    long_key = text("k" * 9_999)
    calls = {
        "os.system": named("os", "system") + run,
        "posix.system": named("posix", "system") + run,
        "subprocess": named("subprocess", "getoutput") + run,
        "eval": named("builtins", "eval") + code,
        "exec in python 2": named("__builtin__", "exec") + code,
        "os.system next to a model": table(weight=tensor(), x=named("os", "system") + run),
        "os.system by name alone": table(weight=tensor(), x=named("os", "system")),
        "attribute by dots": global_by_stack("torch._utils", inside),
        "module by dots": global_by_stack("torch", "os.system") + run,
        "split elsewhere": global_by_stack("torch._utils._rebuild_tensor_v2", "__globals__"),
        "attribute of a storage": global_by_stack("torch", "FloatStorage.__init__"),
        "name from a list": b"]" + short_text("system") + b"\x93",
        "getattr": named("builtins", "getattr"),
        "torch.load": named("torch.storage", "_load_from_bytes"),
        "numpy scalar": named("numpy.core.multiarray", "scalar"),
        "name of many lines": named("o\rs", "sys\ttem" * 1000),
        "inst": b"(" + text(f"touch {marker}") + b"ios\nsystem\n",
        "obj": b"(" + named("os", "system") + text(f"touch {marker}") + b"o",
        "extension": b"\x82\x01",
        "persistent name": b"Pname\n",
        "call of a storage": named("torch", "FloatStorage") + b")R",
        "call of a tensor": tensor() + b")R",
        "call without a tuple": named("collections", "OrderedDict") + b"]R",
        "attributes of a tensor": table(weight=tensor() + b"}b"),
        "filled tensor": tensor() + text("a") + tensor() + b"s",
    }
    sizes = {
        "long number": b"\x8b\xff\xff\xff\x7f",
        "negative number": b"\x8b\xff\xff\xff\xff",
        "number of many digits": b"I" + b"9" * 100_000 + b"\n",
        "long number that is there": table(x=b"\x8b" + struct.pack("<i", 10**6) + b"\1" * 10**6),
        "long text": b"X\xff\xff\xff\xff",
        "longer text": b"\x8d" + b"\xff" * 8,
        "long text that is there": table(x=text("x" * 10**6)),
        "long line": b"V" + b"x" * 10**6,
        "put far away": b"}r\xff\xff\xff\xff",
        "get from nowhere": b"h\x07",
        "laughs for a key": b"})" + b"r\0\0\0\0h\0\x86" * 100 + b"Ns",
        "list for a key": b"}]Ns",
        "itself for a key": b"}q\0h\0Ns",
        "deep lists": b"]" * 90_000 + b"a" * 89_999,
        "deep tuples": b")" + b"\x85" * 190_000,
        "many steps": b"N" * 1_000_000,
        "many marks": b"(" * 1_000_000,
        "many equal keys": b"}" + (long_key + b"Ns") * 1500,
        "deep frames": b"\x95" + b"\xff" * 8,
        "no end": good + b"N",
        "nothing": b"",
        "end of nothing": b"0",
        "odd dictionary": b"}(" + text("a") + b"u",
        "tuple of nothing": b"\x87",
        "mark of nothing": b"t",
        "unknown instruction": b"\xff",
    }
    return calls | sizes


def hostile_tensors():
    """Returns instructions of state dictionaries whose tensor contradicts itself or its storage."""
    big = 2**62
    return {
        "sizes larger than the storage": sized((3, 3)),
        "sizes of terabytes": sized((2**20, 2**20), (2**20, 1)),
        "sizes that overflow": sized((2**32, 2**32), (2**32, 1)),
        "sizes that overflow to nothing": sized((big, 4), (4, 1)),
        "sizes that overflow around zero": sized((0, big, big), (1, 1, 1)),
        "no step over a long way": sized((2**40,), (0,)),
        "no step": sized((6, 6), (0, 1)),
        "elements that overlap": sized((2, 2), (1, 1)),
        "negative size": sized((-2, 3)),
        "negative strides": sized((2, 3), (-3, 1), 3),
        "negative offset": sized(offset=-1),
        "offset behind the end": sized(offset=1),
        "offset that overflows": sized(offset=2**63 - 1),
        "offset of an empty tensor": sized((0,), (1,), offset=7),
        "strides that overflow": sized((2, 3), (2**62, 2**62)),
        "strides that come around": sized((2, 3), (2**63 + 3, 1)),
        "more strides than sizes": sized((6,), (1, 1)),
        "many axes": sized((1,) * 100, (1,) * 100),
        "fractions": sized((2.0, 3.0)),
        "truths": sized((True, True)),
        "texts": sized(("2", "3")),
        "storage of a negative size": sized(stored=storage(-6)),
        "storage that overflows": sized(stored=storage(2**62)),
        "storage larger than its data": sized((7,), (1,), stored=storage(7)),
        "storage of wider numbers": sized(stored=storage(6, "DoubleStorage")),
        "storage of an unknown kind": sized(stored=storage(6, "QUInt8Storage")),
        "storage that is missing": sized(stored=storage(6, key="1")),
        "storage above the folder": sized(stored=storage(6, key="../data/0")),
        "storage elsewhere": sized(stored=storage(6, key="/etc/passwd")),
        "storage without a name": sized(stored=storage(6, key="\0")),
        "storage that is none": sized(stored=b"N"),
        "storage of two kinds": table(a=tensor(), b=tensor(stored=storage(6, "IntStorage"))),
        "identity of other parts": sized(stored=items(text("module"), b"N") + b"Q"),
        "tensor of other parts": named("torch._utils", "_rebuild_tensor_v2") + b")R",
        "parameter of nothing": named("torch._utils", "_rebuild_parameter") + b"(NNNtR",
        "name of two lines": table(**{"a\nb": tensor()}),
        "name without end": table(**{"a" * 501: tensor()}),
    }


def hostile_zips():
    """Returns damaged zip files around a valid pickle."""
    good = torch_zip(table(weight=tensor()))
    large = tensor((10**5,), (1,), stored=storage(10**5))
    repeated = table(**{f"tensor{i}": large for i in range(50)})
    where, end = good.index(b"PK\x01\x02"), good.index(b"PK\x05\x06")
    entries = good[where:end].split(b"PK\x01\x02")[1:]

    def directory(*parts, count=None, before=good[:where]):
        raw = b"".join(b"PK\x01\x02" + part for part in parts)
        count = len(parts) if count is None else count
        tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(raw), where, 0)
        return before + raw + tail

    def changed(index, place, fmt, value):
        entry = bytearray(entries[index])
        struct.pack_into(fmt, entry, place - 4, value)
        return directory(*(bytes(entry) if i == index else e for i, e in enumerate(entries)))

    assert directory(*entries) == good
    deflated = torch_zip(b"]" * 20_000_000, method=zipfile.ZIP_DEFLATED)
    assert len(deflated) < 100_000
    return {
        "bomb of instructions": deflated,
        "compressed storage": torch_zip(sized(), method=zipfile.ZIP_DEFLATED),
        "declared size of gigabytes": changed(2, 24, "<I", 2**32 - 2),
        "declared size without its field": changed(2, 24, "<I", 2**32 - 1),
        "declared sizes behind the end": changed(2, 20, "<Q", 2**31 | 2**31 << 32),
        "members that overlap": changed(2, 42, "<I", 0),
        "member behind the end": changed(2, 42, "<I", 2**31),
        "encrypted member": changed(2, 8, "<H", 1),
        "another method": changed(2, 10, "<H", 12),
        "member on another disk": changed(2, 34, "<H", 1),
        "member named twice": directory(*entries, entries[2]),
        "pickle named twice": directory(entries[0], *entries),
        "member left out": directory(*entries[:2]),
        "no members": directory(),
        "more members than there are": directory(*entries, count=9),
        "fewer members than there are": directory(*entries, count=2),
        "tens of thousands of members": directory(*[entries[1]] * 60_000),
        "another name inside": good.replace(b"m/data/0", b"m/data/1", 1),
        "something before": b"PK\x03\x04" + good,
        "something behind": good + b"\0",
        "only the first half": good[: len(good) // 2],
        "only an end": b"PK\x03\x04" + good[end:],
        "neither order": torch_zip(sized(), order=b"middle"),
        "storage cut short": torch_zip(sized(), {"0": SIX.tobytes()[:-1]}),
        "storage too long": torch_zip(sized(), {"0": SIX.tobytes() + b"\0"}),
        "pickle of 17 MB": torch_zip(b"X" + struct.pack("<I", 17 << 20) + bytes(17 << 20)),
        "one storage many times": torch_zip(repeated, {"0": bytes(4 * 10**5)}),
    }


def hostile_legacy():
    good = torch_legacy(sized())
    keys = pickle.dumps(["0"], 2)
    count = good.index(keys) + len(keys)
    return {
        "another version": good.replace(number(1001), number(1002), 1),
        "mark inside a text": b"\x80\x02" + short_text("x" * 9) + good,
        "more numbers than there are": good[:count] + b"\7" + good[count + 1 :],
        "negative count": good[:count] + b"\xff" * 8 + good[count + 8 :],
        "cut in the numbers": good[:-1],
        "something behind": good + b"\0",
        "no storages": good[: good.index(keys)] + pickle.dumps([], 2),
        "another storage": torch_legacy(sized(), {"1": SIX}),
        "a storage too many": torch_legacy(sized(), {"0": SIX, "1": SIX}),
        "a storage twice": good.replace(keys, pickle.dumps(["0", "".join("0")] * 2, 2)),
        "keys that are no list": good.replace(keys, pickle.dumps("0", 2)),
        "keys that are no text": good.replace(keys, pickle.dumps([["0"]], 2)),
        "only the mark": good[: good.index(number(1001))],
    }


def hostile_safetensors():
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}

    def raw(header, size=None, data=bytes(24)):
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(header) if size is None else size
        return size.to_bytes(8, "little") + header + data

    def one(**changes):
        return raw({"weight": entry | changes})

    half = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    digits = b'{"w":{"dtype":"F32","shape":[%s],"data_offsets":[0,24]}}' % (b"9" * 10**6)
    twice = b'{"w":%s,"w":%s}' % ((json.dumps(entry).encode(),) * 2)
    return {
        "header of 2**63 bytes": raw({"weight": entry}, 2**63),
        "header of 2**64 bytes": raw({"weight": entry}, 2**64 - 1),
        "header larger than the file": raw({"weight": entry}, 200),
        "header of nothing": raw({"weight": entry}, 0),
        "header shorter than it is": raw({"weight": entry}, 20),
        "header of 3 MB": raw(b"{" + b" " * (3 << 20) + b"}"),
        "only a size": raw(b"{"),
        "deep header": raw(b'{"a":' * 100_000),
        "deeper header": raw(b'{"a":' + b"[" * 1_000_000),
        "header with many keys": raw(json.dumps({str(i): 0 for i in range(150_000)}).encode()),
        "list": raw([{"weight": entry}]),
        "tensor named twice": raw(twice),
        "entry of another kind": raw({"weight": [1]}),
        "entry without dtype": raw({"weight": {"shape": [6], "data_offsets": [0, 24]}}),
        "entry with more": one(stride=[1]),
        "unknown dtype": one(dtype="F31"),
        "dtype of another kind": one(dtype=["F32"]),
        "dtype without a NumPy type": one(dtype="F8_E4M3", shape=[24]),
        "wider dtype": one(dtype="F64"),
        "larger shape": one(shape=[3, 3]),
        "shape that overflows": one(shape=[2**32, 2**32]),
        "shape that comes around": one(shape=[2**62, 4, 6]),
        "shape that overflows around zero": one(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
        "negative shape": one(shape=[-2, -3]),
        "shape of fractions": one(shape=[2.0, 3.0]),
        "shape of truths": one(shape=[True, 6]),
        "shape of many axes": one(shape=[1] * 100_000 + [6]),
        "shape of many digits": raw(digits),
        "shape that is no number": raw(
            b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,24]}}'
        ),
        "offsets behind the end": one(shape=[9], data_offsets=[0, 36]),
        "offsets that overflow": one(data_offsets=[2**64 - 24, 2**64]),
        "offsets that wrap": one(data_offsets=[24, 0]),
        "negative offsets": one(data_offsets=[-24, 0]),
        "offsets of fractions": one(data_offsets=[0, 24.0]),
        "three offsets": one(data_offsets=[0, 12, 24]),
        "offsets of another kind": one(data_offsets={"0": 24}),
        "tensors that overlap": raw({"a": entry, "b": entry}),
        "tensors that overlap in part": raw({"a": entry, "b": half | {"data_offsets": [12, 24]}}),
        "hole before": raw({"a": half | {"data_offsets": [12, 24]}}),
        "hole behind": raw({"a": half}),
        "data too long": raw({"weight": entry}) + b"\0",
        "data too short": raw({"weight": entry})[:-1],
        "data missing": raw({"weight": entry}, data=b""),
        "metadata of another kind": raw({"__metadata__": {"a": 1}, "weight": entry}),
        "metadata that are a list": raw({"__metadata__": [], "weight": entry}),
        "name of two lines": raw({"a\nb": entry}),
        "name that is no text": raw(b'{"\\ud800":%s}' % json.dumps(entry).encode()),
        "name that is not UTF-8": raw(b'{"\xff":%s}' % json.dumps(entry).encode()),
    }


def hostile_files(marker):
    """Returns every file made on purpose, by format and intent."""
    makers = {"zip": torch_zip, "legacy": torch_legacy}
    lies = hostile_pickles(marker) | hostile_tensors()
    pickles = {
        f"{kind}: {key}": make(v) for kind, make in makers.items() for key, v in lies.items()
    }
    framed = {
        "zip": hostile_zips(),
        "legacy": hostile_legacy(),
        "safetensors": hostile_safetensors(),
    }
    return pickles | {f"{k}: {key}": v for k, group in framed.items() for key, v in group.items()}


def test_hostile_files_are_refused_in_one_line_and_in_time(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "weights"
    files = hostile_files(marker)
    assert len(files) >= 200
    for intent, raw in files.items():
        path.write_bytes(raw)
        start = time.process_time()
        with pytest.raises(WeightsError) as caught:
            pytest.fail(f"{intent}: accepted as {list(read_tensors(path))[:3]}")
        assert time.process_time() - start < SECONDS, intent
        message = str(caught.value)
        assert message.isprintable(), intent
        assert str(path) in message, intent
        assert len(message) < 300 + len(str(path)), intent
    assert not marker.exists()


@pytest.mark.slow
def test_hostile_files_take_little_memory(tmp_path):
    path = tmp_path / "weights"
    for intent, raw in hostile_files(tmp_path / "ran").items():
        path.write_bytes(raw)
        tracemalloc.start()
        with pytest.raises(WeightsError):
            read_tensors(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEGABYTES * 2**20, f"{intent}: {peak / 2**20:.0f} MB"


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("torch._utils", "a.os.system"), ("models", "AST")],
)
def test_refusal_names_what_was_refused(tmp_path, make, module, name):
    path = tmp_path / "weights.pth"
    path.write_bytes(make(named(module, name) + b")R"))
    with pytest.raises(WeightsError, match=rf"refuses {module}\.{name};"):
        read_tensors(path)


# --- Files damaged by accident ---


class Record:
    """Stands for an object that is not a tensor."""

    def __new__(cls, *_):
        return super().__new__(cls)


class Reference(pickle._Unpickler):  # the one in C allocates whatever size a file states
    """Python's own interpreter: where ours accepts a file, both must read the same."""

    def find_class(self, module, name):
        if module == "torch" and name in torch_pickle.STORAGES:
            return name
        builders = {
            "OrderedDict": dict,
            "_rebuild_tensor_v2": lambda *args: ("tensor", *args[:4]),
            "_rebuild_parameter": lambda data, *_: data,
        }
        return builders.get(name, Record)

    def persistent_load(self, identity):
        return identity

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: lambda self: self.stack.pop()}


def legacy_reference(path):
    """Reads a file before PyTorch 1.6 with Python's interpreter and plain loops."""
    with open(path, "rb") as file:
        *_, found, keys = (Reference(file).load() for _ in range(5))
        raw = file.read()
    start, flat, tensors = 0, {}, {}
    found = found.get("model", found)
    kinds = {value[1][2]: value[1][1] for value in everything(found)}
    kinds |= {key: "FloatStorage" for key in keys if key not in kinds}  # storages of the optimizer
    for key in keys:
        code = torch_pickle.STORAGES[kinds[key]]
        count = int.from_bytes(raw[start : start + 8], "little")
        end = start + 8 + count * int(torch_pickle.STORED[code][1])
        numbers = raw[start + 8 : end]
        if code == "BF16":
            pairs = [numbers[i : i + 2] for i in range(0, len(numbers), 2)]
            numbers, code = b"".join(b"\0\0" + pair for pair in pairs), "F32"
        dtype = "?" if code == "BOOL" else "<" + torch_pickle.STORED[code]
        array = np.frombuffer(numbers, dtype)
        flat[key], start = array.astype("f4") if code == "F16" else array, end
    for name, value in found.items():
        if isinstance(value, tuple) and value[:1] == ("tensor",):
            _, identity, offset, shape, strides = value
            places = [offset + np.dot(index, strides) for index in np.ndindex(*shape)]
            chosen = flat[identity[2]][np.array(places, int)] if places else []
            tensors[name] = np.array(chosen, flat[identity[2]].dtype).reshape(shape)
    return tensors


def everything(found):
    return [v for v in found.values() if isinstance(v, tuple) and v[:1] == ("tensor",)]


def mutations(raw, seed, flips, cuts, swaps):
    """Yields damaged copies: bits flipped, the end cut off, pieces zeroed, repeated or swapped."""
    rng = random.Random(seed)
    for _ in range(flips):
        damaged = bytearray(raw)
        damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        yield bytes(damaged)
    for _ in range(cuts):
        yield raw[: rng.randrange(len(raw))]
    for _ in range(swaps):
        a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
        size = rng.choice((1, 2, 4, 8, 30))
        x, y = raw[a : a + size], raw[b : b + size]
        kind = rng.randrange(3)
        if kind == 0:
            yield raw[:a] + bytes(len(x)) + raw[a + size :]
        elif kind == 1:
            yield raw[:a] + x + raw[a:]
        elif b - a > size:
            yield raw[:a] + y + raw[a + size : b] + x + raw[b + size :]


def identical(tensors, expected):
    return list(tensors) == list(expected) and all(
        tensors[k].dtype == expected[k].dtype
        and tensors[k].shape == expected[k].shape
        and tensors[k].tobytes() == expected[k].tobytes()
        for k in expected
    )


def read_damaged(path, raw):
    """Returns the tensors of a damaged file, or None if it is refused in one line and in time."""
    path.unlink(missing_ok=True)  # earlier arrays are views of the old file
    path.write_bytes(raw)
    tensors, message = None, "accepted"
    start = time.process_time()
    try:
        tensors = read_tensors(path)
    except WeightsError as error:
        message = str(error)
    assert time.process_time() - start < SECONDS
    assert message.isprintable()
    return tensors


@pytest.mark.parametrize("damages", DAMAGES)
@pytest.mark.parametrize("name", [n for n in SAMPLES if "legacy" not in n])
def test_damaged_zip_is_refused_or_reads_the_same(tmp_path, name, damages):
    raw = (GOLDENS / name).read_bytes()
    expected = read_tensors(GOLDENS / name)
    files = mutations(raw, name, *damages)
    results = [read_damaged(tmp_path / "w", damaged) for damaged in files]
    assert all(tensors is None or identical(tensors, expected) for tensors in results)
    # The others hit padding and dates.
    assert sum(tensors is None for tensors in results) > 0.4 * len(results)


def test_damaged_number_of_a_zip_is_refused(tmp_path):
    raw = (GOLDENS / "original_small.pth").read_bytes()
    rng = random.Random(1)
    with zipfile.ZipFile(GOLDENS / "original_small.pth") as archive:
        sizes = {i.header_offset: i.file_size for i in archive.infolist() if "/data/" in i.filename}
    for start, size in rng.sample([s for s in sizes.items() if s[1] > 100], 20):
        name_size, extra_size = struct.unpack("<2H", raw[start + 26 : start + 30])
        damaged = bytearray(raw)
        damaged[start + 30 + name_size + extra_size + rng.randrange(size)] ^= 1 << rng.randrange(8)
        (tmp_path / "w").write_bytes(damaged)
        with pytest.raises(WeightsError, match="checksum"):
            read_tensors(tmp_path / "w")


@pytest.mark.parametrize("damages", DAMAGES)
@pytest.mark.parametrize("name", [n for n in SAMPLES if "legacy" in n])
def test_damaged_legacy_file_is_refused_or_reads_as_python_reads_it(tmp_path, name, damages):
    raw = (GOLDENS / name).read_bytes()
    expected = read_tensors(GOLDENS / name)
    assert identical(expected, legacy_reference(GOLDENS / name))
    refused = 0
    for damaged in mutations(raw, name, *damages):
        tensors = read_damaged(tmp_path / "w", damaged)
        refused += tensors is None
        if tensors is not None and not identical(tensors, expected):
            assert len(damaged) == len(raw)
            assert identical(tensors, legacy_reference(tmp_path / "w"))
    # The others hit numbers and names, for which this format has no checksum.
    assert refused > 0.4 * sum(damages)


def test_damaged_number_keeps_names_shapes_and_dtypes(tmp_path):
    for name in ("torch_legacy_types.pth", "original_small.safetensors"):
        raw = (GOLDENS / name).read_bytes()
        expected = read_tensors(GOLDENS / name)
        damaged = bytearray(raw)
        damaged[-1] ^= 1
        tensors = read_damaged(tmp_path / "w", bytes(damaged))
        changed = [k for k in expected if tensors[k].tobytes() != expected[k].tobytes()]
        assert {k: (v.shape, v.dtype) for k, v in tensors.items()} == {
            k: (v.shape, v.dtype) for k, v in expected.items()
        }
        assert len(changed) == 1


@pytest.mark.parametrize(
    "damages", [(200, 50, 50), pytest.param((900, 100, 100), marks=pytest.mark.slow)]
)
def test_damaged_safetensors_are_refused_or_read_as_the_library_reads_them(tmp_path, damages):
    whole, path = tmp_path / "whole", tmp_path / "w"
    tensors = {f"layer.{i}.weight": np.arange(4 + i, dtype=t) for i, t in enumerate("dfilhbBH")}
    write_safetensors(whole, tensors, {"format": "pt"})
    expected, refused = read_tensors(whole), 0
    for damaged in mutations(whole.read_bytes(), 1, *damages):
        read = read_damaged(path, damaged)
        refused += read is None
        if read is not None and not identical(read, expected):
            library = safetensors.numpy.load_file(path)
            assert identical(dict(sorted(read.items())), dict(sorted(library.items())))
    assert refused > 0.45 * sum(damages)


CHILD = """
    import os, pathlib, resource, sys
    from ast_keras.errors import WeightsError
    from ast_keras.weights.readers import read_tensors
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (160 << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        try:
            read_tensors(path)
            print(path.name, "read")
        except WeightsError:
            print(path.name, "refused")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="uses the limits of Linux")
def test_process_survives_all_files_in_limited_memory(tmp_path):
    folder, marker = tmp_path / "files", tmp_path / "ran"
    folder.mkdir()
    files = list(hostile_files(marker).values())
    for index, raw in enumerate(files):
        (folder / f"hostile{index:04}").write_bytes(raw)
    for name in SAMPLES:
        for index, raw in enumerate(mutations((GOLDENS / name).read_bytes(), name, 50, 10, 10)):
            (folder / f"{name}{index:04}").write_bytes(raw)
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    outcomes = dict(line.split() for line in child.stdout.splitlines())
    assert sorted(outcomes) == sorted(os.listdir(folder))
    assert all(outcomes[f"hostile{index:04}"] == "refused" for index in range(len(files)))
    assert not marker.exists()

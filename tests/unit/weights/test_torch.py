"""PyTorch files read without PyTorch: real ones, and ones assembled here."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from ast_keras.errors import WeightsError
from ast_keras.weights.readers import torch
from ast_keras.weights.readers.safetensors import read_safetensors
from ast_keras.weights.readers.torch import read_torch_file
from tests.helpers.paths import GOLDENS

EXPECTED = json.loads((GOLDENS / "torch_files.json").read_text(encoding="utf-8"))

# --- Pickle instructions, as torch.save combines them ---


def text(value):
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def items(*parts):
    return b"(" + b"".join(parts) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(count, kind="FloatStorage", key="0"):
    parts = (text("storage"), named("torch", kind), text(key), text("cpu"), number(count))
    return items(*parts) + b"Q"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, stored=None):
    sizes = [items(*map(number, values)) for values in (shape, strides)]
    hooks = named("collections", "OrderedDict") + b")R"
    arguments = items(stored or storage(6), number(offset), *sizes, b"\x89", hooks)
    return named("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def table(**values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


SIX = np.arange(6, dtype="<f4")


def torch_zip(value, storages=None, order=b"little", method=zipfile.ZIP_STORED):
    """Returns a PyTorch file around the instructions of a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + value + b".")
        archive.writestr("m/byteorder", order)
        for key, raw in (storages or {"0": SIX.tobytes()}).items():
            archive.writestr(f"m/data/{key}", raw)
    return buffer.getvalue()


def torch_legacy(value, storages=None):
    """Returns the same in the format before PyTorch 1.6."""
    storages = storages or {"0": SIX}
    head = [torch.LEGACY_MAGIC, 1001, {"little_endian": True}]
    raw = b"".join(pickle.dumps(item, 2) for item in head) + b"\x80\x02" + value + b"."
    raw += pickle.dumps(list(storages), 2)
    return raw + b"".join(len(s).to_bytes(8, "little") + s.tobytes() for s in storages.values())


@pytest.fixture
def read(tmp_path):
    def read_bytes(raw):
        path = tmp_path / "weights.pth"
        path.write_bytes(raw)
        return read_torch_file(path)

    return read_bytes


@pytest.mark.parametrize("name", EXPECTED)
def test_file_is_read_as_pytorch_wrote_it(name):
    tensors = read_torch_file(GOLDENS / name)
    assert list(tensors) == list(EXPECTED[name])
    for key, expected in EXPECTED[name].items():
        assert tensors[key].dtype == expected["dtype"], key
        assert tensors[key].shape == tuple(expected["shape"]), key
        assert tensors[key].ravel().tolist() == expected["values"], key


def test_authors_file_equals_its_safetensors_bit_by_bit():
    tensors = read_torch_file(GOLDENS / "original_small.pth")
    expected = read_safetensors(GOLDENS / "original_small.safetensors")
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("make", [torch_zip, torch_legacy])
def test_assembled_file_is_read(read, make):
    tensors = read(make(table(weight=tensor(), column=tensor((2,), (3,), 1), epoch=number(3))))
    np.testing.assert_array_equal(tensors["weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["column"], [1, 4])
    assert list(tensors) == ["weight", "column"]


def test_arrays_are_read_only_and_share_what_the_file_shares(read):
    tensors = read(torch_zip(table(a=tensor(), b=tensor((3, 2), (1, 3)))))
    assert np.shares_memory(tensors["a"], tensors["b"])
    assert not any(array.flags.writeable for array in tensors.values())


def test_numbers_of_the_other_byte_order_are_converted(read):
    raw = torch_zip(table(weight=tensor()), {"0": SIX.astype(">f4").tobytes()}, b"big")
    array = read(raw)["weight"]
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, SIX.reshape(2, 3))


def test_large_zip_fields_are_read(read, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    raw = torch_zip(table(weight=tensor()))
    assert b"PK\x06\x06" in raw
    np.testing.assert_array_equal(read(raw)["weight"], SIX.reshape(2, 3))


@pytest.mark.parametrize("key", torch.CONTAINERS)
def test_state_dictionary_is_found_in_a_larger_dictionary(read, key):
    record = table(**{"loss": tensor(), key: table(weight=tensor()), "epoch": number(1)})
    assert list(read(torch_zip(record))) == ["weight"]


def test_weights_are_preferred_to_their_average(read):
    record = table(model_ema=table(averaged=tensor()), model=table(weight=tensor()))
    assert list(read(torch_zip(record))) == ["weight"]


@pytest.mark.parametrize("value", [b"}", b"]", tensor(), number(1), table(epoch=number(1))])
def test_file_without_named_tensors_is_refused(read, value):
    stored = {"0": SIX} if value == tensor() else {}
    raw = torch_zip(value, {key: array.tobytes() for key, array in stored.items()})
    with pytest.raises(WeightsError, match="no tensors by name"):
        read(raw)


def test_shared_tuples_within_tuples_are_harmless(read):
    doubled = b"r\x00\x00\x00\x00h\x00\x86"  # put, get, pair
    laughs = b")" + doubled * 100
    tensors = read(torch_zip(b"}(" + text("laughs") + laughs + text("weight") + tensor() + b"u"))
    assert list(tensors) == ["weight"]

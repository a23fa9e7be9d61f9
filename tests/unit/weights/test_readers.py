"""Safetensors files, and the format of weights files detected from their content."""

import json
import os
import shutil
import stat

import numpy as np
import pytest
import safetensors.numpy

from ast_keras.errors import WeightsError
from ast_keras.weights.readers import read_tensors
from ast_keras.weights.readers.safetensors import read_safetensors, write_safetensors
from tests.helpers.paths import GOLDENS

DTYPES = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES += ["float32", "float64", "bool"]


def some_tensors():
    tensors = {name: (np.arange(6) % 5).astype(name).reshape(2, 3) for name in DTYPES}
    tensors |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3), "float32")}
    return tensors | {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "ordered": np.arange(3, dtype=">i4"),
    }


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        native = np.asarray(array, array.dtype.newbyteorder("="))
        assert tensors[name].dtype == native.dtype, name
        assert tensors[name].shape == native.shape, name
        assert tensors[name].tobytes() == native.tobytes(), name


def test_written_safetensors_are_read_here_and_by_the_library(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    write_safetensors(path, some_tensors(), {"format": "pt"})
    assert_same(read_safetensors(path), some_tensors())
    assert_same(safetensors.numpy.load_file(path), some_tensors())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_safetensors_of_the_library_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {name: np.asarray(value, order="C") for name, value in some_tensors().items()}
    safetensors.numpy.save_file(tensors, path)
    assert_same(read_safetensors(path), tensors)


def test_half_precision_is_read_as_float32(tmp_path):
    path = tmp_path / "weights.safetensors"
    halves = np.array([0.1, -65504, 6e-8, np.inf], "float16")
    write_safetensors(path, {"half": halves})
    assert_same(read_safetensors(path), {"half": halves.astype("float32")})
    floats = np.array([1.5, -3e38, 1e-40, np.nan], "float32").view("uint32") >> 16
    header = b'{"b":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + floats.astype("<u2").tobytes())
    assert_same(read_safetensors(path), {"b": (floats << 16).view("float32")})


def test_safetensors_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_safetensors(tmp_path / "weights", {"a": np.zeros(2)})
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("plain", "weights")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("bad", [np.zeros(2, complex), np.array(["text"]), np.array([None])])
def test_write_rejects_other_dtypes_and_keeps_the_old_file(tmp_path, bad):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"old": np.ones(2)})
    with pytest.raises(WeightsError, match="Received: bad of"):
        write_safetensors(path, {"good": np.ones(2), "bad": bad})
    assert_same(read_safetensors(path), {"old": np.ones(2)})
    assert os.listdir(tmp_path) == [path.name]


def test_write_names_the_path_that_it_cannot_write_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"Cannot write here: .*Received: .*weights"):
        write_safetensors(tmp_path / "file" / "weights", {"a": np.ones(2)})


@pytest.mark.parametrize(
    "name", ["original_small.safetensors", "original_small.pth", "torch_legacy_types.pth"]
)
def test_format_is_detected_from_the_content(tmp_path, name):
    path = tmp_path / "weights.h5"
    shutil.copy(GOLDENS / name, path)
    assert_same(read_tensors(path), read_tensors(GOLDENS / name))


def test_checkpoint_is_read_by_prefix_file_and_folder(tmp_path):
    import tensorflow as tf

    saved = tf.train.Checkpoint(scale=tf.Variable([1.0, 2.0])).save(str(tmp_path / "ckpt"))
    for path in (saved, f"{saved}.index", f"{saved}.data-00000-of-00001", tmp_path):
        assert_same(read_tensors(path), {"scale": np.array([1.0, 2.0], "float32")})


@pytest.fixture
def folder(tmp_path):
    """Returns a function that fills a folder with files of one tensor, named after the file."""

    def fill(*names):
        for name in names:
            write_safetensors(tmp_path / name, {name: np.ones(2)})
        return tmp_path

    return fill


def test_folder_prefers_the_names_of_transformers(folder):
    assert list(read_tensors(folder("other.pth"))) == ["other.pth"]
    assert list(read_tensors(folder("pytorch_model.bin"))) == ["pytorch_model.bin"]
    assert list(read_tensors(folder("model.safetensors"))) == ["model.safetensors"]


def test_folder_rejects_several_candidates(folder):
    with pytest.raises(WeightsError, match=r"2 weights files \(a.pt, b.pth\): name one of them"):
        read_tensors(folder("b.pth", "a.pt"))


def test_folder_rejects_no_candidate(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"holds no weights: neither model.safetensors"):
        read_tensors(tmp_path)
    (tmp_path / "model.weights.h5").touch()
    with pytest.raises(WeightsError, match="from_preset"):
        read_tensors(tmp_path)


def write_index(folder, **places):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def test_weights_in_parts_are_joined(folder):
    path = folder("a", "b")
    index = write_index(path, a="a", b="b")
    expected = {"a": np.ones(2), "b": np.ones(2)}
    assert_same(read_tensors(path), expected)
    assert_same(read_tensors(index), expected)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": "a", "b": "a"}, "disagree on 1 tensors, such as 'b'"),
        ({"a": "b"}, "disagree on 2 tensors"),
        ({"a": "a", "c": "c"}, "No such file.*Received: .*c$"),
        ({"a": "../a"}, "files in the same folder"),
        ({"a": "/etc/passwd"}, "files in the same folder"),
        ({"a": ".."}, "files in the same folder|not a regular file"),
        ({"a": 1}, "files in the same folder"),
        ({}, "files in the same folder"),
    ],
)
def test_weights_in_parts_reject_a_false_index(folder, places, message):
    path = folder("a", "b")
    write_index(path, **places)
    with pytest.raises(WeightsError, match=message):
        read_tensors(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"weight_map": []}', "\xff"])
def test_weights_in_parts_reject_a_malformed_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"<html><body>404</body></html>", "web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "XML"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "from_preset"),
        (b"PK\x03\x04" + bytes(26) + b"metadata.json" + bytes(40), "named .keras"),
        (b"\x1f\x8b\x08" + bytes(40), "unpack"),
        (b"\x80\x02}q\x00.", "neither safetensors"),
        (b"{}", "neither safetensors"),
        (b"x", "neither safetensors"),
    ],
)
def test_other_files_are_rejected_with_advice(tmp_path, content, message):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    for place in (path, tmp_path):
        with pytest.raises(WeightsError, match=message) as caught:
            read_tensors(place)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file here. Received: .*absent"):
        read_tensors(tmp_path / "absent.pth")


def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_tensors, read_safetensors):
        with pytest.raises(WeightsError, match="not a regular file"):
            read(tmp_path / "pipe")

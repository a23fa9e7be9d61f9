"""A C program that loads and runs the SavedModel, without Python and without this package."""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.clients.conftest import EXACT

pytestmark = pytest.mark.clients

SOURCE = pathlib.Path(__file__).with_name("load_saved_model.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("the C program needs gcc, which is not installed")
    package = pathlib.Path(tf.__file__).parent
    target = tmp_path_factory.mktemp("c") / "load_saved_model"
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    command = ["gcc", "-O2", "-Wall", SOURCE, "-o", target, f"-I{package}/include", f"-L{package}"]
    done = subprocess.run(
        [*map(str, command), *libraries, f"-Wl,-rpath,{package}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def names(folder):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    tensors = (signature.inputs["waveform"].name, signature.outputs["scores"].name)
    assert all(name.endswith(":0") for name in tensors)
    return [name.removesuffix(":0") for name in tensors]


def test_c_program_gets_the_same_scores(program, served, clips, expected):
    command = [program, served, *names(served), *clips.shape, expected.shape[1]]
    done = subprocess.run(list(map(str, command)), input=clips.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found = np.frombuffer(done.stdout, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)

"""LiteRT: its two interfaces, and its GPU delegate on a software GPU."""

import ctypes.util
import os
import pathlib

import numpy as np
import pytest

from tests.clients.conftest import ERRORS

pytestmark = pytest.mark.clients

DRIVER = pathlib.Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@pytest.mark.parametrize("how", ["interpreter", "cpu"])
@pytest.mark.parametrize("quantize", ERRORS)
def test_litert_gets_keras_scores(quantize, how, run_client, tflite_files, clips_file, expected):
    found = run_client("run_litert.py", tflite_files / f"{quantize}.tflite", clips_file, how)
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=ERRORS[quantize])


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_gpu_delegate_runs_the_whole_graph(
    quantize, run_client, tflite_files, clips_file, expected, monkeypatch
):
    if not DRIVER.is_file() or not ctypes.util.find_library("vulkan"):
        pytest.skip(f"no Vulkan without a GPU: Debian's libvulkan1, and chromium for {DRIVER}")
    monkeypatch.setenv("VK_ICD_FILENAMES", os.fspath(DRIVER))
    found = run_client("run_litert.py", tflite_files / f"{quantize}.tflite", clips_file, "gpu")
    assert found["accelerated"], "an operator runs on the CPU"
    # The software GPU computes in float32, whatever the type of the weights.
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=max(ERRORS[quantize], 1e-3))

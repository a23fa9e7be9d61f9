"""Standard error of a command holds TensorFlow's errors, and not what every import prints."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.helpers.models import saved_classifier
from tests.helpers.paths import ROOT

# Lines of TensorFlow 2.16, 2.19 and 2.20 on machines without a GPU.
NOISE = [
    "2026-01-01 00:00:00.1: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:479] Unable "
    "to register cuFFT factory: Attempting to register factory for plugin cuFFT when one has "
    "already been registered",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "E0000 00:00:1.2 3 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register "
    "factory for plugin cuDNN when one has already been registered",
    "W0000 00:00:1.2 3 computation_placer.cc:177] computation placer already registered. Please "
    "check linkage and avoid linking the same target more than once.",
]
NO_DRIVER = (
    "2026-01-01 00:00:00.1: E external/local_xla/xla/stream_executor/cuda/cuda_platform.cc:51] "
    "failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)"
)
REAL = [
    "E0000 00:00:1.2 3 cuda_platform.cc:51] failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown",
    "E external/local_xla/xla/cuda_dnn.cc:466] Loaded runtime CuDNN library: 8.0 but source was "
    "compiled with: 9.3",
    "libfoo.so: no version information available",
]

COMMAND = """
import os, sys
from ast_keras.commands import tensorflow_import
from ast_keras.commands.runner import run_command
def main(options):
    import tensorflow
    os.write(2, b"after the import: Unable to register cuFFT factory\\n")
    return 0
sys.exit(run_command(main, None))
"""


def run_with(tensorflow, folder, **environment):
    """Runs a command that imports a stand-in of TensorFlow; returns status and standard error."""
    package = folder / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("import os, sys, types\n" + tensorflow)
    path = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, cwd=folder
    )
    return done.returncode, done.stderr.splitlines()


def printing(*lines):
    text = "".join(line + "\n" for line in lines)
    return f"os.write(2, {text.encode()!r})\n"


# Looking for GPUs is part of the import.
CONFIG = f"""
config = types.SimpleNamespace(
    list_physical_devices=lambda: os.write(2, {NO_DRIVER.encode() + bytes([10])!r})
)
"""


def test_only_known_lines_of_the_import_are_removed(tmp_path):
    mixed = [NOISE[0], REAL[0], *NOISE[1:], REAL[1]]
    code = printing(*mixed) + f"print({REAL[2]!r}, file=sys.stderr)\n" + CONFIG
    status, lines = run_with(code, tmp_path)
    assert status == 0
    after = "after the import: Unable to register cuFFT factory"
    expected = [*REAL, after]
    if os.path.exists("/dev/nvidiactl"):  # the missing driver is then a real error
        assert NO_DRIVER not in lines
    assert lines == expected


def test_all_lines_are_printed_on_request(tmp_path):
    status, lines = run_with(printing(*NOISE) + CONFIG, tmp_path, TF_CPP_MIN_LOG_LEVEL="0")
    assert status == 0
    assert lines[: len(NOISE)] == NOISE


def test_failing_import_prints_its_whole_text(tmp_path):
    code = printing(NOISE[0], REAL[0]) + "raise ImportError('libtensorflow.so: bad\\nfile')"
    status, lines = run_with(code, tmp_path)
    assert status == 1
    assert lines[0] == REAL[0]
    assert lines[1].startswith("Traceback")
    assert lines[-2:] == ["ImportError: libtensorflow.so: bad", "file"]


def test_crash_of_the_import_prints_its_last_words(tmp_path):
    last = "The TensorFlow library was compiled to use AVX instructions, but these aren't available"
    code = printing(NOISE[0]) + f"os.write(2, {last.encode()!r})\nos.abort()"
    status, lines = run_with(code, tmp_path)
    assert status < 0
    assert lines[0] == last


@pytest.mark.slow
def test_standard_error_of_a_healthy_command_is_empty(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.normal(size=16000) / 10, 16000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-m", "ast_keras.predict", "--model", saved_classifier(), "a.wav"],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("a.wav  (1.00 s)\n")

"""ONNX Runtime, on the file that tf2onnx converts from the SavedModel with the guide's command."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.clients.conftest import EXACT, ROOT, skip_or_fail

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def run():
    """Returns the function that runs Python with tf2onnx and ONNX Runtime, in a process."""
    folder = skip_or_fail("AST_KERAS_CLIENTS_ONNX", "ONNX")

    def run_python(*arguments):
        path = os.pathsep.join((str(folder), str(ROOT)))
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run_python


def test_onnx_runtime_gives_the_scores_of_keras(run, served, clips_file, expected, tmp_path):
    guide = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    command = re.search(r"python -m (tf2onnx\.convert (?:.*\\\n)*.*)", guide)[1].replace(
        "\\\n", " "
    )
    paths = {"served/sounds/1": served, "sounds.onnx": tmp_path / "sounds.onnx"}
    run("-m", *(paths.get(word, word) for word in command.split()))
    run(
        ROOT / "tests/clients/run_onnx.py",
        tmp_path / "found.npz",
        tmp_path / "sounds.onnx",
        clips_file,
    )
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=EXACT)

"""OpenVINO, which reads the SavedModel and the TFLite file without conversion."""

import numpy as np
import pytest

from tests.clients.conftest import EXACT

pytestmark = pytest.mark.clients


def test_openvino_reads_the_saved_model(run_client, served, clips_file, expected):
    found = run_client("run_openvino.py", served, clips_file)
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=EXACT)


def test_openvino_reads_the_tflite_file(run_client, tflite_files, clips_file, expected):
    found = run_client("run_openvino.py", tflite_files / "none.tflite", clips_file)
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=EXACT)

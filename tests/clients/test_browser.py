"""The demo page in a real browser: a file is dropped, and both runtimes classify it."""

import json
import shutil
import subprocess
import threading

import matplotlib.image
import numpy as np
import pytest

from ast_keras.audio.encoding import wav_bytes
from export.web.serve import make_server
from tests.clients.conftest import ERRORS, LABELS, ROOT, skip_or_fail

pytestmark = pytest.mark.clients

WEB = ROOT / "export" / "web"


@pytest.fixture(scope="module")
def chromium():
    skip_or_fail("AST_KERAS_CLIENTS_WEB", "the page's runtimes")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("the browser: chromium (Debian's package) is not installed")
    return path


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_dropped_file_is_classified(quantize, chromium, tflite_files, clips, expected, tmp_path):
    audio_file, picture = tmp_path / "clip 2.wav", tmp_path / "page.png"
    audio_file.write_bytes(wav_bytes(clips[2], 16000))
    with make_server(tflite_files / f"{quantize}.tflite", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["node", ROOT / "tests" / "clients" / "browse.mjs", WEB, chromium]
        command += [f"http://localhost:{server.server_port}/index.html", audio_file, picture]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180)
        server.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout)
    # Rounding the samples to 16 bits changes a score by less than 2e-3.
    error = max(ERRORS[quantize], 2e-3)
    for engine in ("litert", "mediapipe"):
        np.testing.assert_allclose(answers[engine]["scores"], expected[2], rtol=0, atol=error)
    best = np.argsort(-np.array(answers["mediapipe"]["scores"]))
    assert answers["labels"] == [LABELS[i] for i in best]
    assert "ms for 1.00 s of audio" in answers["status"]
    assert answers["refused"].startswith("note.wav cannot be classified")
    check_picture(matplotlib.image.imread(picture)[..., :3])


def check_picture(pixels):
    """Asserts that the spectrogram has many colours and that the bars of the scores are drawn."""
    assert pixels.shape == (700, 900, 3)
    canvas = pixels[300:420, 100:800]
    assert canvas.std() > 0.05, "the spectrogram is empty"
    assert len(np.unique(canvas.reshape(-1, 3), axis=0)) > 100
    bars = np.all(np.abs(pixels - np.array([0xB4, 0x47, 0x2E]) / 255) < 0.02, axis=-1)
    assert bars.sum() > 500, "no bar is drawn"

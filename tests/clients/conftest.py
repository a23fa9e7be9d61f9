"""One exported model for all clients: `make test-clients`."""

import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest

from ast_keras import from_preset
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.saved_model import export_saved_model
from ast_keras.export.tflite import export_tflite
from ast_keras.labels import LabelSet

ROOT = pathlib.Path(__file__).parents[2]
LABELS = ("dog", "rooster", "rain", "sea waves", "crying baby", "clock tick")
NUM_SAMPLES = 16000
# float32 sums of a few hundred terms in another order, float32 filterbank; seen 1e-6.
EXACT = 1e-5
# Largest allowed difference of a score from Keras's, by format: the tolerance of the export.
ERRORS = {"none": 1e-5, "float16": 1e-2, "int8": 0.1}


def skip_or_fail(variable, what):
    """Returns the value of a variable of `make test-clients`, or skips the test with the reason.

    Args:
        variable: Environment variable, a path or "missing: REASON".
        what: What the variable gives, in words.
    """
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{what}: {variable} is not set; run make test-clients")
    if value.startswith("missing:"):
        pytest.skip(f"{what} could not be installed{value.removeprefix('missing')}")
    return value


@pytest.fixture(scope="session")
def clients_python():
    return skip_or_fail("AST_KERAS_CLIENTS_PYTHON", "the clients' environment")


@pytest.fixture(scope="session")
def run_client(clients_python, tmp_path_factory):
    """Returns the function that runs a script of this folder in the clients' environment."""

    def run(script, *arguments, timeout=240):
        result = tmp_path_factory.mktemp("client") / "result.npz"
        command = [clients_python, ROOT / "tests" / "clients" / script, result, *arguments]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(result) as file:
            return dict(file)

    return run


@pytest.fixture(scope="session")
def model():
    keras.utils.set_random_seed(3)
    made = from_preset("ast_test", num_frames=98, labels=LabelSet(LABELS))
    # The scores of a random head are nearly the same for every sound.
    made.head.kernel.assign(60 * made.head.kernel)
    return made


@pytest.fixture(scope="session")
def clips(model):
    return comparison_clips(model, NUM_SAMPLES, num_clips=10)[0]


@pytest.fixture(scope="session")
def expected(model, clips):
    scores = keras_scores(model, clips)
    assert np.ptp(scores, axis=0).max() > 0.2, "the scores must differ between the clips"
    return scores


@pytest.fixture(scope="session")
def clips_file(clips, expected, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clips.npy"
    np.save(path, clips)
    return path


@pytest.fixture(scope="session")
def tflite_files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tflite")
    for quantize in ERRORS:
        export_tflite(model, folder / f"{quantize}.tflite", quantize=quantize)
    return folder


@pytest.fixture(scope="session")
def served(model, tmp_path_factory):
    path, _ = export_saved_model(model, tmp_path_factory.mktemp("served") / "ast", num_clips=20)
    return path

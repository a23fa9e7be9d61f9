"""A worker of gunicorn or multiprocessing that loads its model after the fork predicts."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

WORKER = """
import os
import numpy as np
import ast_keras
ast_keras.from_preset  # imports TensorFlow in the parent, as a module of the application does
pid = os.fork()
if pid == 0:
    model = ast_keras.from_preset("ast_test", num_classes=2, num_frames=98)
    scores = model.predict(np.zeros((1, 16000), "float32"), verbose=0)
    os._exit(0 if scores.shape == (1, 2) else 1)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_model_loaded_after_a_fork_predicts():
    subprocess.run([sys.executable, "-c", WORKER], check=True, timeout=120, cwd=ROOT)

"""One classifier, its clips and a fast substitute for the isolated run, for all export tests."""

import numpy as np
import pytest

from ast_keras.export import saved_model
from ast_keras.export.isolated_run import Measurement
from ast_keras.export.reference_clips import comparison_clips
from tests.unit.export.models import labelled_classifier


@pytest.fixture(scope="session")
def model():
    return labelled_classifier()


@pytest.fixture(scope="session")
def small_model():
    """One block of 32 frames: its graphs are traced in little time."""
    return labelled_classifier(num_layers=1, num_frames=32)


@pytest.fixture(scope="session")
def clips(model):
    return comparison_clips(model, 16000, num_clips=20)[0]


@pytest.fixture
def measure_in_process(monkeypatch):
    """Runs exported SavedModels in this process: a new one imports TensorFlow, which takes seconds.

    The isolated run itself is covered by `test_saved_model.py::exported`.
    """
    import tensorflow as tf

    def measure(kind, folder, waveforms, num_threads):
        serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
        scores = [serve(waveform=tf.constant(clip[None]))["scores"][0] for clip in waveforms]
        return Measurement(np.array(scores), 0.0, 0)

    monkeypatch.setattr(saved_model, "measure", measure)

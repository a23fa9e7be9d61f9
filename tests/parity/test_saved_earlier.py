"""Files saved by an earlier version of the package load, and give the same numbers.

`goldens/saved_0.1.0` was written before the modules moved into rooms. On another processor sums
round in another order: logits of about 1 agree within 2e-6 (seen here: 0 to 5e-7).
"""

import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import CausalASTBackbone, Run, from_preset, load_recipe
from ast_keras.training.progress import Progress

SAVED = pathlib.Path(__file__).parents[1] / "goldens" / "saved_0.1.0"
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def values():
    with np.load(SAVED / "values.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("kind", ["plain", "masked", "causal"])
def test_preset_folder_gives_the_stored_logits(kind, values):
    model = from_preset(SAVED / kind)
    assert isinstance(model.backbone, CausalASTBackbone) == (kind == "causal")
    inputs = {"waveform": values["waveform"]}
    if kind == "masked":
        inputs["lengths"] = values["lengths"]
    assert model.labels.names == ("bell", "dog", "rain")
    np.testing.assert_allclose(model(inputs), values[kind], rtol=0, atol=TOLERANCE)


def test_keras_file_gives_the_stored_logits_and_keeps_its_optimizer(values):
    model = keras.models.load_model(SAVED / "classifier.keras")
    np.testing.assert_allclose(model(values["waveform"]), values["plain"], rtol=0, atol=TOLERANCE)
    assert type(model.optimizer).__name__ == "AdamL2"


def test_saved_model_gives_the_stored_scores(values, tmp_path):
    with zipfile.ZipFile(SAVED / "saved_model.zip") as archive:
        archive.extractall(tmp_path)
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_lengths"]
    scores = served(
        waveform=tf.constant(values["waveform"]), lengths=tf.constant(values["lengths"])
    )["scores"]
    np.testing.assert_allclose(scores, values["served"], rtol=0, atol=TOLERANCE)


def test_stopped_run_is_resumed_to_the_stored_end(values, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(SAVED / "run", workdir)
    run = Run(load_recipe(workdir / "recipe.json"), workdir, progress=Progress(quiet=True))
    run.train()
    history = [[row["train_loss"], row["accuracy"]] for row in run.history]
    # Two Adam steps follow, each of which may turn a rounding of the gradient into 1e-5 of a rate.
    np.testing.assert_allclose(history, values["run_epochs"], rtol=1e-5)
    weights = np.concatenate([w.numpy().ravel() for w in run.model.trainable_weights])
    assert np.mean(np.abs(weights - values["run_weights"])) < 1e-6

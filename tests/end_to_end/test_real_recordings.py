"""The recipes learn from real recordings, in a few of their epochs."""

import os
import pathlib

import pytest

from ast_keras.recipe import load_recipe, override
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run

DATA = os.environ.get("AST_KERAS_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AST_KERAS_DATA names no folder with real recordings"),
]


# A third of what the first seed reached after so many epochs lies between it and the threshold.
@pytest.mark.parametrize(
    ("name", "folder", "epochs", "threshold"),
    [("esc10", "esc10", 20, 0.35), ("speech_commands_small", "sc9", 6, 0.4)],
)
def test_recipe_learns_from_real_recordings(name, folder, epochs, threshold, tmp_path):
    settings = [f"data.path={pathlib.Path(DATA) / folder}", f"train.num_epochs={epochs}"]
    run = Run(override(load_recipe(name), settings), tmp_path / name, progress=Progress(quiet=True))
    result = run.train()
    assert result.chosen["accuracy"] > threshold
    if result.test is not None:
        assert result.test["accuracy"] > threshold

"""Recipes learn from real recordings within a few of their epochs."""

import pathlib

import pytest

from ast_keras.recipe import load_recipe, override
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run
from tests.helpers.paths import DATA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AST_KERAS_DATA names no folder with real recordings"),
]


# The threshold is two thirds of the accuracy of the first seed after this number of epochs.
@pytest.mark.parametrize(
    ("name", "folder", "epochs", "threshold"),
    [("esc10", "esc10", 20, 0.35), ("speech_commands_small", "sc9", 6, 0.4)],
)
def test_recipe_learns_from_real_recordings(name, folder, epochs, threshold, tmp_path):
    settings = [f"data.path={pathlib.Path(DATA) / folder}", f"train.num_epochs={epochs}"]
    recipe = override(load_recipe(name), settings)
    result = Run.prepare(recipe, tmp_path / name, progress=Progress(quiet=True)).train()
    assert result.chosen["accuracy"] > threshold
    if result.test is not None:
        assert result.test["accuracy"] > threshold

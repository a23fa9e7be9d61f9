"""The recipe `finetune` with one or several labels per example, and the settings of the audit."""

import csv
import json

import keras
import numpy as np
import pytest
import soundfile

from ast_keras.audit import audit
from ast_keras.errors import RecipeError
from ast_keras.labels import LabelSet
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run

TONES_HZ = {"low": 400, "high": 3000}
# The start weights of this test are random: a higher rate, with a shorter run.
QUICK = ["optimizer.learning_rate=1e-3", "train.num_epochs=6", "train.batch_size=8"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    keras.utils.set_random_seed(1)
    labels = LabelSet(("a", "b", "c"))
    model = from_preset(
        "ast_test", labels=labels, num_frames=48, patch_size=(128, 2), strides=(128, 2)
    )
    folder = tmp_path_factory.mktemp("start") / "model"
    save_to_preset(model, folder)
    return folder


def write_data(folder, several):
    """Writes tones in noise: one per sound, or also both and none."""
    choices = [("low",), ("high",), ("low", "high"), ()] if several else [("low",), ("high",)]
    rng, rows = np.random.default_rng(1), []
    time = np.arange(8000) / 16000
    for index in range(48):
        labels = choices[index % len(choices)]
        sound = 0.02 * rng.standard_normal(8000)
        for label in labels:
            sound += 0.3 * np.sin(2 * np.pi * TONES_HZ[label] * rng.uniform(0.9, 1.1) * time)
        soundfile.write(folder / f"{index}.flac", sound, 16000)
        rows.append((f"{index}.flac", ";".join(labels), "train" if index < 32 else "test"))
    with open(folder / "sounds.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return str(folder / "sounds.csv")


@pytest.mark.parametrize(
    ("several", "loss", "metric"),
    [
        pytest.param(False, "categorical", "accuracy", marks=pytest.mark.slow),
        pytest.param(True, "binary", "mean_average_precision", marks=pytest.mark.slow),
    ],
    ids=["one label", "several labels"],
)
def test_finetune_follows_data_and_start(several, loss, metric, start, tmp_path):
    path = write_data(tmp_path, several)
    report = audit(path)
    assert report["problems"] == []
    advised = report["start"]["command"].split("--set ")[1:]
    settings = [*map(str.strip, advised), f"model.start={start}", *QUICK]
    recipe = override(load_recipe("finetune"), settings)
    result = Run.prepare(recipe, tmp_path / "run", progress=Progress(quiet=True)).train()
    assert result.metric == metric
    # Chance is 0.5, and this seed reaches 1.0 and 0.90. The threshold is half of the way to 1.
    assert result.last[metric] > 0.75
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (saved["train"]["loss"], saved["train"]["metric"]) == (loss, metric)
    assert (saved["model"]["size"], saved["model"]["strides"]) == ("ast_test", [128, 2])
    assert saved["frontend"]["mean"] == pytest.approx(
        report["log_mel"]["padded"]["mean"] if "mean=" in " ".join(advised) else -4.2677393
    )
    # The same recipe in the finished folder: it is resolved again, to the same settings.
    again = Run.prepare(recipe, tmp_path / "run", progress=Progress(quiet=True)).train()
    assert again.last == result.last
    assert from_preset(tmp_path / "run" / "model").score_activation == (
        "sigmoid" if several else "softmax"
    )


def test_finetune_from_random_weights_needs_a_size(tmp_path):
    path = write_data(tmp_path, several=False)
    recipe = override(load_recipe("finetune"), [f"data.path={path}", "model.start=random"])
    with pytest.raises(RecipeError, match=r"set model\.size to one of"):
        Run.prepare(recipe, tmp_path / "run", progress=Progress(quiet=True))
    assert not (tmp_path / "run").exists()

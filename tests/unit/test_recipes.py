"""Every recipe loads, survives --set, round-trips and takes a step."""

import csv
import dataclasses
import pathlib
import re

import numpy as np
import pytest
import soundfile

from ast_keras.progress import Progress
from ast_keras.recipe import list_recipes, load_recipe, override, recipes_dir
from ast_keras.run import Run

RECIPES = list_recipes()
# The recipe's own settings, on a model and for a time that a test can afford.
SHORT = [
    "model.size=ast_test",
    "model.start=random",
    "train.num_epochs=1",
    "train.batch_size=4",
]


def write(path, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    soundfile.write(path, rng.uniform(-0.3, 0.3, int(16000 * seconds)), 16000)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small folders in the layouts that the recipes read."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for fold in (1, 2):
        for target, category in ((0, "dog"), (1, "rooster")):
            for take in "AB":
                name = f"{fold}-{target}{fold}-{take}-{target}.wav"
                write(root / "esc50" / "audio" / name)
                rows.append((name, fold, target, category, True, f"{target}{fold}", take))
    table = root / "esc50" / "meta" / "esc50.csv"
    table.parent.mkdir()
    with open(table, "w", newline="") as file:
        header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
        csv.writer(file).writerows([header, *rows])
    words = root / "speech_commands"
    for word in ("go", "up"):
        for index in range(4):
            write(words / word / f"speaker{index}_nohash_0.wav")
    (words / "validation_list.txt").write_text(
        "go/speaker0_nohash_0.wav\nup/speaker0_nohash_0.wav\n"
    )
    (words / "testing_list.txt").write_text("go/speaker1_nohash_0.wav\nup/speaker1_nohash_0.wav\n")
    with open(root / "sounds.csv", "w", newline="") as file:
        rows = [(f"esc50/audio/{r[0]}", r[3], ("train", "test")[r[1] - 1]) for r in rows]
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return {
        "manifest": root / "sounds.csv",
        "esc50": words.parent / "esc50",
        "speech_commands": words,
    }


def test_every_recipe_file_is_listed():
    files = {p.stem for p in pathlib.Path(recipes_dir()).glob("*.py")}
    assert set(RECIPES) == files >= {"quickstart", "esc50", "esc10", "speech_commands"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_loads_is_set_and_round_trips(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    changed = override(recipe, ["train.batch_size=3", "seed=9"])
    assert (changed.train.batch_size, changed.seed) == (3, 9)
    assert dataclasses.replace(changed, seed=recipe.seed, train=recipe.train) == recipe
    path = tmp_path / "recipe.json"
    path.write_text(changed.to_json())
    assert load_recipe(path) == changed


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_how_and_what(name):
    text = (recipes_dir() / f"{name}.py").read_text()
    docstring = text.split('"""')[1]
    for part in (f"--recipe {name}", "Data:", "Expected:", "Cost:"):
        assert part in docstring, part
    assert name in (recipes_dir() / "README.md").read_text()


def test_no_page_waits_to_be_filled_in():
    pages = [*recipes_dir().glob("*"), recipes_dir().parent / "README.md"]
    for page in pages:
        if page.is_file():
            words = set(re.findall(r"\b[A-Z]{4,}\b", page.read_text(encoding="utf-8")))
            assert not words & {"EXPECTED", "MEASURED", "COST", "PLACEHOLDER"}, page.name


def test_own_class_folders_train_too(data, tmp_path):
    recipe = override(
        load_recipe("own_sounds"),
        [
            *SHORT,
            "data.kind=folders",
            f"data.path={data['speech_commands']}",
            "data.test_fraction=0.5",
        ],
    )
    result = Run(recipe, tmp_path / "run", progress=Progress(quiet=True)).train()
    assert np.isfinite(result.last["train_loss"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_for_a_moment(name, data, tmp_path):
    recipe = load_recipe(name)
    settings = list(SHORT)
    if recipe.data.kind == "synthetic":
        settings += ["data.num_train=12", "data.num_validation=10", "data.num_test=10"]
    else:
        settings.append(f"data.path={data[recipe.data.kind]}")
    result = Run(override(recipe, settings), tmp_path / name, progress=Progress(quiet=True)).train()
    assert result.last["epoch"] == 1
    assert np.isfinite(result.last["train_loss"])
    assert (tmp_path / name / "model" / "task.weights.h5").is_file()

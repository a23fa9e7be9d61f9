"""Every recipe documents itself and trains. Loading and `--set`: test_schema.py."""

import csv
import dataclasses
import pathlib
import re

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from ast_keras.errors import DatasetError
from ast_keras.layers.patch_embedding import patch_grid
from ast_keras.recipe import list_recipes, load_recipe, override, recipes_dir
from ast_keras.training import build
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run

RECIPES = list_recipes()
# Recipes that change one setting of another recipe: its name, the changed settings, and the number
# of patches (published for AudioSet: Gong et al. 2021, tables 5 and 6).
VARIATIONS = {
    f"audioset_balanced_{name}": ("audioset_balanced", changes, num_patches)
    for name, changes, num_patches in (
        ("scratch", {"model.start": "random"}, 1212),
        ("position_reinit", {"model.position_resize": "reinit"}, 1212),
        ("position_nearest", {"model.position_resize": "nearest"}, 1212),
        ("overlap_0", {"model.strides": (16, 16)}, 512),
        ("overlap_2", {"model.strides": (14, 14)}, 657),
        ("overlap_4", {"model.strides": (12, 12)}, 850),
        *(
            (
                f"patch_{shape[0]}x{shape[1]}",
                {"model.start": "random", "model.strides": shape} | changed,
                num_patches,
            )
            for shape, changed, num_patches in (
                ((128, 2), {"model.patch_size": (128, 2)}, 512),
                ((16, 16), {}, 512),
                ((32, 32), {"model.patch_size": (32, 32)}, 128),
            )
        ),
    )
} | {
    "esc50_imagenet": (
        "esc50",
        {"model.start": "deit_base_384", "optimizer.learning_rate": 1e-4},
        600,
    ),
    "speech_commands_audioset": ("speech_commands", {"model.start": "ast_base_audioset"}, 144),
}


def write(path, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    soundfile.write(path, rng.uniform(-0.3, 0.3, int(16000 * seconds)), 16000)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small data sets in the layouts that the recipes read."""
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
    audioset = root / "audioset"
    for name, clips in {"balanced_train": 4, "unbalanced_train": 2, "eval": 4}.items():
        lines = ["# YTID, start_seconds, end_seconds, positive_labels"]
        for index in range(clips):
            ytid = f"{name[:8]:-<10}{index}"
            write(audioset / f"Y{ytid}.wav")
            lines.append(
                f'{ytid}, 0.000, 10.000, "{("/m/09x0r", "/m/05zppz,/m/02zsn")[index % 2]}"'
            )
        (audioset / f"{name}_segments.csv").write_text("\n".join(lines) + "\n")
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
        "audioset": audioset,
        "manifest": root / "sounds.csv",
        "esc50": words.parent / "esc50",
        "speech_commands": words,
    }


def test_every_recipe_file_is_listed():
    files = {p.stem for p in pathlib.Path(recipes_dir()).glob("*.py")}
    assert set(RECIPES) == files >= {"quickstart", "esc50", "esc10", "speech_commands"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_documents_command_data_result_and_cost(name):
    text = (recipes_dir() / f"{name}.py").read_text()
    docstring = text.split('"""')[1]
    for part in (f"--recipe {name}", "Data:", "Expected:", "Cost:"):
        assert part in docstring, part
    assert name in (recipes_dir() / "README.md").read_text()


def test_no_placeholder_is_left():
    pages = [*recipes_dir().glob("*"), recipes_dir().parent / "README.md"]
    for page in pages:
        if page.is_file():
            words = set(re.findall(r"\b[A-Z]{4,}\b", page.read_text(encoding="utf-8")))
            assert not words & {"EXPECTED", "MEASURED", "COST", "PLACEHOLDER"}, page.name


@pytest.mark.parametrize("name", ["esc50", "esc50_imagenet", "speech_commands"])
def test_public_data_needs_no_path(name, data, monkeypatch):
    recipe = load_recipe(name)
    assert recipe.data.path is None
    monkeypatch.setenv("AST_KERAS_DATA_DIR", str(data["esc50"].parent))
    dataset = build.make_dataset(recipe)
    assert dataset.split("train").source_name(0).startswith(str(data[recipe.data.kind]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("esc50", r"Put https://.*/ESC-50/archive/master.zip \(645 MB\) at .*/ESC-50-master.zip"),
        ("speech_commands", r"Put http://.*/speech_commands_v0.02.tar.gz \(2429 MB\) at"),
        ("audioset_balanced", r"cannot be downloaded.*Set data.path to your copy"),
    ],
)
def test_public_data_that_cannot_be_downloaded_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_DATA_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match=message):
        build.make_dataset(load_recipe(name))


def shortened(name, data):
    """Returns a recipe on little data, with a tiny model, for one epoch of one or two steps."""
    recipe = load_recipe(name)
    settings = ["model.size=ast_test", "model.num_layers=1", "model.start=random"]
    settings += ["train.num_epochs=1", "train.batch_size=4"]
    if recipe.train.keep_epochs is not None:
        settings.append("train.keep_epochs=1,1")
    if recipe.data.kind == "synthetic":
        settings += ["data.num_train=12", "data.num_validation=10", "data.num_test=10"]
    else:
        kind = "manifest" if recipe.data.kind == "auto" else recipe.data.kind
        settings.append(f"data.path={data[kind]}")
    return override(recipe, settings)


def test_own_sounds_reads_class_folders(data):
    settings = ["data.kind=folders", f"data.path={data['speech_commands']}"]  # has lists, too
    recipe = override(load_recipe("own_sounds"), [*settings, "data.test_fraction=0.5"])
    dataset = build.make_dataset(recipe)
    assert dataset.labels.names == ("go", "up")
    batch = build.make_pipeline(recipe, dataset, "train", training=True).batch(0)
    assert batch["waveform"].shape == (16, 80000)
    assert np.isfinite(batch["waveform"]).all()


# One recipe of the paper and one that follows data and start weights. The others differ from these
# and from the quickstart, which the tests of training use, in numbers that have no effect here.
FAST = {"audioset_balanced", "finetune"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
        for name in sorted(set(RECIPES) - set(VARIATIONS))
    ],
)
def test_recipe_trains_for_a_moment(name, data, tmp_path):
    recipe = shortened(name, data)
    if recipe.model.strides in ((10, 10), None):
        # 30 patches instead of up to 1212, over the whole spectrogram.
        recipe = override(recipe, ["model.strides=56,100"])
    result = Run.prepare(recipe, tmp_path / name, progress=Progress(quiet=True)).train()
    assert result.last["epoch"] == 1
    assert np.isfinite(result.last["train_loss"])
    assert (tmp_path / name / "model" / "task.weights.h5").is_file()


@pytest.mark.parametrize("name", VARIATIONS)
def test_variation_changes_one_setting(name):
    base, changes, num_patches = VARIATIONS[name]
    base, recipe = load_recipe(base), load_recipe(name)
    differing = {
        f"{group}.{field}": value
        for group, fields in dataclasses.asdict(recipe).items()
        if isinstance(fields, dict)
        for field, value in fields.items()
        if value != getattr(getattr(base, group), field)
    }
    assert differing == changes
    assert recipe.seed == base.seed
    frontend, model = recipe.frontend, recipe.model
    grid = patch_grid(frontend.num_mel_bins, frontend.num_frames, model.patch_size, model.strides)
    assert np.prod(grid) == num_patches


@pytest.mark.parametrize(
    "name",
    [
        # The fewest patches, and a patch size of its own.
        pytest.param(n, marks=[] if n == "audioset_balanced_patch_32x32" else [pytest.mark.slow])
        for n in VARIATIONS
    ],
)
def test_variation_takes_a_step(name, data):
    recipe = shortened(name, data)
    dataset = build.make_dataset(recipe)
    pipeline = build.make_pipeline(recipe, dataset, "train", training=True)
    model = build.make_model(recipe, dataset.labels)
    assert np.prod(model.backbone.grid) == VARIATIONS[name][2]
    batch = pipeline.batch(0)
    with tf.GradientTape() as tape:
        logits = model(
            batch["waveform"], training=True, lengths=batch["lengths"], seeds=batch["seeds"]
        )
        loss = tf.reduce_sum(build.make_loss(recipe)(batch["target"], logits))
    gradients = tape.gradient(loss, model.trainable_variables)
    norms = [float(tf.norm(gradient)) for gradient in gradients]
    assert min(norms) > 0
    assert np.isfinite(norms).all()

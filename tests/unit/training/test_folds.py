"""Cross-validation: folds equal runs alone, resume to the bit, and are reported together."""

import collections
import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ast_keras import audio, train
from ast_keras.commands.flags import parse_options
from ast_keras.data.dataset import fingerprint
from ast_keras.errors import DatasetError, RecipeError
from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.reports.fold_report import read_fold_scores
from ast_keras.training import folds
from ast_keras.training.build import make_dataset, make_pipeline
from ast_keras.training.folds import run_folds, with_fold
from ast_keras.training.progress import Progress
from tests.helpers.errors import error_of
from tests.helpers.html import Page, assert_self_contained
from tests.helpers.paths import ROOT

CLASSES = ((0, "dog"), (1, "rooster"), (10, "rain"))
SCORES = ("accuracy", "mean_average_precision", "mean_auc", "d_prime")
# Every source of randomness is on: state that leaks from one fold into the next changes weights.
SMALL = [
    "model.size=ast_test",
    "model.num_layers=1",
    "model.patch_size=16,16",
    "model.strides=10,10",
    "model.dropout=0.1",
    "model.drop_path=0.1",
    "frontend.num_frames=32",
    "data.clip_seconds=0.3",
    "data.num_workers=1",
    "augment.mixup_rate=0.5",
    "augment.noise=true",
    "augment.roll_frames=3",
    "train.num_epochs=2",
    "train.batch_size=6",
    "train.steps_per_loop=1",
    "train.keep_epochs=1,2",
    "train.final_model=average",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in the layout of ESC-50, with two folds."""
    root = tmp_path_factory.mktemp("esc50")
    (root / "audio").mkdir()
    (root / "meta").mkdir()
    rng, rows = np.random.default_rng(1), []
    for fold in (1, 2):
        for target, category in CLASSES:
            for take in "ABC":
                name = f"{fold}-{target}{fold}-{take}-{target}.wav"
                tone = np.sin(np.arange(4800) * (target + 1) / 10 + rng.uniform(0, 6))
                noise = rng.normal(size=4800)
                soundfile.write(root / "audio" / name, 0.2 * tone + 0.05 * noise, 16000)
                rows.append((name, fold, target, category, True, f"{target}{fold}", take))
    with open(root / "meta" / "esc50.csv", "w", newline="") as file:
        header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
        csv.writer(file).writerows([header, *rows])
    return root


@pytest.fixture(scope="module")
def recipe(data):
    return override(load_recipe("esc10"), [*SMALL, f"data.path={data}"])


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Fold 2 trained alone and first, and fold 1 after it."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert list(run_folds(recipe, workdir, [2], Progress(quiet=True)).histories) == [2]
    return workdir, run_folds(recipe, workdir, [1, 1], Progress(quiet=True))


def assert_same_models(found, expected):
    for folder in ("model", "last", "epochs/01"):
        ours, theirs = (from_preset(run / folder).get_weights() for run in (found, expected))
        for first, second in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(first, second, err_msg=folder)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_file_is_decoded_once_for_all_folds(recipe, data, monkeypatch):
    decoded, load = collections.Counter(), audio.load_audio

    def count(path, rate, **settings):
        decoded[os.path.basename(path)] += 1
        return load(path, rate, **settings)

    monkeypatch.setattr("ast_keras.audio.loading.load_audio", count)
    for number, dataset in folds.read_folds(recipe, [1, 2]).items():
        plain = make_dataset(with_fold(recipe, number))
        assert fingerprint(dataset) == fingerprint(plain)
        for name, split in dataset.splits.items():
            pipeline = make_pipeline(recipe, dataset, name)
            for index, path in enumerate(plain.split(name).sources):
                expected = load(path, 16000)[: pipeline.clip_samples]
                np.testing.assert_array_equal(pipeline.waveform(index), expected)
                assert split.source_name(index) == path
    assert decoded == {name: 1 for name in os.listdir(data / "audio")}


def test_full_cache_keeps_the_paths(recipe):
    full = override(recipe, ["data.cache_megabytes=0"])
    dataset = folds.read_folds(full, [1])[1]
    assert isinstance(dataset.split("train").sources[0], str)


@pytest.mark.slow
def test_report_holds_each_fold_mean_and_spread(whole):
    workdir, _ = whole
    report = json.loads((workdir / "folds.json").read_text())
    epochs = {n: rows_of(workdir / f"fold_{n}" / "epochs.csv") for n in "12"}
    means = [statistics.fmean(float(epochs[n][e]["accuracy"]) for n in "12") for e in (0, 1)]
    best = means.index(max(means))
    averages = {
        n: json.loads((workdir / f"fold_{n}" / "evaluation.json").read_text())["average"]
        for n in "12"
    }
    wanted = {
        "best mean": (best + 1, {n: epochs[n][best] for n in "12"}),
        "last epoch": (2, {n: epochs[n][1] for n in "12"}),
        "averaged": ("1-2", averages),
    }
    assert {rule["rule"]: rule["epoch"] for rule in report["rules"]} == {
        name: epoch for name, (epoch, _) in wanted.items()
    }
    assert [row["accuracy"] for row in report["mean_by_epoch"]] == means
    assert "test folds, which is how the authors choose it" in report["rules"][0]["chosen_on"]
    written = {(r["rule"], r["fold"]): r for r in rows_of(workdir / "folds.csv")}
    for rule in report["rules"]:
        _, rows = wanted[rule["rule"]]
        for score in SCORES:
            values = [float(rows[n][score]) for n in "12"]
            found = [rule["folds"]["1"][score], rule["folds"]["2"][score]]
            found += [rule["mean"][score], rule["spread"][score]]
            expected = [*values, np.mean(values), np.std(values, ddof=1)]
            # Sums of two numbers in another order.
            np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
            assert [
                float(written[rule["rule"], name][score]) for name in ("1", "2", "mean", "spread")
            ] == found


@pytest.mark.slow
def test_table_names_folds_mean_and_spread(whole):
    workdir, scores = whole
    lines = scores.table().splitlines()
    assert lines[0].split() == ["accuracy", "epoch", "fold", "1", "fold", "2", "mean", "spread"]
    (last,) = [line for line in lines if line.startswith("last epoch")]
    report = json.loads((workdir / "folds.json").read_text())["rules"][1]
    values = [row["accuracy"] for row in report["folds"].values()]
    values += [report["mean"]["accuracy"], report["spread"]["accuracy"]]
    assert last.split()[2:] == ["2", *(f"{value:.4f}" for value in values)]
    assert "test folds, which is how the authors choose it" in scores.table()


@pytest.mark.slow
def test_page_of_all_folds_links_to_the_page_of_each(whole):
    workdir, _ = whole
    parsed = Page(workdir / "report.html")
    links = [f"fold_{n}/report.html" for n in (1, 2)]
    assert [a["href"] for a in parsed.all("a")] == links
    assert_self_contained(parsed, links)
    for link in links:
        assert_self_contained(Page(workdir / link))
    assert len(parsed.data("image/png")) == 1
    recalls = collections.Counter()
    for n in (1, 2):
        evaluation = json.loads((workdir / f"fold_{n}" / "evaluation.json").read_text())
        recalls.update({row["label"]: row["recall"] / 2 for row in evaluation["per_class"]})
    for _, category in CLASSES:
        assert f"{recalls[category]:.4f}" in parsed.text


def train_folds(recipe, workdir, folds):
    """Starts the command. Its results may differ from this process's in the last bit."""
    flags = ["--recipe", recipe, "--folds", folds, "--workdir", workdir]
    return subprocess.Popen(
        [sys.executable, "-m", "ast_keras.train", *map(str, flags)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip


@pytest.mark.slow
def test_stopped_fold_after_another_ends_as_if_alone(recipe, tmp_path):
    saved, alone, both = tmp_path / "recipe.json", tmp_path / "alone", tmp_path / "both"
    saved.write_text(recipe.to_json())
    process = train_folds(saved, alone, "2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    process = train_folds(saved, both, "1,2")
    assert any(line.startswith("fold 2 of") for line in process.stdout)
    assert any("epoch   1/2  step" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Stopped by SIGTERM; saved" in output
    assert "retracing" not in errors
    assert (both / "fold_1" / "report.html").is_file()
    assert not (both / "fold_2" / "evaluation.json").exists()
    finished = (both / "fold_1" / "last" / "task.weights.h5").stat().st_mtime_ns
    process = train_folds(saved, both, "1,2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (both / "fold_1" / "last" / "task.weights.h5").stat().st_mtime_ns == finished
    assert_same_models(both / "fold_2", alone / "fold_2")
    for name in ("epochs.csv", "evaluation.json"):
        assert (both / "fold_2" / name).read_text() == (alone / "fold_2" / name).read_text()
    assert sorted(read_fold_scores(both).histories) == [1, 2]


@pytest.mark.slow
def test_only_finished_folds_are_reported(whole, tmp_path):
    workdir, _ = whole
    os.symlink(workdir / "fold_2", tmp_path / "fold_2")
    (tmp_path / "fold_1").mkdir()
    scores = read_fold_scores(tmp_path)
    assert list(scores.histories) == [2]
    assert "-" in scores.table().splitlines()[1].split(), "one fold has no spread"
    with pytest.raises(ValueError, match="No fold has been trained"):
        read_fold_scores(tmp_path / "fold_1")


@pytest.mark.slow
def test_failing_report_loses_no_result(whole, recipe, monkeypatch, tmp_path, capsys):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    (workdir / "folds.json").unlink()
    monkeypatch.setattr(folds, "write_fold_report", lambda _: 1 / 0)
    table = run_folds(recipe, workdir, [1], Progress()).table()
    assert table.replace(str(workdir), str(whole[0])) == whole[1].table()
    assert "warning: no report.html: ZeroDivisionError" in capsys.readouterr().out
    assert (workdir / "folds.json").is_file()


def test_folds_are_those_of_the_data(tmp_path):
    table = tmp_path / "sounds.csv"
    rows = [f"{n}.wav,dog,{fold}" for n, fold in enumerate((3, 7, 3, 1))]
    table.write_text("\n".join(["path,labels,fold", *rows]))
    recipe = override(load_recipe("own_sounds"), [f"data.path={table}"])
    assert folds.folds_to_train(recipe, None) == [1, 3, 7]
    assert folds.folds_to_train(recipe, [7, 3]) == [3, 7]
    with pytest.raises(RecipeError, match=r"folds of this data are 1, 3, 7\. Received: fold 2"):
        folds.folds_to_train(recipe, [1, 2])
    table.write_text("path,labels\n0.wav,dog")
    with pytest.raises(RecipeError, match="give the manifest a column fold"):
        folds.folds_to_train(recipe, None)


def test_data_without_folds_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"no folds: train it without --all_folds"):
        run_folds(load_recipe("quickstart"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_fold_stops_before_anything_is_trained(recipe, tmp_path):
    with pytest.raises(DatasetError, match=r"fold must be one of 1, 2\."):
        run_folds(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"data are 1, 2, 3, 4, 5\. Received: fold 7"):
        run_folds(recipe, tmp_path / "run", [1, 7])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_recipe_or_foreign_folder_is_refused(whole, recipe):
    workdir, _ = whole
    before = (workdir / "folds.json").read_text()
    # Fold 2 is not asked for, but would be reported.
    with pytest.raises(RecipeError, match=r"train\.batch_size"):
        run_folds(override(recipe, ["train.batch_size=5"]), workdir, [1])
    assert (workdir / "folds.json").read_text() == before
    with pytest.raises(RecipeError, match="must be new, or hold folds of this recipe"):
        run_folds(recipe, workdir / "fold_1", [1, 2])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--all_folds", "--set", "data.fold=2"], "but not both"),
        (["--folds", "one"], "Folds are numbers"),
    ],
)
def test_command_refuses_contradicting_flags(flags, message):
    options = parse_options(train.Options, ["--recipe", "esc50", *flags])
    assert message in error_of(train.main, options)

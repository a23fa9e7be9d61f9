"""Runs that end early (`train.patience`), and finished runs that go on with more epochs."""

import io
import json
import math

import pytest

from ast_keras.errors import RecipeError
from ast_keras.recipe import override
from ast_keras.reports.fold_report import read_fold_scores, write_fold_scores
from ast_keras.reports.tables import SCORES
from ast_keras.training import build
from ast_keras.training.history import ended_early, has_ended
from ast_keras.training.interruption import Interrupted
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run
from ast_keras.training.run_folder import check_workdir, write_history
from tests.helpers.arrays import assert_same
from tests.helpers.errors import error_of
from tests.helpers.html import Page
from tests.helpers.runs import AVERAGING, SignalAt, finished_run, prepare, tiny_recipe, weights


def rows(*scores):
    return [{"epoch": i, "accuracy": score} for i, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("scores", "patience", "ended"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.5), 1, True),  # equal is not better
        ((0.5, 0.6), 1, False),
        ((0.5, 0.4, 0.45), 2, True),
        ((0.5, 0.4, 0.45), 3, False),
        ((0.5, 0.4, 0.6, 0.1), 2, False),
        ((math.nan, 0.4), 1, False),
        ((0.4, math.nan), 1, True),
        ((0.5, 0.4, 0.3, 0.2), None, False),
    ],
)
def test_patience_counts_epochs_after_the_best(scores, patience, ended):
    text = "none" if patience is None else patience
    train = tiny_recipe("train.num_epochs=9", f"train.patience={text}").train
    assert has_ended(rows(*scores), train) is ended_early(rows(*scores), train) is ended


def test_last_epoch_is_not_an_early_end():
    train = tiny_recipe("train.num_epochs=2", "train.patience=1").train
    assert has_ended(rows(0.5, 0.5), train)
    assert not ended_early(rows(0.5, 0.5), train)


def assert_same_training(workdir, expected):
    """Asserts that two runs ended with the same history and the same weights, to the bit."""
    for folder in ("last", "epochs/02", "epochs/03"):
        assert_same(weights(workdir / folder), weights(expected / folder))
    assert (workdir / "epochs.csv").read_text() == (expected / "epochs.csv").read_text()


@pytest.mark.slow
def test_run_that_patience_ended_is_finished_and_goes_on_without_patience(tmp_path):
    recipe, expected, _ = finished_run()  # accuracy 0.1 in all of its three epochs
    workdir, output = tmp_path / "run", io.StringIO()
    report = workdir / "report.html"
    recipe = override(recipe, ["train.final_model=last"])
    patient = override(recipe, ["train.patience=1"])
    result = Run.prepare(patient, workdir, progress=Progress(output)).train()
    line = "ended after epoch 2 of 3: no better accuracy than in epoch 1 (train.patience=1)"
    assert output.getvalue().splitlines()[-1] == line
    assert (result.best["epoch"], result.last["epoch"]) == (1, 2)
    assert line in Page(report).text
    written = report.stat().st_mtime_ns
    assert prepare(patient, workdir).train().last == result.last
    assert report.stat().st_mtime_ns == written
    # Without patience, it ends as if it had never had any.
    assert prepare(recipe, workdir).train().last["epoch"] == 3
    assert_same_training(workdir, expected)
    assert_same(weights(workdir / "model"), weights(expected / "last"))
    assert "ended after epoch" not in Page(report).text


@pytest.mark.slow
def test_finished_run_goes_on_with_more_epochs_to_the_same_weights(tmp_path):
    recipe, expected, result = finished_run()
    workdir = tmp_path / "run"
    shorter = override(recipe, ["train.num_epochs=2", "train.keep_epochs=2,2"])
    assert prepare(shorter, workdir).train().last["epoch"] == 2
    assert prepare(recipe, workdir).train().rows() == result.rows()
    assert_same_training(workdir, expected)
    assert_same(weights(workdir / "model"), weights(expected / "model"))
    for name in ("evaluation.json", "recipe.json"):
        assert (workdir / name).read_text() == (expected / name).read_text()
    page = (workdir / "report.html").read_text().replace(str(workdir), str(expected))
    assert page == (expected / "report.html").read_text()


@pytest.mark.slow
def test_run_with_patience_that_was_stopped_ends_at_the_same_epoch(tmp_path):
    recipe = override(finished_run()[0], ["train.final_model=last", "train.patience=1"])
    with pytest.raises(Interrupted):
        Run(recipe, tmp_path / "run", progress=SignalAt(step=5)).train()
    assert prepare(recipe, tmp_path / "run").train().last["epoch"] == 2


@pytest.mark.parametrize("warmup_steps", [0, 7, 120])
def test_rates_of_an_epoch_decay_do_not_depend_on_the_number_of_epochs(warmup_steps):
    settings = ("optimizer.decay_start_epoch=2", f"optimizer.warmup_steps={warmup_steps}")
    longer, shorter = (
        build.make_schedule(tiny_recipe(*settings, f"train.num_epochs={epochs}"), 40)
        for epochs in (6, 3)
    )
    steps = range(0, 3 * 40, 5)
    assert [float(longer(step)) for step in steps] == [float(shorter(step)) for step in steps]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (["train.num_epochs=2", "train.keep_epochs=2,2"], "num_epochs=3, which may only grow: co"),
        (["train.patience=2", "train.final_model=best"], "with train.patience=None: continue it"),
        (["train.keep_epochs=1,3"], r"train.keep_epochs=\(2, 3\), which may only grow: continue"),
        (["optimizer.decay_rate=0.5"], "with optimizer.decay_rate=0.85: continue it"),
        (["train.label_smoothing=0.1"], "with train.label_smoothing=0.0: continue it"),
        (["augment.noise=false"], "with augment.noise=True: continue it"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_continue_a_run_is_refused_with_the_way_out(settings, rule):
    recipe, workdir, _ = finished_run()
    saved = (workdir / "recipe.json").read_text()
    with pytest.raises(RecipeError, match=rule) as error:
        prepare(override(recipe, settings), workdir)
    way = f"another --workdir, or a new one from its weights with --set model.start={workdir}/last."
    assert way in str(error.value)
    assert "\n" not in str(error.value)
    assert (workdir / "recipe.json").read_text() == saved


@pytest.fixture
def started(tmp_path):
    """Returns a function that makes a work directory with a checkpoint of a recipe."""

    def make(*settings):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "checkpoint").touch()
        recipe = tiny_recipe(*settings)
        (tmp_path / "recipe.json").write_text(recipe.to_json())
        return recipe, tmp_path

    return make


def test_more_epochs_of_a_cosine_are_a_warning(started):
    recipe, workdir = started("optimizer.schedule=warmup_cosine")
    assert check_workdir(recipe, workdir) == []
    (warning,) = check_workdir(override(recipe, ["train.num_epochs=6"]), workdir)
    assert warning.startswith("train.num_epochs grows from 3 to 6: from here on the learning rate")


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (["train.patience=2"], ["train.patience=3"], True),
        (["train.patience=2"], ["train.patience=none", "train.num_epochs=4"], True),
        (["train.patience=2"], ["train.patience=1"], False),
        (["train.keep_epochs=2,3"], ["train.keep_epochs=2,5", "train.num_epochs=5"], True),
        (["train.keep_epochs=2,2"], ["train.keep_epochs=2,3"], False),  # epoch 3 may be lost
        (["train.keep_epochs=2,3"], ["train.keep_epochs=none"], False),
        ([], ["train.keep_epochs=3,3"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_may_only_grow(before, after, accepted, started):
    recipe, workdir = started(*before)
    if accepted:
        assert check_workdir(override(recipe, after), workdir) == []
    else:
        assert "This work directory holds a run with train." in error_of(
            check_workdir, override(recipe, after), workdir
        )


def test_recipe_of_an_earlier_version_continues(started):
    recipe, workdir = started()
    saved = json.loads(recipe.to_json())
    del saved["train"]["patience"]
    (workdir / "recipe.json").write_text(json.dumps(saved))
    assert check_workdir(recipe, workdir) == []


def test_folds_that_ended_at_different_epochs_are_reported_together(tmp_path):
    scores = {1: (0.2, 0.6, 0.5), 2: (0.4, 0.3), 3: (0.1, 0.2, 0.9, 0.3)}
    for number, values in scores.items():
        history = [{**row, **dict.fromkeys(SCORES, row["accuracy"])} for row in rows(*values)]
        folder = tmp_path / f"fold_{number}"
        folder.mkdir()
        (folder / "recipe.json").write_text(tiny_recipe().to_json())
        write_history(folder, history, title="fold")
        (folder / "evaluation.json").write_text(json.dumps({"last_epoch": history[-1]}))
    found = read_fold_scores(tmp_path)
    best, last = found.rules
    # The means of the first two epochs are 0.233 and 0.367; fold 2 has no third one.
    assert (best.epoch, last.epoch) == (2, "2-4")
    assert [row["accuracy"] for row in best.folds.values()] == [0.6, 0.3, 0.2]
    assert [row["accuracy"] for row in last.folds.values()] == [0.5, 0.3, 0.3]
    write_fold_scores(found)
    means = json.loads((tmp_path / "folds.json").read_text())["mean_by_epoch"]
    assert [round(row["accuracy"], 3) for row in means] == [0.233, 0.367]
    # A fold that goes on is left out until it is scored again.
    write_history(tmp_path / "fold_2", [*history, {**history[-1], "epoch": 5}], title="fold")
    assert list(read_fold_scores(tmp_path).histories) == [1, 3]


def test_patience_excludes_an_average_of_fixed_epochs():
    message = error_of(tiny_recipe, *AVERAGING, "train.patience=2")
    assert "--set train.patience=none or --set train.final_model=best" in message

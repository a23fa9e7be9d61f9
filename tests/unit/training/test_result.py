"""The end of a run: which model it hands over, and that a report costs no result."""

import dataclasses
import shutil
import types

import numpy as np
import pytest

from ast_keras.errors import EvaluationError
from ast_keras.evaluation.evaluator import evaluate
from ast_keras.presets.loading import from_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.reports.worst_mistakes import worst_mistakes
from ast_keras.training import result as result_module
from ast_keras.training import run as run_module
from ast_keras.training.build import make_pipeline
from ast_keras.training.progress import Progress
from ast_keras.training.run import Run
from ast_keras.training.run_folder import kept_epochs
from tests.helpers.html import Page, assert_self_contained

SMALL = [
    "frontend.num_frames=32",
    "data.clip_seconds=0.5",
    "model.size=ast_test",
    "model.num_layers=1",
    "train.num_epochs=2",
    "train.batch_size=6",
    "train.keep_epochs=1,2",
    "data.num_train=12",
    "data.num_validation=10",
    "data.num_test=10",
]


def make_run(workdir, *settings, progress=None):
    recipe = override(load_recipe("quickstart"), [*SMALL, *settings])
    return Run(recipe, workdir, progress=progress or Progress(quiet=True))


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def weights(folder):
    return from_preset(folder).get_weights()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    return workdir, make_run(workdir, "train.final_model=average").train()


def test_the_average_of_the_kept_epochs_is_handed_over_and_scored(averaged):
    workdir, result = averaged
    first, second = (weights(folder) for folder in kept_epochs(workdir).values())
    means = [((a.astype(float) + b) / 2).astype(a.dtype) for a, b in zip(first, second)]  # noqa: B905
    assert_same(weights(workdir / "model"), means)
    assert_same(weights(workdir / "last"), second)
    run = make_run(workdir, "train.final_model=average")
    model = from_preset(workdir / "model")
    for split, found in (("validation", result.average), ("test", result.test)):
        pipeline = make_pipeline(run.recipe, run.dataset, split)
        expected = evaluate(model, pipeline, multi_label=False).evaluation.summary()
        # The same graph over the same batches.
        assert {name: found[name] for name in expected} == expected
    names = [name for name, _ in result.rows()]
    assert names == ["best epoch", "last epoch", "averaged", "test, averaged"]
    assert result.chosen["epoch"] == "1-2"
    assert "the mean of the weights of epochs 1-2" in Page(workdir / "report.html").text


@pytest.fixture
def unscored(averaged, tmp_path):
    """The run as a kill leaves it that comes after the last epoch and before the end."""
    workdir = tmp_path / "run"
    shutil.copytree(averaged[0], workdir)
    for name in ("evaluation.json", "report.html", "confusion.png"):
        (workdir / name).unlink()
    for name in ("last", "model"):
        shutil.rmtree(workdir / name)
    shutil.copytree(workdir / "epochs" / "01", workdir / "model")
    return workdir


def test_a_finished_run_says_the_same_again(averaged, monkeypatch):
    workdir, result = averaged
    monkeypatch.setattr(run_module, "finish", lambda _: 1 / 0)
    assert make_run(workdir, "train.final_model=average").train().table() == result.table()


def test_a_kill_at_the_end_is_repeated_and_a_report_that_fails_only_a_warning(
    averaged, unscored, monkeypatch, capsys
):
    expected, result = averaged
    with monkeypatch.context() as patch:
        patch.setattr(result_module, "_mistakes", lambda *_: 1 / 0)
        again = make_run(unscored, "train.final_model=average", progress=Progress()).train()
    assert "warning: no report.html: ZeroDivisionError" in capsys.readouterr().out
    assert not (unscored / "report.html").exists()
    assert "report:" not in again.table()
    assert again.rows() == result.rows()
    # The same command writes what is missing, and changes nothing else.
    make_run(unscored, "train.final_model=average").train()
    for name in ("last", "model"):
        assert_same(weights(unscored / name), weights(expected / name))
    for name in ("evaluation.json", "epochs.csv"):
        assert (unscored / name).read_text() == (expected / name).read_text()
    page = (unscored / "report.html").read_text().replace(str(unscored), str(expected))
    assert page == (expected / "report.html").read_text()


def save_chosen(workdir, model, **settings):
    train = dataclasses.replace(load_recipe("quickstart").train, **settings)
    recipe = types.SimpleNamespace(train=train)
    result_module._save_chosen(types.SimpleNamespace(recipe=recipe, workdir=workdir, model=model))


def test_the_last_epoch_and_the_average_of_one_are_handed_over(averaged, unscored):
    expected, _ = averaged
    last = from_preset(expected / "last")
    first = weights(unscored / "epochs" / "01")
    save_chosen(unscored, last, choose="last")
    assert_same(weights(unscored / "model"), last.get_weights())
    save_chosen(unscored, last, choose="average", keep_epochs=(1, 1))
    assert_same(weights(unscored / "model"), first)
    save_chosen(unscored, last, choose="best")
    assert_same(weights(unscored / "model"), first)


def test_an_epoch_that_is_missing_for_the_average_is_named(unscored):
    shutil.rmtree(unscored / "epochs" / "02")
    with pytest.raises(EvaluationError, match="has not kept these epochs: 2; it has 1"):
        make_run(unscored, "train.final_model=average").train()


def test_the_report_shows_the_worst_mistakes_of_the_chosen_model(averaged):
    workdir, _ = averaged
    run = make_run(workdir, "train.final_model=average")
    pipeline = make_pipeline(run.recipe, run.dataset, "test")
    found = evaluate(from_preset(workdir / "model"), pipeline, multi_label=False)
    worst = worst_mistakes(found.scores, found.targets, False, 12)
    parsed = Page(workdir / "report.html")
    assert_self_contained(parsed)
    places = [parsed.text.index(pipeline.split.source_name(index)) for index, _ in worst]
    assert len(places) > 2
    assert places == sorted(places)
    assert len(parsed.data("audio/flac")) == len(worst)


def test_scored_examples_pass_over_filling_and_what_cannot_be_read():
    real = [
        np.array([True, True, False, True, True, False]),  # a batch of 5 on 2 devices
        np.array([True, True, False, False, False, False]),
    ]
    assert result_module.scored_examples(real, 5) == [0, 1, 3, 4, 5, 6]

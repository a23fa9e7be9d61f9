"""The end of a run: the final model, its scores, and a report whose failure costs no result."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from ast_keras.errors import EvaluationError
from ast_keras.evaluation.evaluator import evaluate, scored_examples
from ast_keras.presets.loading import from_preset
from ast_keras.reports.worst_mistakes import worst_mistakes
from ast_keras.training import result as result_module
from ast_keras.training import run as run_module
from ast_keras.training.build import make_pipeline
from ast_keras.training.history import best_epoch
from ast_keras.training.progress import Progress
from ast_keras.training.result import save_final_model
from ast_keras.training.run import Run
from ast_keras.training.run_folder import kept_epochs
from tests.helpers.arrays import assert_same
from tests.helpers.html import Page, assert_self_contained
from tests.helpers.runs import finished_run, prepare, weights


@pytest.fixture
def unscored(tmp_path):
    """The work directory after a kill between the last epoch and the final model."""
    _, finished, _ = finished_run()
    workdir = shutil.copytree(finished, tmp_path / "run")
    for name in ("evaluation.json", "report.html", "confusion.png"):
        (workdir / name).unlink()
    for name in ("last", "model"):
        shutil.rmtree(workdir / name)
    shutil.copytree(workdir / "epochs" / "02", workdir / "model")
    return workdir


def test_average_of_the_kept_epochs_is_the_final_model():
    recipe, workdir, result = finished_run()
    first, second = (weights(folder) for folder in kept_epochs(workdir).values())
    pairs = zip(first, second, strict=True)
    assert_same(
        weights(workdir / "model"), [((a.astype(float) + b) / 2).astype(a.dtype) for a, b in pairs]
    )
    assert_same(weights(workdir / "last"), second)
    context = prepare(recipe, workdir).context
    model = from_preset(workdir / "model")
    for split, found in (("validation", result.average), ("test", result.test)):
        pipeline = make_pipeline(context.recipe, context.dataset, split)
        expected = evaluate(model, pipeline, multi_label=False).evaluation.summary()
        # The same graph over the same batches.
        assert {name: found[name] for name in expected} == expected
    names = [name for name, _ in result.rows()]
    assert names == ["best epoch", "last epoch", "averaged", "test, averaged"]
    assert result.chosen["epoch"] == "2-3"
    assert "the mean of the weights of epochs 2-3" in Page(workdir / "report.html").text


def test_finished_run_returns_the_same_result(monkeypatch):
    recipe, workdir, result = finished_run()
    monkeypatch.setattr(run_module, "finish", lambda *_: 1 / 0)
    assert prepare(recipe, workdir).train().table() == result.table()


@pytest.mark.slow
def test_kill_at_the_end_is_repeated_and_a_report_that_fails_is_a_warning(
    unscored, monkeypatch, capsys
):
    recipe, expected, result = finished_run()
    with monkeypatch.context() as patch:
        patch.setattr(result_module, "write_run_report", lambda *_: 1 / 0)
        again = Run.prepare(recipe, unscored, progress=Progress()).train()
    assert "warning: no report.html: ZeroDivisionError" in capsys.readouterr().out
    assert not (unscored / "report.html").exists()
    assert "report:" not in again.table()
    assert again.rows() == result.rows()
    # The same command writes the missing file, and changes nothing else.
    prepare(recipe, unscored).train()
    for name in ("last", "model"):
        assert_same(weights(unscored / name), weights(expected / name))
    for name in ("evaluation.json", "epochs.csv"):
        assert (unscored / name).read_text() == (expected / name).read_text()
    page = (unscored / "report.html").read_text().replace(str(unscored), str(expected))
    assert page == (expected / "report.html").read_text()


def test_final_model_is_the_last_the_best_or_the_average(unscored):
    recipe, expected, _ = finished_run()
    last, second = from_preset(expected / "last"), weights(unscored / "epochs" / "02")

    def final_model(**settings):
        save_final_model(dataclasses.replace(recipe.train, **settings), unscored, last)
        return weights(unscored / "model")

    assert_same(final_model(final_model="last"), last.get_weights())
    assert_same(final_model(final_model="average", keep_epochs=(2, 2)), second)
    assert_same(final_model(final_model="best"), second)


def test_missing_epoch_of_an_average_is_named(unscored):
    recipe, _, _ = finished_run()
    shutil.rmtree(unscored / "epochs" / "03")
    with pytest.raises(EvaluationError, match="has not kept these epochs: 3; it has 2"):
        save_final_model(recipe.train, unscored, model=None)


def test_report_shows_the_worst_mistakes_of_the_final_model():
    recipe, workdir, _ = finished_run()
    context = prepare(recipe, workdir).context
    pipeline = make_pipeline(context.recipe, context.dataset, "test")
    found = evaluate(from_preset(workdir / "model"), pipeline, multi_label=False)
    worst = worst_mistakes(found.scores, found.targets, False, 12)
    parsed = Page(workdir / "report.html")
    assert_self_contained(parsed)
    places = [parsed.text.index(pipeline.split.source_name(index)) for index, _ in worst]
    assert len(places) > 2
    assert places == sorted(places)
    assert len(parsed.data("audio/flac")) == len(worst)


def test_best_epoch_is_the_first_of_equals_and_ignores_nan():
    rows = [{"accuracy": value} for value in (math.nan, 0.5, 0.7, 0.7)]
    assert best_epoch(rows, "accuracy") is rows[2]


def test_scored_examples_leave_out_padding_rows_and_unreadable_files():
    real = [
        np.array([True, True, False, True, True, False]),  # a batch of 5 on 2 devices
        np.array([True, True, False, False, False, False]),
    ]
    assert scored_examples(real, 5) == [0, 1, 3, 4, 5, 6]

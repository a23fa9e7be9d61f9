"""Thresholds of a classifier: checked, saved in every form, chosen by `evaluate`, used."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import soundfile

from ast_keras import LabelSet, average_models, from_preset, save_to_preset, to_causal
from ast_keras.commands.flags import parse_options
from ast_keras.errors import ArgumentError
from ast_keras.evaluate import Options
from ast_keras.inference.events import find_events
from ast_keras.inference.formats import as_csv, as_table, clip_row
from ast_keras.inference.predictor import Predictor, Windows
from ast_keras.presets.saving import save_thresholds
from ast_keras.recipe import load_recipe, override
from ast_keras.training.build import make_model
from tests.helpers.audio import RATE, noise
from tests.helpers.commands import assert_one_line_error, run_in_process
from tests.helpers.errors import error_of
from tests.helpers.models import saved_classifier, tiny_classifier
from tests.helpers.paths import GOLDENS
from tests.helpers.runs import finished_run

THRESHOLDS = (0.5, 0.0, 1.0)  # of class 0, 1 and 2: the second is always found, the third never


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with labels and thresholds."""
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(saved_classifier(score_activation="sigmoid"), folder)
    save_thresholds(folder, THRESHOLDS)
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    soundfile.write(path, 0.3 * noise(RATE), RATE)
    return str(path)


def test_thresholds_are_checked():
    model = tiny_classifier()
    assert model.thresholds is None
    assert model.get_config()["thresholds"] is None
    model.thresholds = np.array([0.25, 0.5, 1])
    assert model.thresholds == (0.25, 0.5, 1.0)
    for wrong, message in (
        ([0.5], "1 thresholds for 3 classes"),
        ([0.5, 0.5, 1.5], r"in \[0, 1\]"),
        ([0.5, 0.5, np.nan], r"in \[0, 1\]"),
        (0.5, "sequence of numbers"),
        (["a", "b", "c"], "sequence of numbers"),
    ):
        with pytest.raises(ArgumentError, match=message):
            model.thresholds = wrong
    assert model.thresholds == (0.25, 0.5, 1.0)


def test_every_saved_form_keeps_them(saved, tmp_path):
    model = from_preset(saved)
    assert model.thresholds == THRESHOLDS
    save_to_preset(model, tmp_path / "again")
    assert from_preset(tmp_path / "again").thresholds == THRESHOLDS
    model.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").thresholds == THRESHOLDS
    save_thresholds(tmp_path / "m.keras", (0.1, 0.2, 0.3))
    again = from_preset(tmp_path / "m.keras")
    assert again.thresholds == (0.1, 0.2, 0.3)
    np.testing.assert_array_equal(again.head.kernel, model.head.kernel)
    assert from_preset(GOLDENS / "saved_0.1.0" / "masked").thresholds is None
    assert "save the model to a folder" in error_of(save_thresholds, "ast_base_audioset", (0.5,))


def test_they_follow_the_head(saved, tmp_path):
    assert from_preset(saved, padding="masked").thresholds == THRESHOLDS
    named = from_preset(saved, labels=["a", "b", "c"])
    assert named.thresholds == THRESHOLDS
    save_to_preset(named, tmp_path / "named")
    other = from_preset(tmp_path / "named", labels=["c", "a", "b"])
    assert other.thresholds == (1.0, 0.5, 0.0)
    assert from_preset(saved, num_classes=3).thresholds is None
    # Other weights have other scores.
    assert average_models([saved, saved]).thresholds is None
    assert to_causal(named, block_columns=2, past_blocks=1).thresholds is None
    settings = [f"model.start={tmp_path / 'named'}", "model.size=auto", "model.strides=none",
                "frontend.num_frames=98", "frontend.mean=-4", "frontend.std=4"]  # fmt: skip
    recipe = override(load_recipe("finetune"), settings)
    assert make_model(recipe, LabelSet(("a", "b", "c"))).thresholds is None


def test_predictor_reports_classes_that_reach_their_threshold(saved, recording):
    predictor = Predictor(from_preset(saved), Windows(1.0, events=True))
    found = predictor.score_windows(predictor.iter_segments(recording))
    row = predictor.predict(recording)
    expected = set(np.flatnonzero(found.clip_scores >= THRESHOLDS))
    assert expected in ({1}, {0, 1})
    assert {p["index"] for p in row["predictions"]} == expected
    assert {event["index"] for event in row["events"]} == expected
    for window, scores in zip(row["windows"], found.scores, strict=True):
        reached = set(np.flatnonzero(scores >= THRESHOLDS))
        assert {p["index"] for p in window["predictions"]} == reached


def test_file_without_a_class_stays_in_every_format():
    row = clip_row("a.wav", 2.0, np.array([0.1, 0.4]), None, top=2, thresholds=[0.2, 0.5])
    assert row["predictions"] == []
    assert as_table([row]).splitlines() == ["a.wav  (2.00 s)", "  no class reaches its threshold"]
    assert as_csv([row]).splitlines()[1] == "a.wav,2.0,,,,"


def test_events_have_a_threshold_for_each_class():
    scores = np.array([[0.3, 0.3], [0.4, 0.4], [0.3, 0.3]])
    found = find_events(scores, np.arange(4.0), threshold=[0.5, 0.4])
    assert [(event.index, event.onset, event.offset) for event in found] == [(1, 0.0, 3.0)]
    assert "threshold_off=0.45" in error_of(
        find_events, scores, np.arange(4.0), threshold=[0.5, 0.4], threshold_off=0.45
    )


def test_predict_says_that_it_uses_them(saved, recording, tmp_path):
    arguments = ["--model", saved, "--format", "json", recording]
    status, output, errors = run_in_process("predict", *arguments)
    assert status == 0
    assert errors.startswith("The thresholds stored with the model decide what is listed")
    assert 1 <= len(json.loads(output)[0]["predictions"]) <= 2
    status, output, errors = run_in_process("predict", *arguments, "--threshold", "0")
    assert errors == ""
    assert len(json.loads(output)[0]["predictions"]) == 3


def test_evaluate_writes_predictions_and_stores_thresholds(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run()[1], workdir)
    run = ["--workdir", workdir]
    table = tmp_path / "p.csv"
    arguments = [*run, "--split", "validation", "--save_thresholds", "--predictions", table,
                 "--output", tmp_path / "v.json"]  # fmt: skip
    status, output, errors = run_in_process("evaluate", *arguments)
    assert status == 0, errors
    assert f"thresholds stored: {workdir / 'model'}\n" in output
    per_class = json.loads((tmp_path / "v.json").read_text())["per_class"]
    stored = from_preset(workdir).thresholds
    assert stored == tuple(0.5 if r["threshold"] is None else r["threshold"] for r in per_class)
    # The table gives the same numbers again.
    rows = list(csv.DictReader(table.open()))
    names = [row["label"] for row in per_class]
    assert len(rows) == 10
    assert all(row["file"] and row["labels"] in names for row in rows)
    for row in rows:
        best = max(names, key=lambda name, row=row: float(row[f"score:{name}"]))
        assert row["predicted"] == best
    for row in per_class:
        name = row["label"]
        found = [r for r in rows if float(r[f"score:{name}"]) >= (row["threshold"] or 2)]
        right = sum(r["labels"] == name for r in found)
        assert row["threshold"] is None or right > 0
        correct = sum(r["labels"] == r["predicted"] == name for r in rows)
        assert row["recall"] == (correct / row["examples"] if row["examples"] else None)
    status, output, _ = run_in_process("evaluate", *run)
    assert "thresholds: those stored with the model\n" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "p.json"], "name it so. Received: p.json"),
        (["--save_thresholds", "--split", "validation", "--model", "a", "--model", "b"],
         "one --model"),
        (["--save_thresholds", "--split", "validation", "--model", "ast_base_audioset"],
         "--source ast_base_audioset"),
    ],
)  # fmt: skip
def test_evaluate_refuses_what_it_could_not_write(arguments, message):
    status, _, errors = run_in_process("evaluate", "--workdir", finished_run()[1], *arguments)
    assert_one_line_error(status, errors, message)


def test_thresholds_need_a_split_that_is_named():
    with pytest.raises(Exception, match="--save_thresholds needs --split"):
        parse_options(Options, ["--workdir", "a", "--save_thresholds"])

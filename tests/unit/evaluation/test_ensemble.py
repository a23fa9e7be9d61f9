"""Evaluation of several models, against scikit-learn on scores that are averaged by hand."""

import functools
import gc
import json
import logging
import shutil
import weakref

import keras
import numpy as np
import pytest
from absl import flags

from ast_keras import evaluate as command
from ast_keras.audio.encoding import write_wav
from ast_keras.commands.flags import parse_options
from ast_keras.errors import ArgumentError, EvaluationError, LabelError, WeightsError
from ast_keras.evaluation import ensemble
from ast_keras.evaluation.ensemble import evaluate_models, member_names
from ast_keras.evaluation.metrics import evaluate_predictions
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.presets.released import ENSEMBLES
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build

SETTINGS = ["data.num_test=50", "data.clip_seconds=0.5", "train.batch_size=25"]
RECIPE = override(load_recipe("quickstart"), SETTINGS)
DATASET = build.make_dataset(RECIPE)
NAMES = DATASET.labels.names


def make_model(order=range(10), frames=48, labels=True, seed=1, **settings):
    """Returns a small model whose classes are those of the data in another order."""
    keras.utils.set_random_seed(seed)
    settings = {"frontend": LogMelFilterbank(num_frames=frames), "num_layers": 1, **settings}
    classes = {"labels": DATASET.labels.subset(list(order))} if labels else {"num_classes": 10}
    model = from_preset("ast_test", num_frames=frames, **classes, **settings)
    # A fresh head gives nearly the same scores for every sound; this one does not.
    rng = np.random.default_rng(seed)
    model.head.kernel.assign(rng.normal(size=model.head.kernel.shape))
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three that differ in strides, length, normalisation, size, class order and activation."""
    root = tmp_path_factory.mktemp("models")
    frontend = LogMelFilterbank(num_frames=32, mean=-6.0, std=5.4)
    made = {
        "a": make_model(num_layers=2),
        "b": make_model(order=range(9, -1, -1), frames=32, frontend=frontend, strides=(12, 12)),
        "c": make_model(
            order=[3, 1, 4, 0, 5, 9, 2, 6, 8, 7], seed=3, strides=(16, 16),
            score_activation="sigmoid",
        ),
    }  # fmt: skip
    for name, model in made.items():
        save_to_preset(model, root / name)
    return [str(root / name) for name in made]


def pipeline():
    return build.make_pipeline(RECIPE, DATASET, "test")


@functools.cache
def sounds():
    """Returns all test sounds as one batch `[50, 8000]`, and the true class of each."""
    split = DATASET.split("test")
    batch = np.stack([np.asarray(s)[:8000] for s in split.sources]).astype("float32")
    return batch, np.array([classes[0] for classes in split.targets])


@functools.cache
def scores_by_hand(name):
    """Returns a model's scores of every sound, with the classes in the order of the data."""
    model = from_preset(name)
    logits = np.asarray(model(sounds()[0], training=False), np.float64)
    if model.score_activation == "sigmoid":
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.stack([scores[:, model.labels.names.index(label)] for label in NAMES], axis=1)


def assert_evaluates(evaluation, scores):
    """Compares an evaluation with scikit-learn's of these scores."""
    metrics = pytest.importorskip("sklearn.metrics")
    true = sounds()[1]
    assert evaluation.num_examples == 50
    assert evaluation.accuracy == np.mean(scores.argmax(1) == true)
    for index in range(10):
        # Exact except for the order of float64 sums of at most 50 terms.
        tolerance = {"abs": 1e-14}
        precision = metrics.average_precision_score(true == index, scores[:, index])
        assert evaluation.average_precision[index] == pytest.approx(precision, **tolerance)
        area = metrics.roc_auc_score(true == index, scores[:, index])
        assert evaluation.auc[index] == pytest.approx(area, **tolerance)
    matrix = metrics.confusion_matrix(true, scores.argmax(1), labels=range(10))
    np.testing.assert_array_equal(evaluation.confusion_matrix, matrix)


def test_ensemble_scores_are_the_mean_of_its_members_loaded_one_by_one(models, monkeypatch, caplog):
    names = member_names(["ensemble_s"])
    assert names == [f"ast_base_audioset_run{number}" for number in (1, 2, 3)]
    folders, loaded, lines = dict(zip(names, models, strict=True)), [], []

    def watched(name):
        gc.collect()
        assert not [ref for ref in loaded if ref() is not None], "an earlier model is referenced"
        model = from_preset(folders[name])
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(ensemble, "from_preset", watched)
    with caplog.at_level(logging.WARNING):
        found = evaluate_models(names, pipeline(), DATASET, log=lines.append)
    members, together = found.members, found.evaluation
    assert len(loaded) == 6  # each is checked before anything is scored
    assert [member.name for member in members] == names
    parts = [scores_by_hand(name) for name in models]
    for member, scores in zip(members, parts, strict=True):
        assert_evaluates(member.evaluation, scores)
    assert_evaluates(together, (parts[0] + parts[1] + parts[2]) / 3)
    assert len({m.evaluation.mean_auc for m in members} | {together.mean_auc}) == 4
    assert lines[-1] == f"scored 3 of 3: {names[2]}"
    assert f"{names[2]}: sigmoid" in caplog.text


def test_model_without_labels_has_the_order_of_the_data(models, monkeypatch):
    unlabelled = make_model(num_layers=2, labels=False)  # the weights of the first model
    monkeypatch.setattr(ensemble, "from_preset", lambda name: unlabelled)
    lines = []
    found = evaluate_models(["plain"], pipeline(), DATASET, log=lines.append)
    assert found.members[0].evaluation is found.evaluation
    assert_evaluates(found.evaluation, scores_by_hand(models[0]))
    assert not lines


def test_models_that_do_not_fit_are_refused_before_anything_is_scored(models, monkeypatch):
    def fail(*_):
        raise AssertionError("scored before all models were checked")

    slow = LogMelFilterbank(num_frames=48, sample_rate=8000, f_max_hz=4000)
    small = {"num_frames": 48, "num_layers": 1}
    made = {
        "good": make_model(),
        "slow": make_model(frontend=slow),
        "spectrograms": make_model(frontend=None),
        "foreign": from_preset("ast_test", labels=LabelSet((*NAMES[:9], "howl")), **small),
        "nine": from_preset("ast_test", num_classes=9, **small),
    }
    monkeypatch.setattr(ensemble, "evaluate", fail)
    monkeypatch.setattr(ensemble, "from_preset", lambda name: made.get(name) or from_preset(name))
    for name, error, message in (
        ("slow", EvaluationError, r"set frontend\.sample_rate.* slow with 8000 Hz, .* 16000 Hz"),
        (
            "spectrograms",
            ArgumentError,
            "takes spectrograms.* Received: frontend=None of spectrograms",
        ),
        (
            "foreign",
            LabelError,
            rf"first \(10 labels\): 'howl'; .*: '{NAMES[9]}'\. Received: foreign \(first\)",
        ),
        ("nine", EvaluationError, "nine with 9 classes, .* with 10 labels"),
        ("nowhere/model", WeightsError, "nowhere"),
    ):
        with pytest.raises(error, match=message):
            evaluate_models(["good", name], pipeline(), DATASET)


def test_ensembles_are_replaced_by_their_members_and_no_model_counts_twice(tmp_path):
    members = list(ENSEMBLES["ensemble_m"].presets)
    assert len(members) == 6
    assert member_names(["mine", "ensemble_m"]) == ["mine", *members]
    with pytest.raises(EvaluationError, match="ast_base_audioset_run2 twice"):
        member_names(["ensemble_s", "ast_base_audioset_run2"])
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EvaluationError, match="once"):
        member_names([str(tmp_path), str(tmp_path / "link")])


def test_command_prints_and_writes_every_model_and_the_mean(models, tmp_path, capsys):
    line = ["--recipe", "quickstart", "--output", str(tmp_path / "scores.json")]
    line += [part for name in models[:2] for part in ("--model", name)]
    line += [part for setting in SETTINGS for part in ("--set", setting)]
    assert command.main(parse_options(command.Options, line)) == 0
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert [row["label"] for row in saved["per_class"]] == list(NAMES)
    assert [row["model"] for row in saved["models"]] == models[:2]
    first, second = (scores_by_hand(name) for name in models[:2])
    true = sounds()[1]
    accuracies = [np.mean(s.argmax(1) == true) for s in (first, second, (first + second) / 2)]
    found = [*(row["scores"] for row in saved["models"]), saved["scores"]]
    assert [scores["accuracy"] for scores in found] == accuracies
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"mean of 2 models on {DATASET.name}, test: 50 examples"
    for text, name, scores in zip(
        lines[-3:], [*models[:2], "mean of 2 models"], found, strict=True
    ):
        assert text.startswith(name)
        assert text.split()[-4:] == [f"{score:.4f}" for score in scores.values()]


def test_thresholds_are_stored_in_the_order_of_the_model(models, tmp_path, capsys):
    folder = tmp_path / "reversed"  # its classes are those of the data from the last to the first
    shutil.copytree(models[1], folder)
    line = ["--recipe", "quickstart", "--model", str(folder), "--split", "test"]
    line += [part for setting in SETTINGS for part in ("--set", setting)]
    options = parse_options(command.Options, [*line, "--save_thresholds"])
    assert command.main(options) == 0
    assert "warning: thresholds that are chosen on test fit it too well" in capsys.readouterr().err
    # The model computes in float32, the expected scores are float64.
    expected = evaluate_predictions(scores_by_hand(str(folder)), np.eye(10)[sounds()[1]], False)
    stored = from_preset(folder).thresholds
    np.testing.assert_allclose(stored[::-1], expected.thresholds, rtol=1e-5)
    found = evaluate_models([str(folder)], pipeline(), DATASET)
    np.testing.assert_array_equal(found.evaluation.thresholds, stored[::-1])
    assert found.members[0].has_thresholds


@pytest.mark.parametrize("line", ["", "--model a", "--recipe esc50"])
def test_command_needs_a_model_and_data(line):
    with pytest.raises(flags.Error, match="Give --workdir DIR, or --model DIR and --recipe NAME"):
        parse_options(command.Options, line.split())


def test_a_test_table_without_a_rare_class_is_scored_on_all_classes(models, tmp_path, capsys):
    split = DATASET.split("test")
    kept = [i for i in range(20) if split.targets[i] != (4,)]
    for index in kept:
        write_wav(tmp_path / f"{index}.wav", np.asarray(split.sources[index]), 16000)
    rows = [f"{index}.wav,{NAMES[split.targets[index][0]]},test\n" for index in kept]
    (tmp_path / "test.csv").write_text("".join(["path,labels,split\n", *rows]))
    line = ["--recipe", "quickstart", "--output", str(tmp_path / "scores.json")]
    line += ["--model", models[0], "--model", models[1], "--set", "data.clip_seconds=0.5"]
    line += ["--set", "data.kind=manifest", "--set", f"data.path={tmp_path / 'test.csv'}"]
    line += ["--set", "data.num_train=none", "--set", "data.num_test=none"]
    line += ["--set", "data.num_validation=none"]
    assert command.main(parse_options(command.Options, line)) == 0
    assert f"1 of 10 classes of the model do not occur in the data: {NAMES[4]}" in (
        capsys.readouterr().err
    )
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert [row["label"] for row in saved["per_class"]] == list(NAMES)
    assert [row["examples"] for row in saved["per_class"]] == [2, 2, 2, 2, 0, 2, 2, 2, 2, 2]
    true = np.array([split.targets[index][0] for index in kept])
    scores = [scores_by_hand(name)[kept] for name in models[:2]]
    assert saved["scores"]["accuracy"] == np.mean((scores[0] + scores[1]).argmax(1) == true)

    (tmp_path / "test.csv").write_text(f"path,labels,split\n{kept[0]}.wav,howl,test\n")
    with pytest.raises(LabelError, match=r"the model does not know.* Received: howl in test"):
        command.main(parse_options(command.Options, line))

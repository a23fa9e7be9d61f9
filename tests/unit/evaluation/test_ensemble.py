"""Several models on the same sounds: their mean against arithmetic done by hand."""

import gc
import json
import pathlib
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest

from ast_keras.errors import EvaluationError, LabelError, WeightsError
from ast_keras.evaluation import ensemble
from ast_keras.evaluation import ensemble as ensemble_module
from ast_keras.evaluation.ensemble import evaluate_models, member_names
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.presets.released import ENSEMBLES
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build

ROOT = pathlib.Path(__file__).parents[3]
SETTINGS = ["data.num_test=50", "data.clip_seconds=0.5", "train.batch_size=8"]
RECIPE = override(load_recipe("quickstart"), SETTINGS)
DATASET = build.make_dataset(RECIPE)
NAMES = DATASET.labels.names


def save(folder, order=range(10), frames=48, labels=True, seed=1, **settings):
    """Saves a small model whose classes are the data's in another order."""
    keras.utils.set_random_seed(seed)
    settings.setdefault("frontend", LogMelFilterbank(num_frames=frames))
    kept = {"labels": DATASET.labels.subset(list(order))} if labels else {"num_classes": 10}
    model = from_preset("ast_test", num_frames=frames, **kept, **settings)
    # Fresh heads say nearly the same of every sound: these tell them apart.
    rng = np.random.default_rng(seed)
    model.head.kernel.assign(rng.normal(size=model.head.kernel.shape))
    save_to_preset(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three that differ in strides, length, normalisation, size, classes' order and activation."""
    root = tmp_path_factory.mktemp("models")
    other = LogMelFilterbank(num_frames=32, mean=-6.0, std=5.4)
    return [
        save(root / "a"),
        save(root / "b", order=range(9, -1, -1), frames=32, frontend=other, strides=(12, 12)),
        save(
            root / "c", order=[3, 1, 4, 0, 5, 9, 2, 6, 8, 7], seed=3, strides=(16, 16),
            num_layers=1, score_activation="sigmoid",
        ),
    ]  # fmt: skip


def pipeline():
    return build.make_pipeline(RECIPE, DATASET, "test")


def sounds():
    """Returns all test sounds as one batch `[50, 8000]`, and the true class of each."""
    split = DATASET.split("test")
    batch = np.stack([np.asarray(s)[:8000] for s in split.sources]).astype("float32")
    return batch, np.array([classes[0] for classes in split.targets])


def scores_by_hand(name):
    """Returns what a model says of every sound, in the data's order, found by name."""
    model = from_preset(name)
    logits = np.asarray(model(sounds()[0], training=False), np.float64)
    if model.score_activation == "sigmoid":
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.stack([scores[:, model.labels.names.index(label)] for label in NAMES], axis=1)


def assert_is(evaluation, scores):
    """Compares an evaluation with scikit-learn's of these scores."""
    metrics = pytest.importorskip("sklearn.metrics")
    true = sounds()[1]
    assert evaluation.num_examples == 50
    assert evaluation.accuracy == np.mean(scores.argmax(1) == true)
    for index in range(10):
        # Exact but for the last digits of float64, where sums are taken in another order.
        tolerance = {"abs": 1e-14}
        precision = metrics.average_precision_score(true == index, scores[:, index])
        assert evaluation.average_precision[index] == pytest.approx(precision, **tolerance)
        area = metrics.roc_auc_score(true == index, scores[:, index])
        assert evaluation.auc[index] == pytest.approx(area, **tolerance)
    matrix = metrics.confusion_matrix(true, scores.argmax(1), labels=range(10))
    np.testing.assert_array_equal(evaluation.confusion_matrix, matrix)


def test_the_mean_of_unlike_models_is_that_done_by_hand(models, capsys):
    members, together = evaluate_models(models, pipeline(), DATASET)
    parts = [scores_by_hand(name) for name in models]
    assert [member.name for member in members] == models
    for member, scores in zip(members, parts, strict=True):
        assert_is(member.evaluation, scores)
    assert_is(together, (parts[0] + parts[1] + parts[2]) / 3)
    assert len({m.evaluation.mean_auc for m in [*members]} | {together.mean_auc}) == 4
    errors = capsys.readouterr().err
    assert errors.count("warning") == 1
    assert f"{models[2]}: sigmoid" in errors
    assert f"scored 3 of 3: {models[2]}" in errors


def test_scores_themselves_are_the_mean(models, monkeypatch):
    given = []
    evaluate = ensemble.evaluate_predictions
    monkeypatch.setattr(
        ensemble, "evaluate_predictions", lambda s, *rest: given.append(s) or evaluate(s, *rest)
    )
    evaluate_models(models[:2], pipeline(), DATASET)
    expected = (scores_by_hand(models[0]) + scores_by_hand(models[1])) / 2
    assert given[0].dtype == np.float64
    # float32 models: 4e-7 measured between batches of 16 in a graph and one of 50 without.
    np.testing.assert_allclose(given[0], expected, atol=1.2e-6, rtol=0)


def test_one_model_with_its_classes_in_another_order_is_scored_right(models, tmp_path, capsys):
    members, evaluation = evaluate_models([models[1]], pipeline(), DATASET)
    assert members[0].evaluation is evaluation
    assert_is(evaluation, scores_by_hand(models[1]))
    model = from_preset(models[1])  # its classes in the data's order: the same model
    for weight in (model.head.kernel, model.head.bias):
        weight.assign(weight.numpy()[..., ::-1])
    sorted_model = from_preset(models[1], labels=DATASET.labels)
    for layer in ("head_norm", "head"):
        getattr(sorted_model, layer).set_weights(getattr(model, layer).get_weights())
    save_to_preset(sorted_model, tmp_path / "sorted")
    _, same = evaluate_models([str(tmp_path / "sorted")], pipeline(), DATASET)
    assert same.summary() == evaluation.summary()
    np.testing.assert_array_equal(same.confusion_matrix, evaluation.confusion_matrix)
    assert capsys.readouterr().err == ""


def test_models_that_do_not_fit_are_refused_before_anything_is_scored(
    models, tmp_path, monkeypatch
):
    def fail(*_):
        raise AssertionError("scored before all models were looked at")

    monkeypatch.setattr(ensemble_module, "evaluate", fail)
    foreign = LabelSet((*NAMES[:9], "howl"))
    slow = LogMelFilterbank(num_frames=48, sample_rate=8000, f_max_hz=4000)
    for number, (settings, error, message) in enumerate(
        [
            (
                {"frontend": slow},
                EvaluationError,
                r"hears 8000 Hz, .* 16000 Hz: set frontend\.sample",
            ),
            ({"frontend": None}, EvaluationError, "takes spectrograms"),
        ]
    ):
        bad = save(tmp_path / str(number), **settings)
        with pytest.raises(error, match=message):
            evaluate_models([models[0], bad], pipeline(), DATASET)
    other = from_preset("ast_test", labels=foreign, num_frames=48)
    save_to_preset(other, tmp_path / "foreign")
    message = rf"first \(10 labels\): 'howl'; .*: '{NAMES[9]}'\. Received: .*foreign \(first\)"
    with pytest.raises(LabelError, match=message):
        evaluate_models([models[0], str(tmp_path / "foreign")], pipeline(), DATASET)
    save_to_preset(from_preset("ast_test", num_classes=9, num_frames=48), tmp_path / "nine")
    with pytest.raises(EvaluationError, match="no labels and 9 classes, the data 10"):
        evaluate_models([str(tmp_path / "nine")], pipeline(), DATASET)
    with pytest.raises(WeightsError):
        evaluate_models([models[0], "nowhere/model"], pipeline(), DATASET)


def test_a_model_without_labels_is_taken_in_the_datas_order(models, tmp_path):
    plain = save(tmp_path / "plain", labels=False)  # the first model's weights
    _, evaluation = evaluate_models([plain], pipeline(), DATASET)
    assert_is(evaluation, scores_by_hand(models[0]))


def test_a_published_ensemble_is_scored_by_its_name_one_model_at_a_time(models, monkeypatch):
    names = member_names(["ensemble_s"])
    assert names == [f"ast_base_audioset_run{number}" for number in (1, 2, 3)]
    folders, loaded = dict(zip(names, models, strict=True)), []

    def watched(name):
        gc.collect()
        assert not [ref for ref in loaded if ref() is not None], "an earlier model is still there"
        model = from_preset(folders[name])
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(ensemble, "from_preset", watched)
    members, _ = evaluate_models(names, pipeline(), DATASET)
    assert [member.name for member in members] == names
    assert len(loaded) == 6  # each is looked at before anything is scored


def test_ensembles_stand_for_their_members_and_no_model_counts_twice(tmp_path):
    members = list(ENSEMBLES["ensemble_m"].presets)
    assert len(members) == 6
    assert member_names(["mine", "ensemble_m"]) == ["mine", *members]
    with pytest.raises(EvaluationError, match="ast_base_audioset_run2 twice"):
        member_names(["ensemble_s", "ast_base_audioset_run2"])
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EvaluationError, match="once"):
        member_names([str(tmp_path), str(tmp_path / "link")])


@pytest.mark.slow
def test_the_command_prints_and_writes_every_model_and_the_mean(models, tmp_path):
    command = [sys.executable, "-m", "ast_keras.evaluate", "--recipe", "quickstart"]
    command += [part for name in models[:2] for part in ("--model", name)]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    target = tmp_path / "scores.json"
    result = subprocess.run(
        [*command, "--output", str(target)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    members, together = evaluate_models(models[:2], pipeline(), DATASET)
    saved = json.loads(target.read_text())
    assert saved["scores"] == together.summary()
    assert [row["label"] for row in saved["per_class"]] == list(NAMES)
    assert saved["models"] == [
        {"model": member.name, "scores": member.evaluation.summary()} for member in members
    ]
    lines = result.stdout.splitlines()
    assert lines[0] == f"mean of 2 models on {DATASET.name}, test: 50 examples"
    for line, name, found in zip(
        lines[-3:], [*models[:2], "mean of 2 models"],
        [*(m.evaluation for m in members), together], strict=True,
    ):  # fmt: skip
        assert line.startswith(name)
        assert line.split()[-4:-2] == [
            f"{found.accuracy:.4f}", f"{found.mean_average_precision:.4f}",
        ]  # fmt: skip

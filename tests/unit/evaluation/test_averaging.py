"""The mean of models, against arithmetic done by hand, and what has no mean."""

import gc
import pathlib
import subprocess
import sys
import types
import weakref

import keras
import numpy as np
import pytest

from ast_keras import average
from ast_keras.errors import EvaluationError
from ast_keras.evaluation.averaging import average_models
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.presets import loading
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.training.run_folder import epoch_models

LABELS = LabelSet(("dog", "cow", "hen"))
ROOT = pathlib.Path(__file__).parents[3]


def save(folder, seed=1, **settings):
    """Saves a small model in which every weight is random, and returns the folder's name."""
    keras.utils.set_random_seed(seed)
    model = from_preset("ast_test", **{"labels": LABELS, "num_frames": 32, **settings})
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 10.0 ** rng.integers(-6, 6))
    save_to_preset(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [save(root / str(seed), seed) for seed in (1, 2, 3)]


def flagged(monkeypatch, **values):
    """Sets the command's flags as its command line would."""
    values = {"model": [], "workdir": None, "epochs": None, "output": None, **values}
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
    monkeypatch.setattr(average, "flags", given)


def test_every_weight_is_the_mean_rounded_once(models):
    found = average_models(models).get_weights()
    parts = [from_preset(name).get_weights() for name in models]
    assert len(found) == len(parts[0]) > 30
    for value, first, second, third in zip(found, *parts, strict=True):
        exact = (first.astype("f8") + second.astype("f8") + third.astype("f8")) / 3
        np.testing.assert_array_equal(value, exact.astype("f4"))


def test_small_numbers_are_not_lost_beside_large_ones(tmp_path):
    names = []
    for index, bias in enumerate((2.0**24, 1.0, 1.0, -(2.0**24))):
        model = from_preset("ast_test", num_classes=1, num_frames=32)
        model.head.bias.assign([bias])
        save_to_preset(model, tmp_path / str(index))
        names.append(tmp_path / str(index))
    assert average_models(names).head.bias.numpy() == [0.5]  # float32 sums would give 0.25


def test_a_model_is_the_mean_of_itself(models, tmp_path):
    copies = [models[0]] * 5
    for ours, theirs in zip(
        average_models(copies).get_weights(), from_preset(models[0]).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_what_acts_only_while_training_may_differ(models, tmp_path):
    other = save(tmp_path / "other", dropout=0.1, drop_path=0.2, augment=SpectrogramAugment(seed=3))
    model = average_models([models[0], other])
    assert model.backbone.dropout == 0.1
    assert model.labels == LABELS


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"strides": (12, 12)}, r"backbone\.strides: \(10, 10\) and \(12, 12\)"),
        ({"num_layers": 1}, r"backbone\.num_layers: 2 and 1"),
        ({"layer_norm_epsilon": 1e-12}, r"backbone\.layer_norm_epsilon: 1e-06 and 1e-12"),
        ({"dtype": "mixed_bfloat16"}, "precision: 'float32' and 'mixed_bfloat16'"),
        ({"frontend": LogMelFilterbank(num_frames=32, mean=-6.0)}, r"frontend\.mean: .* and -6\.0"),
        ({"frontend": None}, r"frontend\.\w+: .* and None"),
        ({"labels": LABELS.subset([1, 0, 2])}, r"labels\. Received"),
        ({"labels": None, "num_classes": 4}, "num_classes: 3 and 4"),
        ({"score_activation": "sigmoid"}, "score_activation: 'softmax' and 'sigmoid'"),
    ],
)
def test_models_that_differ_are_refused_with_the_difference(settings, difference, models, tmp_path):
    other = save(tmp_path / "other", **settings)
    with pytest.raises(EvaluationError, match=difference) as caught:
        average_models([models[0], other])
    assert "\n" not in str(caught.value)
    assert f"Received: {models[0]} and {other}" in str(caught.value)


def test_one_model_at_a_time_is_in_memory(models, monkeypatch):
    loaded, load = [], loading.from_preset

    def watched(name):
        gc.collect()
        assert not [ref for ref in loaded if ref() is not None], "an earlier model is still there"
        model = load(name)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "from_preset", watched)
    average_models(models)
    assert len(loaded) == 3


def test_an_average_needs_two_models(models):
    with pytest.raises(EvaluationError, match="two models or more"):
        average_models(models[:1])


@pytest.fixture
def run_folder(models, tmp_path):
    """A run that kept the epochs 2, 3 and 5."""
    for epoch, name in zip((2, 3, 5), models, strict=True):
        (tmp_path / "run" / "epochs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "epochs" / f"{epoch:02d}").symlink_to(name)
    return tmp_path / "run"


def test_a_runs_epochs_are_averaged_into_the_run(run_folder, models, monkeypatch, capsys):
    flagged(monkeypatch, workdir=str(run_folder), epochs="2-3")
    assert average.main(["average"]) == 0
    output = capsys.readouterr().out
    assert "mean of 2 models, 5" in output
    assert "epochs/02\n" in output
    assert f"saved: {run_folder / 'average_2-3'}" in output
    found = from_preset(run_folder / "average_2-3").get_weights()
    for ours, theirs in zip(found, average_models(models[:2]).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_epoch_that_is_not_there_is_named_with_the_setting(run_folder, tmp_path):
    message = r"not kept these epochs: 4, 6-7; it has 2-3, 5\. .*train\.keep_epochs=2,7 to keep"
    with pytest.raises(EvaluationError, match=message):
        epoch_models(str(run_folder), "2-7")
    with pytest.raises(EvaluationError, match="it has none"):
        epoch_models(str(tmp_path), "1-2")


@pytest.mark.parametrize("text", ["6", "6,25", "25-6", "0-3", "3-3", "-3", "a-b", "1-2-3"])
def test_epochs_that_are_no_range_are_refused(text, run_folder):
    with pytest.raises(EvaluationError, match=f"FIRST-LAST, as 6-25. Received: --epochs={text}"):
        epoch_models(str(run_folder), text)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": ["a", "b"]},
        {"model": ["a", "b"], "output": "c", "epochs": "1-2"},
        {"model": ["a", "b"], "workdir": "run", "epochs": "1-2"},
        {"workdir": "run"},
        {"epochs": "1-2", "output": "c"},
    ],
)
def test_an_unclear_command_says_both_forms(given, monkeypatch):
    flagged(monkeypatch, **given)
    with pytest.raises(
        EvaluationError, match=r"--output DIR, or --workdir RUN --epochs FIRST-LAST"
    ):
        average.main(["average"])


def test_nothing_is_overwritten(models, tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    for output in (models[0], tmp_path / "thesis", tmp_path / "thesis" / "thesis.txt"):
        flagged(monkeypatch, model=models[:2], output=str(output))
        with pytest.raises(EvaluationError, match="written to a new folder"):
            average.main(["average"])
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


def test_models_that_differ_leave_no_folder(models, tmp_path, monkeypatch):
    other = save(tmp_path / "other", strides=(12, 12))
    flagged(monkeypatch, model=[models[0], other], output=str(tmp_path / "mean"))
    with pytest.raises(EvaluationError, match="strides"):
        average.main(["average"])
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_the_command_line_takes_models(models, tmp_path):
    command = [sys.executable, "-m", "ast_keras.average", "--model", models[0]]
    command += ["--model", models[1], "--output", str(tmp_path / "mean")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"saved: {tmp_path / 'mean'}\n")
    assert from_preset(tmp_path / "mean").num_classes == 3

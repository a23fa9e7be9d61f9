"""Averages of models, against means computed in float64, and refusal of models that differ."""

import pathlib
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from absl import flags

from ast_keras.average import Options, main
from ast_keras.commands.flags import parse_options
from ast_keras.errors import EvaluationError
from ast_keras.evaluation.averaging import average_models
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.presets import loading
from ast_keras.presets.loading import from_preset, save_to_preset
from tests.helpers.arrays import assert_same
from tests.helpers.paths import ROOT

LABELS = LabelSet(("dog", "cow", "hen"))


def save(folder, seed=1, **settings):
    """Saves a small model with random weights of very different sizes; returns the folder."""
    keras.utils.set_random_seed(seed)
    settings = {"labels": LABELS, "num_frames": 32, "num_layers": 1, **settings}
    model = from_preset("ast_test", **settings)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 10.0 ** rng.integers(-6, 6))
    save_to_preset(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [save(root / str(seed), seed) for seed in (1, 2, 3)]


def run(*line):
    return main(parse_options(Options, [str(word) for word in line]))


def test_every_weight_is_the_mean_rounded_once(models, monkeypatch):
    loaded, load = [], loading.from_preset

    def watched(name):
        assert not [ref for ref in loaded if ref() is not None], "an earlier model is in memory"
        model = load(name)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "from_preset", watched)
    found = average_models(models).get_weights()
    monkeypatch.undo()
    parts = [from_preset(name).get_weights() for name in models]
    assert len(found) == len(parts[0]) > 20
    for value, first, second, third in zip(found, *parts, strict=True):
        exact = (first.astype("f8") + second.astype("f8") + third.astype("f8")) / 3
        np.testing.assert_array_equal(value, exact.astype("f4"))


def test_small_weights_are_added_to_large_ones_in_float64(tmp_path):
    for name, bias in (("large", 2.0**24), ("one", 1.0), ("negative", -(2.0**24))):
        model = from_preset("ast_test", num_classes=1, num_frames=32, num_layers=1)
        model.head.bias.assign([bias])
        save_to_preset(model, tmp_path / name)
    names = [tmp_path / name for name in ("large", "one", "one", "negative")]
    assert average_models(names).head.bias.numpy() == [0.5]  # float32 sums would give 0.25


def test_arguments_that_affect_training_only_may_differ(models, tmp_path):
    other = save(tmp_path / "other", dropout=0.1, drop_path=0.2, augment=SpectrogramAugment(seed=3))
    model = average_models([models[0], other])
    assert model.backbone.dropout == 0.1
    assert model.labels == LABELS


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"strides": (12, 12)}, r"backbone\.strides: \(10, 10\) and \(12, 12\)"),
        ({"dtype": "mixed_bfloat16"}, "precision: 'float32' and 'mixed_bfloat16'"),
        ({"frontend": LogMelFilterbank(num_frames=32, mean=-6.0)}, r"frontend\.mean: .* and -6\.0"),
        ({"frontend": None}, r"frontend\.\w+: .* and None"),
        ({"labels": LABELS.subset([1, 0, 2])}, r"labels\. Received"),
        ({"score_activation": "sigmoid"}, "score_activation: 'softmax' and 'sigmoid'"),
    ],
)
def test_models_that_differ_are_refused_with_the_difference(settings, difference, models, tmp_path):
    other = save(tmp_path / "other", **settings)
    with pytest.raises(EvaluationError, match=difference) as caught:
        run("--model", models[0], "--model", other, "--output", tmp_path / "mean")
    assert "\n" not in str(caught.value)
    assert f"Received: {models[0]} and {other}" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_an_average_needs_two_models(models):
    with pytest.raises(EvaluationError, match="at least two models"):
        average_models(models[:1])


def test_command_averages_the_epochs_of_a_run_into_the_run(models, tmp_path, capsys):
    for epoch, name in zip((2, 3, 5), models, strict=True):
        (tmp_path / "epochs").mkdir(exist_ok=True)
        (tmp_path / "epochs" / f"{epoch:02d}").symlink_to(name)
    assert run("--workdir", tmp_path, "--epochs", "2-3") == 0
    output = capsys.readouterr().out
    assert "mean of 2 models, " in output
    assert "epochs/02\n" in output
    assert f"saved: {tmp_path / 'average_2-3'}" in output
    found = from_preset(tmp_path / "average_2-3").get_weights()
    assert_same(found, average_models(models[:2]).get_weights())
    message = r"not kept these epochs: 4, 6-7; it has 2-3, 5\. .*train\.keep_epochs=2,7 to keep"
    with pytest.raises(EvaluationError, match=message):
        run("--workdir", tmp_path, "--epochs", "2-7")
    with pytest.raises(EvaluationError, match="it has none"):
        run("--workdir", tmp_path / "average_2-3", "--epochs", "1-2")


@pytest.mark.parametrize("text", ["6", "6,25", "25-6", "0-3", "3-3", "-3", "a-b", "1-2-3"])
def test_command_refuses_malformed_ranges_of_epochs(text, tmp_path):
    with pytest.raises(EvaluationError, match=f"FIRST-LAST, .* 6-25. Received: --epochs={text}"):
        main(Options(workdir=str(tmp_path), epochs=text))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--model a --model b",
        "--model a --model b --output c --epochs 1-2",
        "--model a --model b --workdir run --epochs 1-2",
        "--workdir run",
        "--epochs 1-2 --output c",
    ],
)
def test_command_refuses_other_combinations_of_flags(line):
    with pytest.raises(flags.Error, match="--output DIR or --workdir RUN --epochs FIRST-LAST"):
        parse_options(Options, line.split())


def test_command_overwrites_nothing(models, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    for output in (models[0], tmp_path / "thesis", tmp_path / "thesis" / "thesis.txt"):
        with pytest.raises(EvaluationError, match="written to a new folder"):
            run("--model", models[0], "--model", models[1], "--output", output)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]
    assert (pathlib.Path(models[0]) / "task.json").is_file()


@pytest.mark.slow  # the tests above call the command in this process
def test_command_in_a_process_of_its_own(models, tmp_path):
    command = [sys.executable, "-m", "ast_keras.average", "--model", models[0]]
    command += ["--model", models[1], "--output", str(tmp_path / "mean")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"saved: {tmp_path / 'mean'}\n")
    assert from_preset(tmp_path / "mean").num_classes == 3

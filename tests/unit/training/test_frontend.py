"""The filterbank of a run: its range comes from the recipe, and one that does not fit is named."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.errors import RecipeWarning
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.recipe import load_recipe, override
from ast_keras.training.build import make_model
from ast_keras.training.frontend import make_frontend
from ast_keras.weights.build import as_pretrained, build_classifier
from tests.reference.kaldi_fbank import fbank as exact

LABELS = LabelSet(("down", "up"))
BATS = FilterbankRange(256_000, 10_000.0, 120_000.0, 0.004, 0.001)
BAT_FLAGS = [f"frontend.{name}={value}" for name, value in dataclasses.asdict(BATS).items()]


def recipe(*settings):
    small = ["model.size=ast_test", "frontend.num_frames=48", "frontend.mean=-6", "frontend.std=3"]
    return override(load_recipe("quickstart"), [*small, *settings])


def chirps(count=3, seconds=0.051):
    """Returns calls that fall from 80 to 20 kHz in noise, float32 `[count, samples]` at 256 kHz."""
    rng = np.random.default_rng(3)
    time = np.arange(int(seconds * 256_000)) / 256_000
    phase = 2 * np.pi * (80e3 * time - 60e3 / seconds / 2 * time**2)
    noise = 0.01 * rng.standard_normal((count, len(time)))
    return (0.3 * np.sin(phase) + noise).astype("float32")


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecipeWarning)
        yield


@pytest.mark.parametrize(
    ("found", "frame_length", "frame_step"),
    [
        (BATS, 1024, 256),
        (FilterbankRange(96_000, 500.0, None, 0.05, 0.02), 4800, 1920),  # machines
        (FilterbankRange(1000, 1.0, 400.0, 2.0, 0.5), 2000, 500),  # seismic
    ],
)
def test_filterbank_of_a_range_equals_the_definition(found, frame_length, frame_step):
    flags = [f"frontend.{name}={value}" for name, value in dataclasses.asdict(found).items()]
    settings = recipe(*flags, "frontend.num_mel_bins=40").frontend
    layer = make_frontend(dataclasses.replace(settings, mean=0.0, std=0.5))
    layer = LogMelFilterbank.from_config({**layer.get_config(), "remove_waveform_mean": False})
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 6 * frame_length).astype("float32")
    expected = exact(
        waveform,
        num_mel_bins=40,
        sample_rate=found.sample_rate,
        frame_length=frame_length,
        frame_step=frame_step,
        f_min_hz=found.f_min_hz,
        f_max_hz=found.f_max_hz or found.sample_rate / 2,
    )
    result = layer(waveform[None])[0, : len(expected)]
    # float32 has steps of 1e-6 at 16, the largest value here; observed 1.3e-6.
    np.testing.assert_allclose(result, expected, rtol=0, atol=4e-6)


def test_model_of_another_range_is_saved_and_exported_with_it(tmp_path):
    settings = ["model.patch_size=64,4", "model.strides=64,4", "frontend.num_mel_bins=64"]
    settings += ["model.num_layers=1"]
    model = make_model(recipe(*BAT_FLAGS, *settings), LABELS)
    assert FilterbankRange.of(model.frontend) == BATS
    assert model.frontend.num_samples == 47 * 256 + 1024
    assert model.default_num_samples == model.frontend.num_samples
    waveform = chirps()
    expected = model(waveform)
    save_to_preset(model, tmp_path / "model")
    again = from_preset(tmp_path / "model")
    assert FilterbankRange.of(again.frontend) == BATS
    np.testing.assert_array_equal(again(waveform), expected)
    # The network takes its range along to another model and to another length.
    longer = from_preset(tmp_path / "model", num_frames=96)
    assert FilterbankRange.of(longer.frontend) == BATS
    assert FilterbankRange.of(build_classifier(as_pretrained(model)).frontend) == BATS
    # Exported files compute the filterbank as a convolution.
    convolution = LogMelFilterbank.from_config({**model.frontend.get_config(), "method": "conv"})
    # The documented bound next to a steady tone is 3e-4 before the division by 2 std = 6.
    np.testing.assert_allclose(convolution(waveform), model.frontend(waveform), rtol=0, atol=3e-4)


def warning_of(function, *args):
    with pytest.warns(RecipeWarning) as caught:
        function(*args)
    (warning,) = caught
    message = str(warning.message)
    assert "\n" not in message
    return message


def test_empty_mel_bins_are_a_warning_that_names_what_fits():
    settings = recipe("frontend.sample_rate=8000").frontend
    message = warning_of(make_frontend, settings)
    assert message.startswith("4 of 128 mel bins are narrower than the spacing of the Fourier")
    assert "set frontend.num_mel_bins=95 or frontend.frame_length_seconds=0.05." in message
    for fitting in ({"num_mel_bins": 95}, {"frame_length_seconds": 0.05}):
        make_frontend(dataclasses.replace(settings, **fitting))


def test_normalisation_of_audioset_with_another_range_is_a_warning():
    settings = recipe(*BAT_FLAGS, "frontend.mean=-4.2677393", "frontend.std=4.5689974").frontend
    message = warning_of(make_frontend, settings)
    assert "audit DATA --set frontend.sample_rate=256000 --set frontend.f_min_hz=10000.0" in message
    make_frontend(dataclasses.replace(settings, mean=-5.0))


@pytest.fixture(scope="module")
def bats(tmp_path_factory):
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("bats") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecipeWarning)
        save_to_preset(make_model(recipe(*BAT_FLAGS), LABELS), folder)
    return folder


def test_start_weights_of_another_range_are_a_warning_with_the_flags_that_keep_it(bats):
    start = f"model.start={bats}"
    message = warning_of(make_model, recipe(start), LABELS)
    assert f"made for 128 mel bins of {BATS}, and this run has 128 of 16000 Hz, 20 to" in message
    flags = message.split("Keep theirs with ")[1].split(" --set ")
    flags[0] = flags[0].removeprefix("--set ")
    made = make_model(recipe(start, *flags), LABELS)  # no warning
    assert FilterbankRange.of(made.frontend) == BATS
    message = warning_of(make_model, recipe(start, *flags, "frontend.num_mel_bins=160"), LABELS)
    assert message.endswith("Keep theirs with --set frontend.num_mel_bins=128")


def test_half_the_sample_rate_is_the_same_range_as_none():
    assert FilterbankRange(8000, f_max_hz=4000.0) == FilterbankRange(8000)
    assert FilterbankRange(8000, f_max_hz=3999.0) != FilterbankRange(8000)

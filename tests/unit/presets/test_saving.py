"""Models saved to a folder and back, bit for bit, and never half."""

import json
import os

import keras
import numpy as np
import pytest

from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.presets import saving
from ast_keras.presets.loading import from_preset, save_to_preset

LABELS = LabelSet(("dog", "cow", "hen"), ("d", "c", "h"))
WAVEFORM = (0.1 * np.random.default_rng(11).standard_normal((2, 4000))).astype("float32")
FILES = {
    "config.json",
    "task.json",
    "audio_converter.json",
    "metadata.json",
    "model.weights.h5",
    "task.weights.h5",
    "labels.csv",
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return from_preset(
        "ast_test",
        labels=LABELS,
        num_frames=32,
        strides=(16, 16),
        augment=SpectrogramAugment(freq_mask_bins=8, seed=2),
        score_activation="sigmoid",
        head_layer_norm_epsilon=1e-4,
    )


@pytest.fixture(scope="module")
def original(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    save_to_preset(model, folder)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A fresh copy of the saved model, for a test to damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def error_of(function, *args, **kwargs):
    """Returns the one line that a WeightsError says."""
    with pytest.raises(WeightsError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_weights(actual, expected):
    assert [w.path for w in actual.weights] == [w.path for w in expected.weights]
    for ours, theirs in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


# --- Folders ---


def test_preset_folder_holds_its_files(original, model):
    assert {path.name for path in original.iterdir()} == FILES
    assert original.stat().st_mode & 0o777 == 0o755
    metadata = json.loads((original / "metadata.json").read_text())
    assert metadata["parameter_count"] == model.count_params()
    assert metadata["keras_version"] == keras.__version__
    assert LabelSet.from_csv(original / "labels.csv") == LABELS
    # The backbone's and the frontend's configuration stand for themselves.
    for name, part in (("config", model.backbone), ("audio_converter", model.frontend)):
        config = json.loads((original / f"{name}.json").read_text())
        revived = keras.saving.deserialize_keras_object(config)
        assert revived.get_config() == part.get_config()


def test_saved_backbone_weights_load_into_a_backbone(original, model):
    config = json.loads((original / "config.json").read_text())
    backbone = keras.saving.deserialize_keras_object(config)
    backbone.load_weights(original / "model.weights.h5")
    for ours, theirs in zip(backbone.get_weights(), model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_model_comes_back_bit_identical(original, model):
    loaded = from_preset(original)
    assert_same_weights(loaded, model)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    np.testing.assert_array_equal(loaded(WAVEFORM), model(WAVEFORM))
    seeds = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(
        loaded(WAVEFORM, training=True, seeds=seeds), model(WAVEFORM, training=True, seeds=seeds)
    )


def test_saved_model_without_frontend_and_labels_comes_back(tmp_path):
    model = from_preset("ast_test", num_classes=5, num_frames=32, num_layers=1, frontend=None)
    save_to_preset(model, tmp_path / "new" / "model")
    assert {p.name for p in (tmp_path / "new" / "model").iterdir()} == FILES - {
        "audio_converter.json",
        "labels.csv",
    }
    loaded = from_preset(str(tmp_path / "new" / "model"))
    assert loaded.frontend is None
    assert loaded.labels is None
    assert_same_weights(loaded, model)


# --- Damage ---


@pytest.mark.parametrize("name", ["task.json", "task.weights.h5", "model.weights.h5"])
def test_from_preset_rejects_a_folder_without_a_file(name, saved):
    (saved / name).unlink()
    assert str(saved / name) in error_of(from_preset, saved)


def test_from_preset_rejects_an_empty_folder(tmp_path):
    with pytest.raises(WeightsError, match="The folder holds no weights"):
        from_preset(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", '{"class_name": "ASTClassifier"', b"\xff\xfe", "[]"])
def test_from_preset_rejects_a_damaged_configuration(damage, saved):
    data = damage if isinstance(damage, bytes) else damage.encode()
    (saved / "task.json").write_bytes(data)
    assert str(saved / "task.json") in error_of(from_preset, saved)


def edited(key, value):
    """Returns a function that changes an entry of the classifier's saved configuration."""

    def edit(config):
        if value is None:
            del config["config"][key]
        else:
            config["config"][key] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.update(registered_name="ast_keras>Unknown", class_name="Unknown"),
        lambda config: config.update(keras.saving.serialize_keras_object(keras.layers.Dense(3))),
        lambda config: config.clear(),
        edited("backbone", None),
        edited("num_classes", None),
        edited("num_classes", "three"),
        edited("score_activation", "relu"),
        edited("of_a_later_version", 3),
        edited("labels", {"names": ["dog"], "ids": ["d"]}),
    ],
)
def test_from_preset_rejects_a_configuration_that_is_no_classifiers(edit, saved):
    config = json.loads((saved / "task.json").read_text())
    edit(config)
    (saved / "task.json").write_text(json.dumps(config))
    assert str(saved / "task.json") in error_of(from_preset, saved)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_from_preset_rejects_truncated_weights(share, saved):
    path = saved / "task.weights.h5"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = error_of(from_preset, saved)
    assert "cannot be read" in message
    assert str(path) in message


def test_from_preset_rejects_weights_of_another_model(saved):
    other = from_preset("ast_test", num_classes=4, num_frames=32, num_layers=1, frontend=None)
    other.save_weights(saved / "task.weights.h5")
    assert str(saved / "task.weights.h5") in error_of(from_preset, saved)


# --- Replacing ---


def test_save_replaces_an_older_model_as_a_whole(saved, model):
    (saved / "stale.txt").write_text("of the older model")
    other = from_preset("ast_test", num_classes=5, num_frames=32, num_layers=1, frontend=None)
    save_to_preset(other, saved)
    assert {p.name for p in saved.iterdir()} == FILES - {"audio_converter.json", "labels.csv"}
    assert_same_weights(from_preset(saved), other)
    assert list(saved.parent.iterdir()) == [saved]


def test_save_uses_an_empty_folder(tmp_path, model):
    target = tmp_path / "empty"
    target.mkdir()
    save_to_preset(model, target)
    assert {p.name for p in target.iterdir()} == FILES
    assert list(tmp_path.iterdir()) == [target]


def test_save_refuses_a_folder_that_is_no_model(tmp_path, model):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    assert "holds other files" in error_of(save_to_preset, model, tmp_path)
    assert contents(tmp_path) == before


def test_save_refuses_a_file(tmp_path, model):
    (tmp_path / "model").write_text("a file")
    assert str(tmp_path / "model") in error_of(save_to_preset, model, tmp_path / "model")
    assert contents(tmp_path) == {"model": b"a file"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_save_that_fails_leaves_the_old_model(error, saved, model, monkeypatch):
    before = contents(saved)

    def fail_after_the_weights(*args, **kwargs):  # those of the backbone are written by then
        raise error

    monkeypatch.setattr(saving.saving_lib, "save_weights_only", fail_after_the_weights)
    with pytest.raises(type(error)):
        save_to_preset(model, saved)
    assert contents(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_save_that_fails_leaves_nothing_new(tmp_path, model, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(saving.saving_lib, "save_weights_only", fail)
    with pytest.raises(OSError, match="disk full"):
        save_to_preset(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_save_that_fails_while_swapping_leaves_the_old_model(saved, model, monkeypatch):
    before = contents(saved)
    rename = os.rename

    def fail_for_the_new_one(source, target, **kwargs):
        if os.fspath(target) == os.fspath(saved) and os.fspath(source).find("-old-") < 0:
            raise OSError("device busy")
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="device busy"):
        save_to_preset(model, saved)
    assert contents(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_weights_of_a_larger_model_are_refused(tmp_path):
    for layers in (1, 2):
        model = from_preset("ast_test", num_classes=3, num_frames=64, num_layers=layers)
        save_to_preset(model, tmp_path / str(layers))
    (tmp_path / "2" / "model.weights.h5").rename(tmp_path / "1" / "model.weights.h5")
    with pytest.raises(WeightsError, match="belong to another model"):
        from_preset(tmp_path / "1")

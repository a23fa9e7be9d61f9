"""Saved models: bit-identical when loaded, complete or absent, refused when damaged."""

import json
import os
import shutil

import h5py
import keras
import numpy as np
import pytest

from ast_keras.errors import WeightsError
from ast_keras.labels import LabelSet
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.presets import saving
from ast_keras.presets.loading import from_preset, save_to_preset
from tests.helpers.arrays import assert_same
from tests.helpers.errors import error_of
from tests.helpers.paths import GOLDENS

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


def assert_same_weights(actual, expected):
    assert [w.path for w in actual.weights] == [w.path for w in expected.weights]
    assert_same(actual.get_weights(), expected.get_weights())


# --- Folders ---


def test_preset_folder_holds_its_files(original, model):
    assert {path.name for path in original.iterdir()} == FILES
    assert original.stat().st_mode & 0o777 == 0o755
    metadata = json.loads((original / "metadata.json").read_text())
    assert metadata["parameter_count"] == model.count_params()
    assert metadata["keras_version"] == keras.__version__
    assert LabelSet.from_csv(original / "labels.csv") == LABELS
    # The configurations of backbone and filterbank can be loaded alone.
    for name, part in (("config", model.backbone), ("audio_converter", model.frontend)):
        config = json.loads((original / f"{name}.json").read_text())
        revived = keras.saving.deserialize_keras_object(config)
        assert revived.get_config() == part.get_config()


def test_saved_backbone_weights_load_into_a_backbone(original, model):
    config = json.loads((original / "config.json").read_text())
    backbone = keras.saving.deserialize_keras_object(config)
    backbone.load_weights(original / "model.weights.h5")
    assert_same(backbone.get_weights(), model.backbone.get_weights())


def test_every_weight_is_stored_once(original, model):
    stored = {}
    for name in ("model", "task"):
        with h5py.File(original / f"{name}.weights.h5") as file:
            sizes = []
            file.visititems(lambda _, item, sizes=sizes: sizes.append(getattr(item, "size", 0)))
            stored[name] = sum(sizes)
    assert stored["model"] == model.backbone.count_params()
    assert sum(stored.values()) == model.count_params()


class LossOfMyOwn(keras.losses.MeanSquaredError):
    """A loss that is not registered with Keras, as in a user's script."""


@pytest.mark.parametrize("loss", [LossOfMyOwn(), lambda targets, logits: (targets - logits) ** 2])
def test_what_a_model_is_compiled_with_is_not_saved(loss, tmp_path):
    model = from_preset("ast_test", num_classes=3, num_frames=32, num_layers=1, frontend=None)
    model.compile("adam", loss)
    model.optimizer.build(model.trainable_variables)
    save_to_preset(model, tmp_path / "model")
    assert_same_weights(from_preset(tmp_path / "model"), model)
    with h5py.File(tmp_path / "model" / "task.weights.h5") as file:
        assert "optimizer" not in file


def test_format_version_1_is_read_without_its_second_copy_of_the_backbone(tmp_path):
    shutil.copytree(GOLDENS / "saved_0.1.0" / "plain", tmp_path / "epoch")
    (tmp_path / "epoch" / "model.weights.h5").unlink()  # as the epochs of old runs are
    old, whole = from_preset(tmp_path / "epoch"), from_preset(GOLDENS / "saved_0.1.0" / "plain")
    assert_same_weights(old, whole)
    save_to_preset(old, tmp_path / "new")
    assert_same_weights(from_preset(tmp_path / "new"), whole)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (3, "saved by a later version of ast-keras: update ast-keras. Received: format_version=3"),
        (0, "format_version must be a positive integer"),
        ("2", "format_version must be a positive integer"),
    ],
)
def test_other_format_versions_are_refused(version, message, saved):
    metadata = json.loads((saved / "metadata.json").read_text())
    assert metadata["format_version"] == 2
    (saved / "metadata.json").write_text(json.dumps({**metadata, "format_version": version}))
    (saved / "task.json").write_text("{}")  # of a later version, so that it is not interpreted
    assert message in error_of(from_preset, saved)


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
def test_from_preset_rejects_the_configuration_of_another_class(edit, saved):
    config = json.loads((saved / "task.json").read_text())
    edit(config)
    (saved / "task.json").write_text(json.dumps(config))
    assert str(saved / "task.json") in error_of(from_preset, saved)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.9])
@pytest.mark.parametrize("name", ["task.weights.h5", "model.weights.h5"])
def test_from_preset_rejects_truncated_weights(name, fraction, saved):
    path = saved / name
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    message = error_of(from_preset, saved)
    assert "cannot be read" in message
    assert str(path) in message


def test_from_preset_rejects_weights_of_another_model(saved):
    other = from_preset("ast_test", num_classes=4, num_frames=32, num_layers=1, frontend=None)
    other.save_weights(saved / "task.weights.h5")
    assert str(saved / "task.weights.h5") in error_of(from_preset, saved)


# --- Replacing ---


def test_save_replaces_an_older_model_as_a_whole(saved, model):
    (saved / "stale.txt").write_text("a file of the older model")
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


def test_save_refuses_a_folder_with_other_files(tmp_path, model):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    assert "holds other files" in error_of(save_to_preset, model, tmp_path)
    assert contents(tmp_path) == before


def test_save_refuses_a_file(tmp_path, model):
    (tmp_path / "model").write_text("a file")
    assert str(tmp_path / "model") in error_of(save_to_preset, model, tmp_path / "model")
    assert contents(tmp_path) == {"model": b"a file"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_save_leaves_the_old_model(error, saved, model, monkeypatch):
    before = contents(saved)

    def fail_after_the_weights(*args, **kwargs):  # those of the backbone are written by then
        raise error

    monkeypatch.setattr(saving.saving_lib, "save_weights_only", fail_after_the_weights)
    with pytest.raises(type(error)):
        save_to_preset(model, saved)
    assert contents(saved) == before
    assert list(saved.parent.iterdir()) == [saved]


def test_failed_save_leaves_no_folder(tmp_path, model, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(saving.saving_lib, "save_weights_only", fail)
    with pytest.raises(OSError, match="disk full"):
        save_to_preset(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_failed_replacement_leaves_the_old_model(saved, model, monkeypatch):
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

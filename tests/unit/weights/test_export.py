"""Exported weights: names, shapes and settings of the other implementation, complete folders."""

import json

import keras
import numpy as np
import pytest

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.presets.loading import from_preset
from ast_keras.weights import export
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.export import export_weights
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.pretrained import read_pretrained
from ast_keras.weights.readers.safetensors import read_safetensors
from tests.helpers import errors
from tests.helpers.paths import GOLDENS

FILES = {
    "authors": {"model.safetensors", "labels.csv"},
    "transformers": {"model.safetensors", "config.json", "preprocessor_config.json"},
}


def small(**arguments):
    parts = {"labels": LabelSet(("dog", "cow"), ("d", "c")), "num_frames": 48, **arguments}
    return from_preset("ast_test", **parts)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    return small(strides=(12, 8), score_activation="sigmoid")


def exported(model, folder, to):
    export_weights(model, folder, to)
    return folder


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("to", FILES)
def test_folder_holds_its_files(to, model, tmp_path):
    target = tmp_path / "new" / "folder"
    assert {path.name for path in exported(model, target, to).iterdir()} == FILES[to]
    assert target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    bare = exported(small(frontend=None, labels=None, num_classes=3), tmp_path / "bare", to)
    assert {path.name for path in bare.iterdir()} == FILES[to] - {
        "labels.csv",
        "preprocessor_config.json",
    }


@pytest.mark.parametrize(
    ("to", "golden"),
    [
        ("authors", "original_small.safetensors"),
        ("transformers", "hf_ast_small/model.safetensors"),
    ],
)
def test_tensors_have_the_names_and_shapes_of_the_other_implementation(to, golden, tmp_path):
    expected = read_safetensors(GOLDENS / golden)
    model = from_preset(GOLDENS / golden, num_heads=3, num_frames=256)
    found = read_safetensors(exported(model, tmp_path / to, to) / "model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        if "v.head" in name:  # the unused heads of timm, of 1000 classes
            assert found[name].shape[0] == 1000
            assert not found[name].any()
            assert found[name].shape[1:] == value.shape[1:]
        else:
            np.testing.assert_array_equal(found[name], value, strict=True)


def test_configuration_holds_the_golden_keys_and_values(tmp_path):
    golden = GOLDENS / "hf_ast_small"
    folder = exported(from_preset(golden), tmp_path / "again", "transformers")
    config = read(folder / "config.json")
    assert (
        config.pop("problem_type") == "single_label_classification"
    )  # absent from the stored file
    expected = read(golden / "config.json")
    assert config == {
        k: expected[k] for k in expected if k not in ("dtype", "transformers_version")
    }
    extractor = "preprocessor_config.json"
    assert read(folder / extractor) == read(golden / extractor)


def test_configuration_describes_the_model(model, tmp_path):
    folder = exported(model, tmp_path / "folder", "transformers")
    config = read(folder / "config.json")
    assert (config["frequency_stride"], config["time_stride"]) == (12, 8)
    assert (config["max_length"], config["num_mel_bins"], config["patch_size"]) == (48, 128, 16)
    assert (config["hidden_size"], config["num_hidden_layers"]) == (48, 2)
    assert (config["num_attention_heads"], config["intermediate_size"]) == (3, 96)
    assert config["layer_norm_eps"] == 1e-6
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "dog", "1": "cow"}
    assert config["label2id"] == {"dog": 0, "cow": 1}
    source = read_pretrained(folder)
    assert source.score_activation == "sigmoid"
    assert source.labels.names == model.labels.names
    assert (source.mean, source.std) == (-4.2677393, 4.5689974)
    assert source.filterbank_range == FilterbankRange()
    csv = exported(model, tmp_path / "authors", "authors") / "labels.csv"
    assert LabelSet.from_csv(csv) == model.labels


def test_differences_to_the_other_implementation_are_listed(model, tmp_path):
    theirs = [
        "the file does not record that scores come from a sigmoid",
        "the file does not record the log-mel mean -4.26774, the standard deviation 4.569 and the "
        "sample rate 16000 Hz",
        "2 blocks of 48 are not a size of their ASTModel, which must be changed",
    ]
    assert export_weights(model, tmp_path / "1", "authors") == theirs
    assert export_weights(model, tmp_path / "2", "transformers") == [
        "the head's LayerNorm adds 1e-06 there, 1e-05 here"
    ]
    frontend = LogMelFilterbank(
        num_frames=48, num_mel_bins=128, window="hamming", f_min_hz=50.0, preemphasis=0.9
    )
    other = small(frontend=frontend, layer_norm_epsilon=1e-12, head_layer_norm_epsilon=1e-12)
    filterbank = [
        "the filterbank has window='hann' there, 'hamming' here",
        "the filterbank has f_min_hz=20.0 there, 50.0 here",
        "the filterbank has preemphasis=0.97 there, 0.9 here",
    ]
    assert export_weights(other, tmp_path / "3", "transformers") == filterbank
    assert export_weights(other, tmp_path / "4", "authors") == [
        "the blocks' LayerNorm adds 1e-06 there, 1e-12 here",
        "the head's LayerNorm adds 1e-05 there, 1e-12 here",
        *filterbank,
        *(line.replace("sigmoid", "softmax") for line in theirs),
    ]


def test_weights_of_a_half_precision_model_are_float32(tmp_path):
    half = small(dtype="mixed_bfloat16")
    tensors = read_pretrained(exported(half, tmp_path / "half", "transformers")).tensors
    for name, value in canonical_tensors(half).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value, strict=True)


# --- Refused ---


def error_of(model, folder, to):
    return errors.error_of(export_weights, model, folder, to)


@pytest.mark.parametrize("to", FILES)
def test_network_without_distillation_token_is_refused(to, tmp_path):
    plain = small(use_distillation_token=False)
    assert "distillation token" in error_of(plain, tmp_path / "plain", to)
    assert list(tmp_path.iterdir()) == []


def test_transformers_needs_square_patches(tmp_path):
    model = small(patch_size=(32, 8), frontend=None)
    assert "square patches. Received: patch_size=(32, 8)" in error_of(
        model, tmp_path / "no", "transformers"
    )
    assert list(tmp_path.iterdir()) == []
    folder = exported(model, tmp_path / "yes", "authors")
    fallback_geometry = Geometry(num_frames=48)
    assert read_pretrained(folder, num_heads=3, fallback_geometry=fallback_geometry).patch_size == (
        32,
        8,
    )


def test_unknown_target_is_refused(model, tmp_path):
    assert "to must be one of authors, transformers" in error_of(model, tmp_path / "x", "timm")


def test_folder_must_be_empty(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        assert str(target) in error_of(model, target, "authors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["years of work"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert {path.name for path in exported(model, empty, "authors").iterdir()} == FILES["authors"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failed_export_leaves_no_folder(error, model, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(export, "write_json", fail)  # after the tensors
    with pytest.raises(type(error)):
        export_weights(model, tmp_path / "folder", "transformers")
    assert list(tmp_path.iterdir()) == []

"""Models by name and from files: new, saved and released ones, the latter from a folder."""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from ast_keras.errors import LabelError, WeightsError
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.presets import loading
from ast_keras.presets.loading import (
    SIZES,
    backbone_from_preset,
    filterbank_from_preset,
    from_preset,
    save_to_preset,
)
from ast_keras.presets.released import AUDIOSET_MEAN, PUBLISHED
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.build import to_causal
from ast_keras.weights.export import export_weights
from tests.helpers import arrays
from tests.helpers.errors import error_of
from tests.helpers.paths import GOLDENS

LABELS = LabelSet(("dog", "cow", "hen"), ("d", "c", "h"))
WAVEFORM = (0.1 * np.random.default_rng(11).standard_normal((2, 4000))).astype("float32")
SMALL = {"embed_dim": 48, "num_layers": 3, "num_heads": 3, "mlp_dim": 192}


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


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """The folder of a saved causal model: blocks of 4 columns, 2 past blocks."""
    folder = tmp_path_factory.mktemp("causal") / "model"
    model = from_preset("ast_test", num_classes=3, num_frames=126)
    save_to_preset(to_causal(model, block_columns=4, past_blocks=2), folder)
    return folder


def assert_same_weights(actual, expected):
    arrays.assert_same(canonical_tensors(actual), canonical_tensors(expected))


# --- Named sizes ---


def test_from_preset_creates_a_named_size():
    name = "ast_nano"
    made = from_preset(name, num_classes=5, num_frames=32, num_mel_bins=64, num_layers=1)
    assert made.name == name
    assert made.backbone.embed_dim == SIZES[name]["embed_dim"]
    assert made.backbone.num_layers == 1
    assert (made.frontend.num_frames, made.frontend.num_mel_bins) == (32, 64)
    assert made(WAVEFORM).shape == (2, 5)
    assert made.labels is None


def test_from_preset_takes_a_frontend_or_none():
    frontend = LogMelFilterbank(sample_rate=8000, num_frames=32, num_mel_bins=128)
    made = from_preset("ast_test", num_classes=5, num_frames=32, num_layers=1, frontend=frontend)
    assert made.frontend is frontend
    made = from_preset("ast_test", num_classes=5, num_frames=32, num_layers=1, frontend=None)
    assert made(np.zeros((1, 32, 128), "float32")).shape == (1, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "ast_bse", "num_classes": 5}, "mean 'ast_base'.* Received: preset='ast_bse'"),
        ({"preset": "ast_base_audoiset"}, "Did you mean 'ast_base_audioset'"),
        ({"preset": "ast_test"}, "A new model needs num_classes or labels"),
        (
            {"preset": "ast_test", "num_classes": 5, "num_frame": 3},
            "no such argument: .*'num_frame'",
        ),
        ({"preset": "ast_test", "num_classes": 5, "labels": LABELS}, "one label for each class"),
        ({"preset": "ast_test", "num_classes": 5, "num_heads": 5}, "num_heads must divide"),
        ({"preset": "ast_test", "num_classes": 5, "num_frames": 8}, "at least one patch"),
    ],
)
def test_from_preset_rejects(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        from_preset(**arguments)
    assert "\n" not in str(error.value)


# --- Saved models ---


@pytest.mark.parametrize(
    ("arguments", "classes", "labels"),
    [
        ({"num_classes": 3}, 3, None),
        ({"labels": LabelSet(("hen", "cow", "dog"))}, 3, LabelSet(("hen", "cow", "dog"))),
        ({"labels": LabelSet(("a", "b")), "num_classes": 2}, 2, LabelSet(("a", "b"))),
    ],
)
def test_from_preset_gives_a_saved_model_a_fresh_head(arguments, classes, labels, original, model):
    loaded = from_preset(original, **arguments)
    assert loaded.num_classes == classes
    assert loaded.labels == labels
    assert loaded(WAVEFORM).shape == (2, classes)
    for ours, theirs in zip(loaded.backbone.weights, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if classes == model.num_classes:
        assert not np.array_equal(loaded.head.kernel, model.head.kernel)
    # Nothing states whether several new classes may be right at once: the default is one.
    assert loaded.score_activation == (
        "sigmoid" if labels and set(labels.names) == set(LABELS.names) else "softmax"
    )
    kept = ("head_layer_norm_epsilon", "augment", "frontend")
    for name in kept:
        assert loaded.get_config()[name] == model.get_config()[name]


def test_from_preset_keeps_the_head_of_the_same_labels(original, model):
    assert_same_weights(from_preset(original, labels=LABELS), model)


def test_from_preset_rejects_labels_of_another_number(original):
    with pytest.raises(LabelError, match="one label for each class"):
        from_preset(original, num_classes=4, labels=LABELS)


def test_from_preset_fits_a_saved_model(original, model):
    loaded = from_preset(original, num_frames=64, num_mel_bins=64, dropout=0.5)
    assert loaded.backbone.grid == (4, 4)
    assert (loaded.frontend.num_frames, loaded.frontend.num_mel_bins) == (64, 64)
    assert loaded.backbone.dropout == 0.5
    assert loaded.labels == LABELS
    assert loaded.name == model.name
    np.testing.assert_array_equal(loaded.head.kernel, model.head.kernel)
    for name in ("augment", "score_activation", "head_layer_norm_epsilon"):
        assert loaded.get_config()[name] == model.get_config()[name]
    assert loaded(WAVEFORM).shape == (2, 3)


def test_from_preset_keeps_settings_of_a_saved_model_unless_overridden(tmp_path):
    made = from_preset(
        "ast_test", num_classes=2, num_frames=32, dtype="mixed_bfloat16", drop_path=0.2
    )
    save_to_preset(made, tmp_path / "model")
    loaded = from_preset(tmp_path / "model", num_classes=3)
    assert loaded.backbone.policy.name == "mixed_bfloat16"
    assert loaded.backbone.drop_path == 0.2
    assert from_preset(tmp_path / "model", dtype="float32").backbone.policy.name == "float32"
    assert from_preset(tmp_path / "model", frontend=None).frontend is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 1}, "keeps its architecture.*Received: num_layers"),
        ({"num_frame": 64}, "Did you mean 'num_frames'.*Received: num_frame"),
        ({"num_heads": 4}, "states its own num_heads: .*Received: num_heads=4"),
        ({"format": "timm"}, "states its own format: .*Received: format='timm'"),
    ],
)
def test_from_preset_rejects_what_does_not_apply_to_a_saved_model(arguments, message, original):
    with pytest.raises(WeightsError, match=message):
        from_preset(original, **arguments)


@pytest.mark.parametrize(
    "overrides",
    [
        {"dtype": "mixed_bfloat16"},
        {"num_classes": 4},
        {"padding": "masked"},
        {"num_mel_bins": 64},
        {"dropout": 0.1, "labels": LABELS},
    ],
)
def test_causal_model_stays_causal_under_overrides(overrides, causal):
    loaded = from_preset(causal, **overrides)
    assert isinstance(loaded.backbone, CausalASTBackbone)
    assert loaded.backbone.block_columns == 4
    assert not loaded.frontend.remove_waveform_mean
    if overrides == {"padding": "masked"}:  # no weight and no option changes
        np.testing.assert_array_equal(loaded(WAVEFORM), from_preset(causal)(WAVEFORM))


def test_causal_model_names_what_cannot_be_overridden(causal):
    message = error_of(from_preset, causal, padding="original")
    assert message == (
        "A CausalASTBackbone always has padding='masked': leave padding out. "
        "Received: padding='original'"
    )
    with pytest.raises(ValueError, match="whole number of blocks: set it to 86"):
        from_preset(causal, num_frames=100)


def test_methods_of_the_classifier_are_the_functions(model, tmp_path):
    model.save_to_preset(tmp_path / "model")
    loaded = ASTClassifier.from_preset(tmp_path / "model")
    assert_same_weights(loaded, model)
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    made = ASTClassifier.from_preset("ast_test", 4, num_frames=32)
    assert made.num_classes == 4


# --- Backbones and filterbanks ---


def test_backbone_is_loaded_alone(original, causal, model):
    loaded = backbone_from_preset(original)
    arrays.assert_same(loaded.get_weights(), model.backbone.get_weights())
    fitted = backbone_from_preset(causal, dtype="mixed_bfloat16")
    assert isinstance(fitted, CausalASTBackbone)
    assert fitted.policy.name == "mixed_bfloat16"
    images = backbone_from_preset(GOLDENS / "deit_small_224.safetensors", num_heads=3)
    assert images.grid == (12, 101)
    assert backbone_from_preset("ast_test", num_frames=32).num_frames == 32
    with pytest.raises(WeightsError, match="augment cannot be set"):
        backbone_from_preset(original, augment=None)


def test_filterbank_is_loaded_alone(original, causal, model, tmp_path):
    assert filterbank_from_preset(original).get_config() == model.frontend.get_config()
    assert not filterbank_from_preset(causal, num_frames=64).remove_waveform_mean
    assert filterbank_from_preset("ast_test").num_frames == 1024
    released = filterbank_from_preset("ast_base_speech_commands")  # downloads nothing
    assert (released.num_frames, released.mean, released.std) == (128, -6.845978, 5.5654526)
    file = filterbank_from_preset(GOLDENS / "hf_ast_small")
    assert (file.num_frames, file.mean) == (256, AUDIOSET_MEAN)
    with pytest.raises(WeightsError, match="have no filterbank"):
        filterbank_from_preset("deit_tiny")
    save_to_preset(from_preset(original, frontend=None), tmp_path / "bare")
    with pytest.raises(WeightsError, match=r"has no filterbank.*bare"):
        filterbank_from_preset(tmp_path / "bare")


# --- Released weights, from a folder ---


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A presets folder, and rows for small models in the table of released weights."""
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setenv("AST_KERAS_PRESETS", str(folder))
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setitem(loading.SIZES, "small", SMALL)
    monkeypatch.setitem(loading.SIZES, "test", SIZES["ast_test"])
    for name, like, changes in (
        ("small_sounds", "ast_base_audioset", {"num_frames": 256, "labels": None}),
        ("small_words", "ast_base_speech_commands", {"size": "test"}),
        ("small_images", "deit_base_384", {}),
    ):
        changes = {"size": "small", "hub_id": f"nobody/{name}", "name": name, **changes}
        row = dataclasses.replace(PUBLISHED[like], **changes)
        monkeypatch.setitem(loading.PUBLISHED, name, row)
    return folder


@pytest.mark.parametrize("place", ["small_sounds/model.safetensors", "audioset_10_10_0.4593.pth"])
def test_released_audio_weights_are_read_from_the_folder(place, stand_in):
    golden = GOLDENS / f"original_small{pathlib.Path(place).suffix}"
    (stand_in / place).parent.mkdir(exist_ok=True)
    shutil.copy(golden, stand_in / place)
    expected = from_preset(golden, num_heads=3, num_frames=256)
    for name in ("small_sounds", "nobody/small_sounds"):
        loaded = from_preset(name)
        assert_same_weights(loaded, expected)
        assert (loaded.name, loaded.score_activation) == ("small", "sigmoid")
        assert loaded.frontend.mean == AUDIOSET_MEAN
        assert loaded.head_layer_norm_epsilon == 1e-5
    fresh = from_preset("small_sounds", num_classes=50, num_frames=128, strides=(16, 16))
    assert fresh.num_classes == 50
    assert fresh.backbone.grid == (8, 8)


def test_released_words_have_their_labels_and_normalisation(stand_in, tmp_path):
    words = LabelSet.load("speech_commands")
    made = from_preset("ast_test", labels=words, num_frames=128)
    export_weights(made, tmp_path / "exported", "authors")
    shutil.copy(tmp_path / "exported/model.safetensors", stand_in / "small_words.safetensors")
    loaded = from_preset("small_words")
    assert_same_weights(loaded, made)
    assert loaded.labels == words
    assert loaded.score_activation == "sigmoid"
    assert (loaded.frontend.mean, loaded.frontend.std) == (-6.845978, 5.5654526)
    some = LabelSet(("yes", "no"))
    assert from_preset("small_words", labels=some).labels == some


def test_released_image_weights_are_transferred(stand_in):
    shutil.copy(GOLDENS / "deit_small_384.safetensors", stand_in / "small_images.safetensors")
    loaded = from_preset("small_images", labels=LABELS, num_frames=512)
    with np.load(GOLDENS / "transfer.npz") as golden:
        expected = golden["pos_1"]  # strides (10, 10), 512 frames
    # PyTorch rounds interpolation positions to float32: seen 4.2e-7 among the golden cases.
    found = canonical_tensors(loaded)["pos_embed"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert loaded.labels == LABELS
    with pytest.raises(WeightsError, match="no audio head: give num_classes or labels"):
        from_preset("small_images")


def test_saved_model_from_released_weights_is_the_same(stand_in, tmp_path):
    shutil.copy(GOLDENS / "original_small.pth", stand_in / "small_sounds.pth")
    loaded = from_preset("small_sounds")
    loaded.save_to_preset(tmp_path / "model")
    again = from_preset(tmp_path / "model")
    assert_same_weights(again, loaded)
    np.testing.assert_array_equal(again(WAVEFORM), loaded(WAVEFORM))


def test_released_file_of_another_size_is_refused(stand_in, tmp_path):
    made = from_preset("ast_test", labels=LabelSet.load("audioset"))
    export_weights(made, tmp_path / "exported", "authors")
    file = stand_in / "ast_base_audioset.safetensors"
    shutil.copy(tmp_path / "exported/model.safetensors", file)
    message = error_of(from_preset, "ast_base_audioset")
    assert "must be those of ast_base, embed_dim=768, num_layers=12, num_heads=12" in message
    assert "Received: embed_dim=48, num_layers=2, num_heads=12, mlp_dim=96" in message
    assert str(file) in message


def test_released_weights_have_a_known_number_of_heads(stand_in):
    shutil.copy(GOLDENS / "original_small.pth", stand_in / "small_sounds.pth")
    assert from_preset("small_sounds", num_heads=3).backbone.num_heads == 3
    assert "Received: embed_dim=48, num_layers=3, num_heads=4" in error_of(
        from_preset, "small_sounds", num_heads=4
    )


def test_released_file_in_another_format_is_refused(stand_in):
    shutil.copy(GOLDENS / "original_small.pth", stand_in / "small_sounds.pth")
    with pytest.raises(WeightsError, match="set it to 'authors'"):
        from_preset("small_sounds", format="timm")


def test_missing_released_weights_name_where_to_put_them(stand_in):
    with pytest.raises(WeightsError) as error:
        from_preset("small_sounds")
    assert str(stand_in / "small_sounds" / "model.safetensors") in str(error.value)
    assert "audioset_10_10_0.4593.pth" in str(error.value)


def test_checkpoint_is_named_by_its_prefix(tmp_path):
    (tmp_path / "ckpt-1.index").write_bytes(b"not a table")
    with pytest.raises(WeightsError, match="ckpt-1"):  # found, but not readable
        from_preset(tmp_path / "ckpt-1", num_classes=3)
    line = error_of(from_preset, tmp_path / "ckpt-2", num_classes=3)
    assert "There is no such file or folder" in line

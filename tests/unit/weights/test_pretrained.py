"""Pretrained networks: settings from configuration files, inferred geometry, refused tensors."""

import json
import math

import numpy as np
import pytest

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.errors import LabelError
from ast_keras.labels import LabelSet
from ast_keras.weights.config_files import NetworkSettings
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.pretrained import read_pretrained
from ast_keras.weights.readers.safetensors import write_safetensors
from tests.helpers import errors
from tests.helpers.paths import GOLDENS
from tests.reference.named_weights import (
    AST,
    CLASSES,
    EMBED,
    authors,
    canonical,
    random,
    timm,
    transformers,
)

HF = GOLDENS / "hf_ast_small"
SIZE = {"strides": (4, 4), "num_frames": 12, "num_mel_bins": 8}  # 2 x 3 patches of 4 x 4
CONFIG = {
    "model_type": "audio-spectrogram-transformer",
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-9,
    "frequency_stride": 4,
    "time_stride": 4,
    "max_length": 12,
    "num_mel_bins": 8,
    "id2label": {"1": "cow", "0": "dog", "3": "cat", "2": "hen"},
}
EXTRACTOR = {"do_normalize": True, "mean": -5.5, "std": 3.25, "sampling_rate": 8000}


def saved(folder, tensors, config=None, extractor=None):
    """Writes a folder in the layout of transformers."""
    write_safetensors(folder / "model.safetensors", tensors)
    for name, content in (("config", config), ("preprocessor_config", extractor)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text)
    return folder


def ast_folder(folder, **changes):
    tensors = transformers(canonical(), f"{AST}.", 4)
    return saved(folder, tensors, {**CONFIG, **changes}, EXTRACTOR)


def error_of(*args, **kwargs):
    return errors.error_of(read_pretrained, *args, **kwargs)


# --- Configuration files ---


def test_configuration_adds_what_the_tensors_do_not_show(tmp_path):
    source = read_pretrained(ast_folder(tmp_path))
    assert source.num_heads == 3
    assert (source.strides, source.num_frames, source.num_mel_bins) == ((4, 4), 12, 8)
    assert source.grid == (2, 3)
    assert (source.layer_norm_epsilon, source.head_layer_norm_epsilon) == (1e-9, 1e-9)
    assert (source.mean, source.std) == (-5.5, 3.25)
    assert source.filterbank_range == FilterbankRange(8000)
    assert source.labels == LabelSet(("dog", "cow", "hen", "cat"))
    assert source.score_activation is None
    assert (source.embed_dim, source.mlp_dim, source.num_layers) == (EMBED, 20, 2)
    assert (source.patch_size, source.num_classes) == ((4, 4), CLASSES)
    assert source.use_distillation_token
    assert source.description == "2 blocks of 12, 3 heads, 2 x 3 patches of 4 x 4, 4 classes"
    file = read_pretrained(tmp_path / "model.safetensors")  # the same through the file's path
    assert file.labels == source.labels


@pytest.mark.parametrize(
    ("problem", "activation"),
    [
        ("multi_label_classification", "sigmoid"),
        ("single_label_classification", "softmax"),
        (None, None),
    ],
)
def test_problem_type_decides_the_activation(problem, activation, tmp_path):
    assert (
        read_pretrained(ast_folder(tmp_path, problem_type=problem)).score_activation == activation
    )


def test_placeholder_labels_are_ignored(tmp_path):
    names = {str(index): f"LABEL_{index}" for index in range(CLASSES)}
    assert read_pretrained(ast_folder(tmp_path, id2label=names)).labels is None


def test_extractor_without_normalisation_gives_identity_normalisation(tmp_path):
    tensors = transformers(canonical(), f"{AST}.", 5)
    saved(tmp_path, tensors, CONFIG, {**EXTRACTOR, "do_normalize": False})
    source = read_pretrained(tmp_path)
    assert (source.mean, source.std) == (0.0, 0.5)  # (x - mean) / (2 std) is x


def test_files_without_configuration_have_the_epsilons_of_their_format(tmp_path):
    tensors = canonical()
    write_safetensors(tmp_path / "hf", transformers(tensors, f"{AST}.", 4))
    source = read_pretrained(tmp_path / "hf", num_heads=3, fallback_geometry=Geometry(**SIZE))
    assert (source.layer_norm_epsilon, source.head_layer_norm_epsilon) == (1e-12, 1e-12)
    write_safetensors(tmp_path / "authors", authors(tensors))
    source = read_pretrained(tmp_path / "authors", num_heads=3, fallback_geometry=Geometry(**SIZE))
    assert (source.layer_norm_epsilon, source.head_layer_norm_epsilon) == (1e-6, 1e-5)
    assert (source.mean, source.std, source.labels) == (None, None, None)


def test_configuration_of_another_library_is_ignored(tmp_path):
    tensors = timm(canonical(channels=3, head=False, grid=(2, 2)))
    saved(tmp_path, tensors, {"architecture": "deit3", "num_classes": 1000})
    assert read_pretrained(tmp_path, num_heads=3).grid == (2, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "three"},
        {"num_attention_heads": True},
        {"layer_norm_eps": "small"},
        {"layer_norm_eps": math.nan},
        {"layer_norm_eps": -1e-6},
        {"layer_norm_eps": [1e-6]},
        {"time_stride": -4},
        {"max_length": 12.0},
        {"num_mel_bins": None},
        {"id2label": {"0": "dog", "2": "cow"}},
        {"id2label": ["dog", "cow", "hen", "cat"]},
        {"id2label": {"0": "dog", "1": "dog", "2": "hen", "3": "cat"}},
        {"id2label": {"0": 1, "1": 2, "2": 3, "3": 4}},
    ],
)
def test_damaged_configuration_is_refused(changes, tmp_path):
    assert "damaged" in error_of(ast_folder(tmp_path, **changes))


def test_configuration_with_too_few_labels_is_refused(tmp_path):
    folder = ast_folder(tmp_path, id2label={"0": "dog", "1": "cow"})
    with pytest.raises(LabelError, match="one label for each class"):
        read_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_configuration_that_is_not_json_is_refused(text, name, tmp_path):
    ast_folder(tmp_path)
    (tmp_path / name).write_text(text)
    message = error_of(tmp_path)
    assert "damaged" in message
    assert str(tmp_path / name) in message


@pytest.mark.parametrize("name", ["gelu_new", "relu", None, ["gelu"]])
def test_other_activation_is_refused(name, tmp_path):
    assert "exact GELU" in error_of(ast_folder(tmp_path, hidden_act=name))


def test_known_settings_override_the_files(tmp_path):
    ast_folder(tmp_path)
    known = NetworkSettings(mean=1.0, std=2.0, labels=LabelSet(tuple("abcd")))
    source = read_pretrained(tmp_path, num_heads=2, known=known)
    assert (source.mean, source.std, source.labels.names) == (1.0, 2.0, tuple("abcd"))
    assert (source.strides, source.num_heads) == ((4, 4), 2)


# --- Inferred settings ---


def sized(folder, num_patches, classes=CLASSES, patch=(16, 16), embed=64):
    """Writes a file in the authors' format with any number of patches."""
    tensors = {
        "v.cls_token": np.zeros((1, 1, embed)),
        "v.dist_token": np.zeros((1, 1, embed)),
        "v.pos_embed": np.zeros((1, 2 + num_patches, embed)),
        "v.patch_embed.proj.weight": np.zeros((embed, 1, *patch)),
        "v.patch_embed.proj.bias": np.zeros(embed),
        "mlp_head.1.weight": np.zeros((classes, embed)),
        "mlp_head.1.bias": np.zeros(classes),
    }
    shapes = {"attn.qkv": (3 * embed, embed), "attn.proj": (embed, embed)}
    shapes |= {"mlp.fc1": (8, embed), "mlp.fc2": (embed, 8), "norm1": (embed,), "norm2": (embed,)}
    shapes = {f"v.blocks.0.{name}": shape for name, shape in shapes.items()}
    for name, shape in (shapes | {"v.norm": (embed,), "mlp_head.0": (embed,)}).items():
        tensors |= {f"{name}.weight": np.zeros(shape), f"{name}.bias": np.zeros(shape[0])}
    path = folder / "model.safetensors"
    write_safetensors(path, {name: value.astype("float32") for name, value in tensors.items()})
    return path


@pytest.mark.parametrize(
    ("num_patches", "strides", "num_frames", "grid"),
    [
        (1212, (10, 10), 1024, (12, 101)),
        (850, (12, 12), 1024, (10, 85)),
        (657, (14, 14), 1024, (9, 73)),
        (512, (16, 16), 1024, (8, 64)),
        (144, (10, 10), 128, (12, 12)),
        (600, (10, 10), 512, (12, 50)),
    ],
)
def test_released_sizes_are_recognised(num_patches, strides, num_frames, grid, tmp_path):
    source = read_pretrained(sized(tmp_path, num_patches))
    assert (source.strides, source.num_frames, source.grid) == (strides, num_frames, grid)
    assert (source.num_mel_bins, source.num_heads) == (128, 1)


def test_other_sizes_must_be_given(tmp_path):
    path = sized(tmp_path, 12 * 20)
    message = error_of(path)
    assert "give the strides, num_frames and num_mel_bins" in message
    assert "240 patches" in message
    assert read_pretrained(path, fallback_geometry=Geometry(num_frames=210)).grid == (12, 20)
    assert "240 patches" in error_of(path, fallback_geometry=Geometry(num_frames=250))
    assert "num_frames=1024" in error_of(path, known=NetworkSettings(num_frames=1024))
    # The fallback geometry does not override that of a released model.
    assert (
        read_pretrained(sized(tmp_path, 144), fallback_geometry=Geometry(num_frames=500)).num_frames
        == 128
    )


@pytest.mark.parametrize(
    ("classes", "num_patches", "name"),
    [(527, 1212, "audioset"), (527, 512, "audioset"), (35, 144, "speech_commands")],
)
def test_published_labels_are_attached(classes, num_patches, name, tmp_path):
    source = read_pretrained(sized(tmp_path, num_patches, classes))
    assert source.labels == LabelSet.load(name)
    assert source.score_activation == "sigmoid"


@pytest.mark.parametrize(("classes", "num_patches"), [(35, 1212), (50, 512), (526, 1212)])
def test_other_numbers_of_classes_have_no_labels(classes, num_patches, tmp_path):
    source = read_pretrained(sized(tmp_path, num_patches, classes))
    assert (source.labels, source.score_activation) == (None, None)


def test_heads_are_64_wide_unless_their_number_is_given(tmp_path):
    assert read_pretrained(sized(tmp_path, 144, embed=192)).num_heads == 3
    assert read_pretrained(sized(tmp_path, 144, embed=192), num_heads=4).num_heads == 4
    assert "num_heads must divide" in error_of(sized(tmp_path, 144, embed=192), num_heads=5)
    assert "give num_heads" in error_of(sized(tmp_path, 144, embed=48))


@pytest.mark.parametrize("distilled", [True, False])
def test_image_network_has_a_square_grid(distilled, tmp_path):
    tensors = canonical(channels=3, head=False, grid=(3, 3), distilled=distilled)
    tensors |= {"head.weight": random(7, EMBED)}
    write_safetensors(tmp_path / "vit.safetensors", tensors)
    source = read_pretrained(tmp_path / "vit.safetensors", num_heads=3)
    assert (source.grid, source.num_special_tokens) == ((3, 3), 1 + distilled)
    assert (source.strides, source.num_frames, source.num_classes) == (None, None, None)
    other = {**tensors, "pos_embed": random(1, 7 + distilled, EMBED)}
    write_safetensors(tmp_path / "other.safetensors", other)
    assert "must form a square" in error_of(tmp_path / "other.safetensors", num_heads=3)


def test_distilled_network_without_its_token_is_refused(tmp_path):
    tensors = canonical(channels=3, head=False, grid=(3, 3))
    del tensors["dist_token"]
    write_safetensors(tmp_path / "deit.safetensors", tensors)
    assert "must form a square" in error_of(tmp_path / "deit.safetensors", num_heads=3)


# --- Refused tensors ---

WRONG = {
    "v.cls_token": (1, EMBED),
    "v.dist_token": (1, 2, EMBED),
    "v.pos_embed": (8, EMBED),
    "v.patch_embed.proj.bias": (EMBED, 1),
    "v.patch_embed.proj.weight": (EMBED, 2, 4, 4),
    "v.norm.weight": (EMBED + 1,),
    "v.blocks.1.norm2.bias": (),
    "v.blocks.1.attn.qkv.weight": (EMBED, 3 * EMBED),
    "v.blocks.1.mlp.fc1.weight": (21, EMBED),  # the first block's is 20
    "v.blocks.0.mlp.fc1.weight": (20,),
    "mlp_head.0.bias": (EMBED, EMBED),
    "mlp_head.1.weight": (CLASSES, EMBED, 1),
    "mlp_head.1.bias": (CLASSES + 1,),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shape_is_refused(name, tmp_path):
    tensors = {**authors(canonical(), ""), name: random(*WRONG[name])}
    write_safetensors(tmp_path / "ast.safetensors", tensors)
    message = error_of(
        tmp_path / "ast.safetensors", num_heads=3, fallback_geometry=Geometry(**SIZE)
    )
    assert "does not fit the others" in message or "patch kernel must be" in message


@pytest.mark.parametrize("name", ["v.pos_embed", "v.blocks.1.mlp.fc2.bias", "mlp_head.1.bias"])
def test_integer_tensors_are_refused(name, tmp_path):
    tensors = authors(canonical(), "")
    tensors[name] = tensors[name].astype("int32")
    write_safetensors(tmp_path / "ast.safetensors", tensors)
    message = error_of(
        tmp_path / "ast.safetensors", num_heads=3, fallback_geometry=Geometry(**SIZE)
    )
    assert f"must be floating point. Received: {name.removeprefix('v.')} of int32" in message


def test_format_is_checked(tmp_path):
    write_safetensors(tmp_path / "ast.safetensors", authors(canonical(), ""))
    path = tmp_path / "ast.safetensors"
    assert read_pretrained(path, "authors", 3, fallback_geometry=Geometry(**SIZE)).grid == (2, 3)
    assert "set it to 'authors'" in error_of(path, "timm", 3, fallback_geometry=Geometry(**SIZE))
    assert "not the variables of the Model Garden" in error_of(path, "model_garden")
    assert "format must be one of authors, timm" in error_of(path, "pytorch")


def test_golden_folder_is_read():
    source = read_pretrained(HF)
    assert source.weights.variant == "transformers 4 AST"
    assert len(source.weights.tensors) == 47
    assert source.weights.unused == {}

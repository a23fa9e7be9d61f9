"""The authors' weights into ours: all or none, every tensor used."""

import pathlib

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ast_keras.convert import (
    UNUSED,
    ConvertError,
    assign,
    authors_names,
    load_authors_weights,
    weights_by_path,
)
from ast_keras.model import ASTBackbone, ASTClassifier

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "original_small.safetensors"


def make_model(**changes):
    arguments = {"embed_dim": 48, "num_layers": 3, "num_heads": 3, "mlp_dim": 192}
    return ASTClassifier(ASTBackbone(**{**arguments, "num_frames": 256, **changes}), 11)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return make_model()


@pytest.fixture(scope="module")
def tensors():
    """The golden file's tensors, without the prefix of DataParallel."""
    return {name.removeprefix("module."): value for name, value in load_file(GOLDEN).items()}


def saved(tensors, path):
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


def assert_rejected_whole(function, model, *args):
    """Calls, expects a ConvertError of one line and no change to the model; returns the line."""
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 0.5))  # no tensor of the file
    before = model.get_weights()
    with pytest.raises(ConvertError) as error:
        function(model, *args)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- What is loaded ---


def test_every_weight_has_one_source_and_every_tensor_one_use(model, tensors):
    table = authors_names(model)
    assert sorted(table) == sorted(weights_by_path(model))
    assert len(weights_by_path(model)) == len(model.weights)
    used = [name for names, _ in table.values() for name in names]
    assert len(used) == len(set(used))
    assert set(used) | set(UNUSED) == set(tensors) | set(UNUSED)


def test_load_assigns_every_weight_in_its_layout(tensors):
    model = make_model()
    load_authors_weights(model, GOLDEN)
    weights = {path: weight.numpy() for path, weight in weights_by_path(model).items()}
    block = "v.blocks.2"
    np.testing.assert_array_equal(
        weights["block_2/attention/qkv/kernel"], tensors[f"{block}.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(
        weights["block_2/attention/projection/bias"], tensors[f"{block}.attn.proj.bias"]
    )
    np.testing.assert_array_equal(
        weights["block_2/mlp_norm/gamma"], tensors[f"{block}.norm2.weight"]
    )
    np.testing.assert_array_equal(weights["norm/beta"], tensors["v.norm.bias"])
    np.testing.assert_array_equal(weights["head/kernel"], tensors["mlp_head.1.weight"].T)
    np.testing.assert_array_equal(weights["positions/embedding"], tensors["v.pos_embed"][0])
    np.testing.assert_array_equal(weights["special_tokens/tokens"][0], tensors["v.cls_token"][0, 0])
    np.testing.assert_array_equal(
        weights["special_tokens/tokens"][1], tensors["v.dist_token"][0, 0]
    )
    kernel = tensors["v.patch_embed.proj.weight"]  # [embed, 1, mel, time]
    for mel, time in ((0, 0), (3, 11), (15, 2)):
        ours = weights["patches/projection/kernel"][mel, time, 0]
        np.testing.assert_array_equal(ours, kernel[:, 0, mel, time])


def test_load_takes_files_with_and_without_prefix_and_timms_heads(model, tensors, tmp_path):
    for name in UNUSED:
        tensors = {**tensors, name: np.zeros(3, "float32")}
    plain = saved(tensors, tmp_path / "plain.safetensors")
    prefixed = {f"module.{name}": value for name, value in tensors.items()}
    parallel = saved(prefixed, tmp_path / "parallel.safetensors")
    results = []
    for path in (GOLDEN, plain, str(parallel)):
        for weight in model.weights:
            weight.assign(np.zeros(weight.shape))
        load_authors_weights(model, path)
        results.append(model.get_weights())
    for first, *others in zip(*results, strict=True):
        assert np.any(first)
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_assign_takes_a_model_without_distillation_token(tensors):
    model = make_model(use_distillation_token=False)
    tensors = {name: value for name, value in tensors.items() if name != "v.dist_token"}
    tensors["v.pos_embed"] = np.delete(tensors["v.pos_embed"], 1, axis=1)
    assign(model, tensors)
    tokens = weights_by_path(model)["special_tokens/tokens"].numpy()
    np.testing.assert_array_equal(tokens, tensors["v.cls_token"][0])


def test_weights_by_path_is_the_same_under_any_model_name():
    named = ASTClassifier(ASTBackbone(48, 1, 3, 96, num_frames=32, name="head"), 2, name="norm")
    plain = ASTClassifier(ASTBackbone(48, 1, 3, 96, num_frames=32), 2)
    assert list(weights_by_path(named)) == list(weights_by_path(plain))
    assert len(weights_by_path(named)) == len(named.weights)


# --- What is not ---


def test_load_rejects_a_missing_tensor(model, tensors, tmp_path):
    for name in sorted(set(tensors) - set(UNUSED)):
        rest = {other: value for other, value in tensors.items() if other != name}
        assert f"Missing: {name}" in assert_rejected_whole(assign, model, rest)
    path = saved(rest, tmp_path / "rest.safetensors")
    assert f"Missing: {name}" in assert_rejected_whole(load_authors_weights, model, path)


def test_load_rejects_an_extra_tensor(model, tensors, tmp_path):
    more = {**tensors, "v.blocks.3.norm1.weight": np.ones(48, "float32")}
    path = saved(more, tmp_path / "more.safetensors")
    message = assert_rejected_whole(load_authors_weights, model, path)
    assert "First: v.blocks.3.norm1.weight" in message
    assert "num_layers" in message


@pytest.mark.parametrize("name", ["mlp_head.1.bias", "v.pos_embed", "v.patch_embed.proj.weight"])
def test_load_rejects_a_tensor_of_another_shape(name, model, tensors, tmp_path):
    cut = {**tensors, name: tensors[name][..., :-1]}
    path = saved(cut, tmp_path / "cut.safetensors")
    assert "shape" in assert_rejected_whole(load_authors_weights, model, path)


@pytest.mark.parametrize("name", ["v.pos_embed", "v.cls_token", "mlp_head.1.weight", "v.norm.bias"])
def test_load_rejects_a_tensor_of_another_rank(name, model, tensors):
    tensor = tensors[name]
    for value in (tensor[None], np.stack([tensor, tensor]), tensor.sum(), tensor[..., :0]):
        wrong = {**tensors, name: value}
        assert "shape" in assert_rejected_whole(assign, model, wrong)


def test_load_rejects_two_position_embeddings(model, tensors):
    twice = {**tensors, "v.pos_embed": np.repeat(tensors["v.pos_embed"], 2, axis=0)}
    assert "shape" in assert_rejected_whole(assign, model, twice)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_load_rejects_a_truncated_file(share, model, tmp_path):
    data = GOLDEN.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(share * len(data))])
    message = assert_rejected_whole(load_authors_weights, model, path)
    assert "Not a readable safetensors file" in message
    assert str(path) in message


@pytest.mark.parametrize("name", ["gone.safetensors", "."])
def test_load_rejects_what_is_no_file(name, model, tmp_path):
    message = assert_rejected_whole(load_authors_weights, model, tmp_path / name)
    assert "no weights file here" in message

"""ImageNet weights transferred to spectrograms: equal to the authors' code."""

import json

import numpy as np
import pytest

from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.build import build_classifier
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.head import choose_head
from ast_keras.weights.pretrained import read_pretrained
from tests.helpers.paths import GOLDENS

META = json.loads((GOLDENS / "transfer.json").read_text())


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "transfer.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def sources():
    names = {case["deit"] for case in META["cases"]}
    return {name: read_pretrained(GOLDENS / name, num_heads=3) for name in names}


def transferred(case, sources):
    network = sources[case["deit"]]
    geometry = Geometry(
        strides=(case["fstride"], case["tstride"]),
        num_frames=case["input_tdim"],
        num_mel_bins=case["input_fdim"],
    )
    head = choose_head(network, META["label_dim"])
    return build_classifier(network, head, geometry, frontend=None)


def test_there_are_twenty_cases_and_half_have_logits():
    assert len(META["cases"]) == 20
    assert sum(case["has_logits"] for case in META["cases"]) == 10


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: str(case["i"]))
def test_transfer_equals_the_original(case, sources, golden):
    i, model = case["i"], transferred(case, sources)
    tensors = canonical_tensors(model)
    # PyTorch rounds interpolation positions to float32, up to 3.8e-6 from 64 on: seen 4.8e-7 for
    # numbers up to 0.2. The bound is twice that.
    np.testing.assert_allclose(tensors["pos_embed"], golden[f"pos_{i}"], rtol=0, atol=1e-6)
    assert tensors["patch_embed.proj.weight"].shape == (48, 1, 16, 16)
    total = tensors["patch_embed.proj.weight"].sum(dtype="float64")
    # Sums of the same 12,288 float32 numbers in double precision, whose order is NumPy's: seen 0.
    assert total == pytest.approx(case["patch_w_sum"], abs=1e-12)
    if not case["has_logits"]:
        return
    model.head_norm.set_weights([golden[f"head_{i}_ln_w"], golden[f"head_{i}_ln_b"]])
    model.head.set_weights([golden[f"head_{i}_w"].T, golden[f"head_{i}_b"]])
    logits = model(golden[f"x_{i}"]).numpy()
    assert np.abs(golden[f"logits_{i}"]).max() > 0.1  # otherwise the comparison would show nothing
    # Logits of size one after some 20 float32 sums in another order than PyTorch's: seen 6.3e-7.
    np.testing.assert_allclose(logits, golden[f"logits_{i}"], rtol=0, atol=4e-6)

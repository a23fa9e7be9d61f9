"""The model against the authors' code: logits, attention, numbers of parameters and patches."""

import keras
import numpy as np
import pytest

from ast_keras.layers.patch_embedding import PatchEmbedding, patch_grid
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.presets.loading import SIZES, from_preset
from tests.helpers.paths import GOLDENS

# At 1214 tokens and 527 classes. The authors print 88.13 M for the base size, because timm's two
# unused heads of 1000 classes are counted there.
PARAMETERS = {
    "ast_test": 134_639,
    "ast_nano": 640_271,
    "ast_tiny": 5_723_663,
    "ast_small": 22_063_631,
    "ast_base": 86_594_063,
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "original_small.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    file = GOLDENS / "original_small.safetensors"
    return from_preset(file, num_heads=3, num_frames=256, frontend=None)


def test_logits_equal_the_original(model, golden):
    logits = model(golden["x"]).numpy()
    assert np.abs(golden["logits"]).max() > 0.1  # so that the comparison is meaningful
    # Logits of size one after some 20 float32 sums in another order than PyTorch's; each changes a
    # number by up to 1.2e-7, in random directions: 5e-7 typically, seen 4.1e-7.
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=3e-6)


def test_attention_equals_the_original(model, golden):
    maps = model.backbone.attention_weights(golden["x"][:1])
    attention = np.stack([np.asarray(weights)[0, :, :2] for weights in maps])
    np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=0, atol=1e-6)
    # Weights of about 1/302, whose relative error is the error of the float32 scores, some 1e-6:
    # seen 1.4e-9.
    np.testing.assert_allclose(attention, golden["attention"], rtol=0, atol=1.5e-8)


def test_parameters_of_every_size_are_pinned():
    assert sorted(PARAMETERS) == sorted(SIZES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_table(name):
    # In this scope variables have shapes but no values, which would take 350 MB for the base size.
    with keras.StatelessScope(initialize_variables=False):
        model = ASTClassifier(ASTBackbone(**SIZES[name]), num_classes=527)
    keras.utils.clear_session()  # else Keras would initialise them at the end of the next scope
    assert model.backbone.output_shape == (None, 1214, SIZES[name]["embed_dim"])
    assert model.count_params() == PARAMETERS[name]


def test_base_size_has_the_parameters_of_the_paper():
    assert round(PARAMETERS["ast_base"] / 1e6, 2) == 86.59


# The paper's tables 5 (overlap) and 6 (shape), at 1024 frames of 128 mel bins.
@pytest.mark.parametrize(
    ("patch_size", "strides", "patches"),
    [
        ((16, 16), (16, 16), 512),
        ((16, 16), (14, 14), 657),
        ((16, 16), (12, 12), 850),
        ((16, 16), (10, 10), 1212),
        ((128, 2), (128, 2), 512),
        ((32, 32), (32, 32), 128),
    ],
)
def test_patches_equal_the_paper(patch_size, strides, patches):
    rows, columns = patch_grid(128, 1024, patch_size, strides)
    assert rows * columns == patches
    layer = PatchEmbedding(embed_dim=4, patch_size=patch_size, strides=strides)
    assert layer(np.zeros((1, 1024, 128), "float32")).shape == (1, patches, 4)


# The released checkpoints for 10 s, 5 s and 1 s. The paper counts ceil((frames - 16) / 10)
# patches along time. That is one less than here if frames - 16 is a multiple of 10.
@pytest.mark.parametrize(("num_frames", "patches"), [(1024, 1212), (512, 600), (128, 144)])
def test_patches_equal_the_released_checkpoints(num_frames, patches):
    rows, columns = patch_grid(128, num_frames)
    assert rows * columns == patches

"""Tests of `training.build`: the network of the start weights is kept."""

import pytest

from ast_keras import CausalASTBackbone, LabelSet, load_recipe
from ast_keras.errors import RecipeError
from ast_keras.recipe import override
from ast_keras.training.build import make_model
from tests.helpers.paths import GOLDENS

CAUSAL = GOLDENS / "saved_0.1.0" / "causal"  # 2 blocks of 2 patches, 32 bins, 48 frames
LABELS = LabelSet(["bell", "dog", "rain"])


def recipe(*settings):
    geometry = ["frontend.num_frames=48", "frontend.num_mel_bins=32", "model.size=auto"]
    geometry += ["frontend.mean=-4.3", "frontend.std=4.6"]
    start = [f"model.start={CAUSAL}", "model.patch_size=none", "model.strides=none"]
    return override(load_recipe("finetune"), [*geometry, *start, "train.loss=binary", *settings])


def test_causal_start_weights_need_a_causal_recipe():
    with pytest.raises(RecipeError, match=r"model\.block_columns=2 --set model\.past_blocks=1"):
        make_model(recipe(), LABELS)


def test_causal_start_weights_stay_causal():
    model = make_model(recipe("model.block_columns=2", "model.past_blocks=1"), LABELS)
    assert isinstance(model.backbone, CausalASTBackbone)
    assert (model.backbone.block_columns, model.backbone.past_blocks) == (2, 1)

"""Tests of `SpecialTokens`."""

import numpy as np
import pytest

from ast_keras.layers.special_tokens import SpecialTokens
from tests.helpers.arrays import random


@pytest.mark.parametrize(("distillation", "count"), [(True, 2), (False, 1)])
def test_special_tokens_precede_the_patches(distillation, count):
    layer = SpecialTokens(use_distillation_token=distillation)
    patches = random(3, 4, 6)
    tokens = layer(patches).numpy()
    assert layer.num_tokens == count
    assert layer.tokens.shape == (count, 6)
    np.testing.assert_array_equal(tokens[:, count:], patches)
    for example in tokens:
        np.testing.assert_array_equal(example[:count], layer.tokens.numpy())
    assert np.abs(layer.tokens.numpy()).max() > 0  # random, not zero

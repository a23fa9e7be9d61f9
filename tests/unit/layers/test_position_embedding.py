"""Tests of `PositionEmbedding`."""

import numpy as np
import pytest

from ast_keras.layers.position_embedding import PositionEmbedding
from tests.helpers.arrays import random


def test_position_embedding_adds_one_vector_to_each_token():
    layer = PositionEmbedding()
    tokens = random(3, 4, 6)
    layer.build(tokens.shape)
    assert layer.embedding.shape == (4, 6)
    np.testing.assert_array_equal(layer(tokens), tokens + layer.embedding.numpy())
    assert len({row.tobytes() for row in layer.embedding.numpy()}) == 4


@pytest.mark.parametrize("count", [1, 3, 5])
def test_position_embedding_rejects_another_number_of_tokens(count):
    layer = PositionEmbedding()
    layer(random(1, 4, 6))
    with pytest.raises(ValueError, match=r"is incompatible with the layer.*4, 6"):
        layer(random(1, count, 6))  # without the check, one token would be broadcast

"""SelfAttention, TransformerBlock and DropPath against their definition in float64 NumPy."""

import math

import keras
import numpy as np
import pytest

from ast_keras.errors import ArgumentError
from ast_keras.layers.attention import SelfAttention
from ast_keras.layers.drop_path import DropPath
from ast_keras.layers.transformer_block import TransformerBlock

RNG = np.random.default_rng(7)
HEADS, WIDTH, HIDDEN = 3, 12, 20
# float32 against float64, on outputs of size three at most: seen 3.2e-7.
CLOSE = {"rtol": 0, "atol": 1e-6}


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def randomised(layer, tokens):
    layer(tokens)
    layer.set_weights([0.3 * random(*weight.shape) for weight in layer.weights])
    return layer


def softmax(scores):
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def layer_norm(tokens, norm, epsilon):
    centred = tokens - tokens.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred / scale * norm.gamma.numpy() + norm.beta.numpy()


def dense(tokens, layer):
    return tokens @ layer.kernel.numpy().astype("float64") + layer.bias.numpy()


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention_of(tokens, layer):
    """Computes the output and the attention weights of one example, head by head."""
    size = tokens.shape[-1] // layer.num_heads
    query, key, value = np.split(dense(tokens, layer.qkv), 3, axis=-1)
    mixed, maps = [], []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        maps.append(softmax(query[:, part] @ key[:, part].T / math.sqrt(size)))
        mixed.append(maps[-1] @ value[:, part])
    return dense(np.concatenate(mixed, axis=-1), layer.projection), np.stack(maps)


def block_of(tokens, block):
    """Computes the output of a block for one example."""
    epsilon = block.layer_norm_epsilon
    normalised = layer_norm(tokens, block.attention_norm, epsilon)
    tokens = tokens + attention_of(normalised, block.attention)[0]
    hidden = gelu(dense(layer_norm(tokens, block.mlp_norm, epsilon), block.mlp_hidden))
    return tokens + dense(hidden, block.mlp_output)


def make_block(**changes):
    arguments = {"num_heads": HEADS, "mlp_dim": HIDDEN, "layer_norm_epsilon": 0.1}
    return TransformerBlock(**{**arguments, **changes})


@pytest.fixture(scope="module")
def tokens():
    return random(2, 7, WIDTH)


@pytest.fixture(scope="module")
def attention(tokens):
    return randomised(SelfAttention(num_heads=HEADS), tokens)


@pytest.fixture(scope="module")
def block(tokens):
    return randomised(make_block(), tokens)


def test_attention_equals_its_definition(attention, tokens):
    output, maps = attention(tokens).numpy(), attention.attention_weights(tokens).numpy()
    assert maps.shape == (2, HEADS, 7, 7)
    for index, example in enumerate(tokens.astype("float64")):
        expected, expected_maps = attention_of(example, attention)
        np.testing.assert_allclose(output[index], expected, **CLOSE)
        np.testing.assert_allclose(maps[index], expected_maps, **CLOSE)


def test_attention_permutes_with_its_tokens(attention, tokens):
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    expected = attention(tokens).numpy()[:, order]
    np.testing.assert_allclose(attention(tokens[:, order]).numpy(), expected, **CLOSE)


def test_attention_stays_finite_in_float16_where_raw_scores_do_not(tokens):
    layer = SelfAttention(num_heads=HEADS, dtype="mixed_float16")
    layer(tokens)
    kernel = np.zeros((WIDTH, 3 * WIDTH), "float32")
    kernel[:, : 2 * WIDTH] = 10.0
    layer.qkv.kernel.assign(kernel)
    large = np.full((1, 7, WIDTH), 1.25, "float32")
    query = 10.0 * 1.25 * WIDTH  # each of a head's four numbers, in queries and keys
    assert 4 * query**2 > np.finfo("float16").max > 4 * query**2 / math.sqrt(4)
    weights = layer.attention_weights(keras.ops.cast(large, "float16"))
    # 1 / 7 rounded to float16: seen 3.5e-5.
    np.testing.assert_allclose(np.asarray(weights, "float32"), 1 / 7, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [SelfAttention, make_block])
def test_layer_rejects_heads_that_do_not_divide_the_size(make, tokens):
    with pytest.raises(ArgumentError, match=r"num_heads must divide.*num_heads=5, embed_dim=12"):
        make(num_heads=5)(tokens)


def test_attention_computes_the_first_queries_only(attention, tokens):
    mask = np.tril(np.ones((1, 7, 7), bool))
    first = attention(tokens, attention_mask=mask, num_queries=2)
    assert first.shape == (2, 2, WIDTH)
    np.testing.assert_allclose(first, attention(tokens, attention_mask=mask)[:, :2], **CLOSE)


def test_attention_with_cache_equals_attention_at_once(attention, tokens):
    _, past = attention.attend_with_cache(tokens[:, :4], _empty_cache())
    later, (keys, values) = attention.attend_with_cache(tokens[:, 4:], past)
    assert keys.shape == values.shape == (2, HEADS, 7, WIDTH // HEADS)
    np.testing.assert_allclose(later, attention(tokens)[:, 4:], **CLOSE)


def _empty_cache():
    return (np.zeros((2, HEADS, 0, WIDTH // HEADS), "float32"),) * 2


def test_block_equals_its_definition(block, tokens):
    output = block(tokens).numpy()
    for index, example in enumerate(tokens.astype("float64")):
        np.testing.assert_allclose(output[index], block_of(example, block), **CLOSE)


def test_block_steps_equal_the_block_under_a_causal_mask(block, tokens):
    first, past = block.step(tokens[:, :4], _empty_cache())
    second, _ = block.step(tokens[:, 4:], past)
    index = np.array([0] * 4 + [1] * 3)
    whole = block(tokens, attention_mask=(index[:, None] >= index)[None])
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, **CLOSE)


def test_block_that_merges_nothing_equals_the_block(block, tokens):
    output, counts = block.call_and_merge(tokens, num_queries=2)
    assert counts is None
    np.testing.assert_allclose(output, block(tokens, num_queries=2), **CLOSE)


def test_block_merges_tokens(block, tokens):
    output, counts = block.call_and_merge(tokens, num_merged=2, num_special_tokens=1)
    assert output.shape == (2, 5, WIDTH)
    np.testing.assert_array_equal(np.sum(counts, axis=1), [7, 7])
    # The special token is not merged: its output is that of the whole block.
    np.testing.assert_allclose(output[:, :1], block(tokens)[:, :1], **CLOSE)


def test_attention_weights_of_a_block_are_those_it_uses(block, tokens):
    maps = block.attention_weights(tokens).numpy()
    for index, example in enumerate(tokens.astype("float64")):
        normalised = layer_norm(example, block.attention_norm, block.layer_norm_epsilon)
        expected = attention_of(normalised, block.attention)[1]
        np.testing.assert_allclose(maps[index], expected, **CLOSE)


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
def test_block_regularises_only_while_training(rate, block, tokens):
    layer = make_block(**{rate: 0.5})
    layer(tokens)
    layer.set_weights(block.get_weights())
    np.testing.assert_array_equal(layer(tokens), block(tokens))
    np.testing.assert_array_equal(layer(tokens, training=False), block(tokens))
    draws = {layer(tokens, training=True).numpy().tobytes() for _ in range(8)}
    assert len(draws) > 1


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    branch = random(4000, 3, 2)
    ratio = DropPath(rate=0.25, seed=1)(branch, training=True).numpy() / branch
    kept = ratio[:, 0, 0] > 0
    # Two float32 roundings: seen 8e-8.
    expected = np.broadcast_to(np.where(kept, 4 / 3, 0)[:, None, None], ratio.shape)
    np.testing.assert_allclose(ratio, expected, rtol=0, atol=2.5e-7)
    # Five standard deviations of 4,000 draws.
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 4000)


def test_drop_path_repeats_with_its_seed():
    branch = random(64, 2)
    one, two = (DropPath(rate=0.5, seed=9)(branch, training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(one, two)
    layer = DropPath(rate=0.5, seed=9)
    layer(branch, training=True)
    assert not np.array_equal(layer(branch, training=True), one)


def test_drop_path_of_rate_zero_has_no_state():
    assert DropPath(rate=0.0).variables == []
    assert len(DropPath(rate=0.1).variables) == 1


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_drop_path_rejects_a_rate_that_is_no_probability(rate):
    with pytest.raises(ArgumentError, match=r"rate must lie in \[0, 1\).*rate="):
        DropPath(rate=rate)

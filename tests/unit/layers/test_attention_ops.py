"""Attention and fused operations against float64 NumPy, TensorFlow's gradients and each other."""

import math

import numpy as np
import pytest
import tensorflow as tf

from ast_keras.layers import attention_ops, fused_ops

RNG = np.random.default_rng(11)
BATCH, HEADS, KEYS, SIZE = 2, 3, 37, 8
# float32 sums of 37 products against float64, on results of size one: seen 4e-7.
CLOSE = {"rtol": 0, "atol": 2e-6}
# Gradients are sums over twice as many: seen 1.1e-6 on sizes up to four.
CLOSE_GRADIENT = {"rtol": 0, "atol": 1e-5}


def random(*shape):
    return tf.constant(RNG.standard_normal(shape), "float32")


QUERY, KEY, VALUE = (random(BATCH, HEADS, KEYS, SIZE) for _ in range(3))
UPSTREAM = random(BATCH, KEYS, HEADS, SIZE)
BY_KEY = RNG.random((BATCH, 1, KEYS)) < 0.6
BY_KEY[:, :, 0] = True
BY_QUERY = RNG.random((1, KEYS, KEYS)) < 0.5
BY_QUERY[:, :, 1] = True
MASKS = {"none": None, "keys": tf.constant(BY_KEY), "queries": tf.constant(BY_QUERY)}
FORMS = {
    "inputs only": {"training": True},
    "chunks": {"training": True, "chunk_size": 8},  # the last of them is not full
    "one chunk": {"training": True, "chunk_size": 37},
    "chunks at inference": {"chunk_size": 5},
}
# Every form and mask in a graph; under XLA, which compiles for a second each, the ones that differ.
FORM_CASES = [
    *((form, mask, False) for form in FORMS for mask in MASKS),
    ("inputs only", "queries", True),
    ("chunks", "queries", True),
]


def expected(query, key, value, mask=None, token_counts=None):
    """Computes attention by its definition in float64."""
    query, key, value = (np.asarray(part, "float64") for part in (query, key, value))
    scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    if token_counts is not None:
        weights = weights * np.asarray(token_counts)[:, None, None]
    if mask is not None:
        weights = weights * np.asarray(mask)[:, None]
    return (weights / weights.sum(-1, keepdims=True) @ value).swapaxes(1, 2)


def with_gradients(function, *tensors, upstream):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        output = function(*tensors)
    return output, *tape.gradient(output, tensors, upstream)


@pytest.mark.parametrize(("form", "mask", "compiled"), FORM_CASES)
def test_every_form_of_attention_equals_the_definition(form, mask, compiled):
    mask = MASKS[mask]

    @tf.function(jit_compile=compiled)
    def form_of(*tensors):
        return with_gradients(
            lambda q, k, v: attention_ops.attention(q, k, v, mask, **FORMS[form]),
            *tensors,
            upstream=UPSTREAM,
        )

    output, *gradients = form_of(QUERY, KEY, VALUE)
    np.testing.assert_allclose(output, expected(QUERY, KEY, VALUE, mask), **CLOSE)
    # TensorFlow's automatic gradient of the plain operations.
    _, *plain = with_gradients(
        lambda q, k, v: attention_ops.attention(q, k, v, mask), QUERY, KEY, VALUE, upstream=UPSTREAM
    )
    for ours, theirs in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE_GRADIENT)


@pytest.mark.parametrize("training", [False, True])
def test_attention_of_unknown_lengths(training, monkeypatch):
    monkeypatch.setattr(attention_ops, "MIN_CHUNK_SIZE", 4)
    monkeypatch.setattr(attention_ops, "MAX_WEIGHTS_AT_ONCE", HEADS * KEYS * 10)
    free = tf.TensorSpec([None, HEADS, None, SIZE])
    attend = tf.function(
        lambda q, k, v: attention_ops.attention(q, k, v, None, training), input_signature=[free] * 3
    )
    np.testing.assert_allclose(attend(QUERY, KEY, VALUE), expected(QUERY, KEY, VALUE), **CLOSE)
    few = QUERY[:, :, :3]
    np.testing.assert_allclose(attend(few, KEY, VALUE), expected(few, KEY, VALUE), **CLOSE)


@pytest.mark.parametrize("chunk_size", [None, 8])
def test_key_has_the_weight_of_the_tokens_it_represents(chunk_size):
    counts = RNG.integers(1, 4, (BATCH, KEYS)).astype("float32")
    output = attention_ops.attention(
        QUERY, KEY, VALUE, chunk_size=chunk_size, token_counts=tf.constant(counts)
    )
    np.testing.assert_allclose(output, expected(QUERY, KEY, VALUE, token_counts=counts), **CLOSE)


def test_chunk_size_is_chosen_by_length():
    base_10_s, tiny_60_s = tf.TensorSpec([1, 12, 1214, 64]), tf.TensorSpec([1, 3, 7190, 64])
    assert attention_ops.choose_chunk_size(base_10_s, base_10_s) is None
    assert 1000 < attention_ops.choose_chunk_size(tiny_60_s, tiny_60_s) < 2000


def gelu_of(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_gelu_dense_and_its_gradients(compiled):
    x, kernel, bias, upstream = random(7, 5), random(5, 4), random(4), random(7, 4)

    @tf.function(jit_compile=compiled)
    def both(*tensors):
        return tuple(
            with_gradients(form, *tensors, upstream=upstream)
            for form in (
                fused_ops.gelu_dense,
                lambda x, k, b: tf.nn.gelu(x, approximate=False) @ k + b,
            )
        )

    fused, plain = both(x, kernel, bias)
    wanted = gelu_of(np.asarray(x, "float64")) @ np.asarray(kernel, "float64") + bias.numpy()
    np.testing.assert_allclose(fused[0], wanted, **CLOSE)
    for ours, theirs in zip(fused, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE_GRADIENT)


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_normalise_and_its_gradients(compiled):
    x, gamma, beta, upstream = 3 + 2 * random(7, 5), random(5), random(5), random(7, 5)

    @tf.function(jit_compile=compiled)
    def both(*tensors):
        return tuple(
            with_gradients(
                lambda *t, training=training: fused_ops.normalise(*t, 1e-6, training),
                *tensors,
                upstream=upstream,
            )
            for training in (True, False)
        )

    fused, plain = both(x, gamma, beta)
    exact = np.asarray(x, "float64")
    unit = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(fused[0], unit * gamma.numpy() + beta.numpy(), **CLOSE)
    for ours, theirs in zip(fused, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE_GRADIENT)


def test_norm_dense_equals_a_norm_and_a_dense_layer():
    x, gamma, beta = 3 + 2 * random(7, 5), random(5), random(5)
    kernel, bias, upstream = random(5, 4), random(4), random(7, 4)
    tensors = (x, gamma, beta, kernel, bias)
    fused = with_gradients(
        lambda x, g, b, *dense: fused_ops.norm_dense(x, g, b, 1e-6, *dense),
        *tensors,
        upstream=upstream,
    )
    plain = with_gradients(
        lambda x, g, b, k, c: fused_ops.normalise(x, g, b, 1e-6) @ k + c,
        *tensors,
        upstream=upstream,
    )
    for ours, theirs in zip(fused, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE_GRADIENT)


def test_tensorflow_computes_the_softmax_a_second_time():
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata = tf.compat.v1.RunMetadata()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        query = tf.compat.v1.placeholder(tf.float32, QUERY.shape)
        output = attention_ops.attention(query, query, query, training=True)
        (slope,) = tf.gradients(output, query)
        values = {query: np.ones(QUERY.shape, "float32")}
        session.run([output, slope], values, options, metadata)
    ops = [node.op for graph in metadata.partition_graphs for node in graph.node]
    assert sum("Softmax" in op for op in ops) == 2


def test_xla_computes_the_softmax_a_second_time():
    @tf.function(jit_compile=True)
    def slope(query, upstream):
        output = attention_ops.attention(query, query, query, training=True)
        return tf.gradients(output, query, upstream)[0]

    lower = slope.experimental_get_compiler_ir(QUERY, UPSTREAM)
    products = [lower(stage=stage).count(" dot(") for stage in ("hlo", "optimized_hlo")]
    # Two of the forward pass, one of them a second time, and four of the gradients.
    assert products == [7, 7]

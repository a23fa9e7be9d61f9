"""Scaled dot-product attention in forms that save memory and time.

TensorFlow's automatic gradients store every intermediate result. The largest are the attention
weights: AST-base has 12 heads x 1,214 x 1,214 weights in each of its 12 blocks. With
`training=True` the functions of this module store only their inputs and compute the weights a
second time for the gradient. That is also faster, because less memory is read and written. With
`training=False` they use only standard operations, which TensorFlow fuses and which TFLite and XLA
can convert.

For long clips the queries are processed in chunks, so that memory grows linearly with the length.
"""

import math

import ml_dtypes
import tensorflow as tf

from ast_keras.layers.fused_ops import zero_depending_on

# Largest number of attention weights per clip that is computed at once: 128 MB in float32, enough
# for AST-base with 10 s. Longer clips are split into chunks of queries.
MAX_WEIGHTS_AT_ONCE = 2**25
# Smaller chunks would make the matrix products inefficient.
MIN_CHUNK_SIZE = 128


def attention(query, key, value, mask=None, training=False, chunk_size=None, token_counts=None):
    """Computes scaled dot-product attention.

    Clips with more than `MAX_WEIGHTS_AT_ONCE` attention weights are computed in chunks of queries,
    one after another. The result is the same within float32 rounding.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, heads, keys, head_dim]`.
        value: `[batch, heads, keys, head_dim]`.
        mask: Optional bool `[batch or 1, queries or 1, keys]`, True where a query may attend to a
            key. Every query needs at least one such key.
        training: Whether a gradient will be computed. If so, the attention weights are not stored.
        chunk_size: Number of queries per chunk; None chooses it from the lengths.
        token_counts: Optional float `[batch, keys]`: number of original tokens that each key
            represents after token merging. A key with count 2 has the weight of two equal keys.

    Returns:
        `[batch, queries, heads, head_dim]`, in the dtype of the inputs.

    Reference:
        Vaswani et al., "Attention Is All You Need", NeurIPS 2017; for the chunks Rabe and Staats,
        "Self-attention Does Not Need O(n^2) Memory", 2021.

    Example:

    >>> heads = tf.random.normal([1, 3, 146, 16])
    >>> whole, chunked = (attention(heads, heads, heads, chunk_size=n) for n in (None, 32))
    >>> bool(tf.reduce_max(tf.abs(whole - chunked)) < 1e-5)
    True
    """
    chunk_size = chunk_size or choose_chunk_size(query, key)
    query = _scale(query)
    if token_counts is not None:
        query, key = _add_log_counts(query, key, token_counts)
    if chunk_size is not None:
        return ChunkedAttention(key, value, mask, chunk_size)(query)
    if training:
        return _attention_storing_inputs_only(query, key, value, mask)
    return _swap_heads(tf.matmul(_softmax_weights(query, key, mask), value))


def attention_weights(query, key, mask=None):
    """Computes the softmax weights of scaled dot-product attention.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, heads, keys, head_dim]`.
        mask: Optional bool `[batch or 1, queries or 1, keys]`, True where a query may attend to a
            key.

    Returns:
        `[batch, heads, queries, keys]`; each row sums to one.
    """
    return _softmax_weights(_scale(query), key, mask)


def choose_chunk_size(query, key):
    """Chooses how many queries are processed at once, from the number of attention weights.

    Args:
        query: `[batch, heads, queries, head_dim]`; only the shape is used.
        key: `[batch, heads, keys, head_dim]`; only the shape is used.

    Returns:
        None if all queries fit at once, else an int; an int tensor if a length is only known when
        the graph runs.
    """
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    if queries is not None and keys is not None:
        chunks = math.ceil(heads * queries * keys / MAX_WEIGHTS_AT_ONCE)
        return None if chunks <= 1 else max(math.ceil(queries / chunks), MIN_CHUNK_SIZE)
    queries, keys = tf.shape(query)[2], tf.shape(key)[2]
    fitting = MAX_WEIGHTS_AT_ONCE // (heads * keys)
    return tf.clip_by_value(fitting, MIN_CHUNK_SIZE, tf.maximum(queries, 1))


class ChunkedAttention:
    """Attention over chunks of queries, one after another, with its own gradient.

    Only the inputs and the result are stored. The gradient is computed for the same chunks, and
    the gradients for keys and values are summed over them.

    Args:
        key: `[batch, heads, keys, head_dim]`.
        value: `[batch, heads, keys, head_dim]`.
        mask: Optional bool `[batch or 1, queries or 1, keys]`.
        chunk_size: Number of queries per chunk, an int or an int tensor.
    """

    def __init__(self, key, value, mask, chunk_size):
        self.key, self.value = key, value
        self.chunk_size = chunk_size
        self._mask, self._mask_chunks = mask, None
        if mask is not None and mask.shape[1] != 1:
            self._mask_chunks = _split_queries(mask[:, None], chunk_size, fill=True)

    def __call__(self, query):
        """Returns `[batch, queries, heads, head_dim]` for the scaled queries."""

        @tf.custom_gradient
        def attend(query, key, value):
            output = self.forward(query, key, value)
            return output, lambda upstream: self.backward(query, key, value, output, upstream)

        return attend(query, self.key, self.value)

    def forward(self, query, key, value):
        """Computes the attention chunk by chunk, `[batch, queries, heads, head_dim]`."""

        def attend(index, queries):
            weights = _softmax_weights(queries[index], key, self._mask_of(index))
            return (tf.matmul(weights, value),)

        (output,) = _loop_over_chunks(attend, value.shape[-1], self.chunk_size, (query,))
        return _swap_heads(output)

    def backward(self, query, key, value, output, upstream):
        """Computes the gradients for query, key and value chunk by chunk."""

        def differentiate(index, queries, means, upstreams, for_key, for_value):
            for_query, more_for_key, more_for_value = _gradients(
                queries[index], key, value, self._mask_of(index), means[index], upstreams[index]
            )
            return for_query, for_key + more_for_key, for_value + more_for_value

        chunked = (query, *_mean_and_upstream(output, upstream))
        sums = (tf.zeros_like(key), tf.zeros_like(value))
        return _loop_over_chunks(differentiate, query.shape[-1], self.chunk_size, chunked, sums)

    def _mask_of(self, index):
        return self._mask if self._mask_chunks is None else self._mask_chunks[index][:, 0]


def _scale(query):
    # Scaling the query costs less than scaling the scores, and keeps the products in float16's
    # range.
    return query * query.shape[-1] ** -0.5


def _softmax_weights(query, key, mask):
    scores = tf.matmul(query, key, transpose_b=True)
    return tf.nn.softmax(scores if mask is None else _mask_scores(scores, mask))


def _add_log_counts(query, key, token_counts):
    """Appends a column to queries and keys that adds `log(token_counts)` to their products.

    Adding the logarithms to the scores would read and write all of them once more.
    """
    ones = tf.ones_like(query[..., :1])
    logs = tf.cast(tf.math.log(token_counts), key.dtype)[:, None, :, None]
    logs = logs * tf.ones_like(key[..., :1])
    return tf.concat([query, ones], axis=-1), tf.concat([key, logs], axis=-1)


def _mask_scores(scores, mask):
    """Returns scores `[batch, heads, ...]` with the lowest number where `mask` is False."""
    # The lowest finite number gives a weight of zero, as minus infinity does, but no NaN gradients.
    lowest = float(ml_dtypes.finfo(scores.dtype.name).min)
    return tf.where(mask[:, None], scores, tf.constant(lowest, scores.dtype))


def _swap_heads(tensor):
    """Transposes `[batch, heads, queries, size]` to `[batch, queries, heads, size]` or back."""
    return tf.transpose(tensor, (0, 2, 1, 3))


def _attention_storing_inputs_only(query, key, value, mask):
    @tf.custom_gradient
    def attend(query, key, value):
        output = _swap_heads(tf.matmul(_softmax_weights(query, key, mask), value))

        def gradient(upstream):
            mean_and_upstream = _mean_and_upstream(output, upstream)
            return _gradients(query, key, value, mask, *mean_and_upstream)

        return output, gradient

    return attend(query, key, value)


def _gradients(query, key, value, mask, mean, upstream):
    """Returns the gradients for query, key and value, computing the weights a second time.

    Args:
        query: Scaled queries `[batch, heads, queries, head_dim]`.
        key: `[batch, heads, keys, head_dim]`.
        value: `[batch, heads, keys, head_dim]`.
        mask: Optional bool `[batch or 1, queries or 1, keys]`.
        mean: `[batch, heads, queries, 1]`: the mean over keys that the gradient of softmax
            subtracts from each row, which equals the product of the output and its gradient.
        upstream: Gradient of the output, `[batch, heads, queries, head_dim]`.
    """
    weights = _softmax_weights(query + zero_depending_on(upstream), key, mask)
    for_value = tf.matmul(weights, upstream, transpose_a=True)
    # The mean is subtracted by one more column of the product: a subtraction after the product
    # would read and write all scores once more.
    upstream = tf.concat([upstream, -mean], axis=-1)
    value = tf.concat([value, tf.ones_like(value[..., :1])], axis=-1)
    # `for_value` is computed first. It is then no longer waiting to read `weights`, and TensorFlow
    # can reuse the memory of `weights` for the results below.
    with tf.control_dependencies([for_value]):
        for_scores = tf.matmul(upstream, value, transpose_b=True)
    for_scores = for_scores * weights
    for_key = tf.matmul(for_scores, query, transpose_a=True)
    return tf.matmul(for_scores, key), for_key, for_value


def _mean_and_upstream(output, upstream):
    mean = tf.reduce_sum(upstream * output, axis=-1, keepdims=True)
    return _swap_heads(mean), _swap_heads(upstream)


def _loop_over_chunks(function, size, chunk_size, tensors, sums=()):
    """Calls a function for one chunk of queries after another.

    The last chunk is filled up with zeros, which are zero in the gradients as well and are cut off
    from the result.

    Args:
        function: Takes `(index, *split tensors, *sums)`; returns the chunk's result with `size`
            numbers along the last axis, and the new sums.
        size: Length of the result's last axis.
        chunk_size: Number of queries per chunk.
        tensors: Tensors `[batch, heads, queries, any]` that are split along the queries.
        sums: Tensors that are accumulated over the chunks.

    Returns:
        The result `[batch, heads, queries, size]`, and the sums.
    """
    length = tf.shape(tensors[0])[2] if tensors[0].shape[2] is None else tensors[0].shape[2]
    parts = [_split_queries(tensor, chunk_size) for tensor in tensors]
    num_chunks = (length + chunk_size - 1) // chunk_size
    static = (*parts[0].shape[1:-1], size)
    results = tf.TensorArray(tensors[0].dtype, num_chunks, element_shape=static)

    def body(index, results, *sums):
        part, *sums = function(index, *parts, *sums)
        return (index + 1, results.write(index, part), *sums)

    _, results, *sums = tf.while_loop(
        lambda index, *_: index < num_chunks,
        body,
        (tf.constant(0), results, *sums),
        parallel_iterations=1,
        maximum_iterations=num_chunks,
    )
    joined = tf.transpose(results.stack(), (1, 2, 0, 3, 4))  # [batch, heads, chunks, chunk, size]
    batch, heads = tf.unstack(tf.shape(joined)[:2])
    joined = tf.reshape(joined, (batch, heads, -1, size))[:, :, :length]
    joined.set_shape((*tensors[0].shape[:-1], size))
    return (joined, *sums)


def _split_queries(tensor, chunk_size, fill=0):
    """Splits `[batch, heads, queries, size]` into `[chunks, batch, heads, chunk_size, size]`."""
    length = tf.shape(tensor)[2] if tensor.shape[2] is None else tensor.shape[2]
    missing = (chunk_size - length % chunk_size) % chunk_size
    tensor = tf.pad(tensor, ((0, 0), (0, 0), (0, missing), (0, 0)), constant_values=fill)
    batch, heads, _, size = tensor.shape
    batch = tf.shape(tensor)[0] if batch is None else batch
    size = tf.shape(tensor)[3] if size is None else size
    num_chunks = (length + missing) // chunk_size
    chunks = tf.reshape(tensor, (batch, heads, num_chunks, chunk_size, size))
    return tf.transpose(chunks, (2, 0, 1, 3, 4))

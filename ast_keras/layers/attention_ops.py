"""What a block computes between its matrix products, in forms that spare memory and time.

TensorFlow's automatic gradients keep every intermediate result. For AST those are the attention
weights, 12 heads x 1,214 x 1,214 in each of 12 blocks, and several copies of every token. The
functions here keep only their inputs and compute the rest again, which is faster, too, since less
is moved. They do so where a gradient is to be expected, `training=True`; otherwise they are plain
operations, which TensorFlow fuses and converters read.
"""

import math

import ml_dtypes
import tensorflow as tf

from ast_keras.layers.fused_ops import _late_zero

# So many attention weights of one clip are computed at once: 128 MB in float32, all of AST-base's
# for 10 s. Longer clips take their queries in chunks, of a size that keeps products efficient.
WEIGHTS_AT_ONCE = 2**25
_LEAST_CHUNK = 128


def attention(query, key, value, mask=None, training=False, chunk=None, sizes=None):
    """Returns what each query finds: the values, weighted by softmax over scaled products.

    For clips with more than `WEIGHTS_AT_ONCE` weights, queries are taken in chunks, one after the
    other, so that memory grows with the length and not with its square. The result is the same
    within rounding.

    Args:
      query: `[batch, heads, queries, head_dim]`.
      key: `[batch, heads, keys, head_dim]`.
      value: As `key`.
      mask: bool `[batch or 1, queries or 1, keys]`, True where a query may look; None for
        everywhere.
      training: Whether gradients are to be expected: then the weights are not kept.
      chunk: Number of queries at once; None chooses by length.
      sizes: How many equal tokens each key stands for, `[batch, keys]`; None for one each.

    Returns:
      `[batch, queries, heads, head_dim]`: the heads of a query side by side.

    Reference:
      Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory", 2021.

    Example:

    >>> heads = tf.random.normal([1, 3, 146, 16])
    >>> whole, parts = (attention(heads, heads, heads, chunk=size) for size in (None, 32))
    >>> bool(tf.reduce_max(tf.abs(whole - parts)) < 1e-5)
    True
    """
    chunk = chunk or _chunk_size(query, key)
    query = _scaled(query)
    if sizes is not None:
        query, key = _counting(query, key, sizes)
    if chunk is not None:
        return _in_chunks(query, key, value, mask, chunk)
    if training:
        return _at_once(query, key, value, mask)
    return _by_query(tf.matmul(_weights(query, key, mask), value))


def attention_weights(query, key, mask=None):
    """Returns how much each query attends to each key, `[batch, heads, queries, keys]`.

    Arguments as of `attention`; the rows add up to one.
    """
    return _weights(_scaled(query), key, mask)


def _scaled(query):
    # The query and not the scores: fewer numbers, and products inside float16's range.
    return query * query.shape[-1] ** -0.5


def _weights(query, key, mask):
    scores = tf.matmul(query, key, transpose_b=True)
    return tf.nn.softmax(scores if mask is None else _masked(scores, mask))


def _counting(query, key, sizes):
    """Returns queries and keys whose products have the logarithm of the keys' sizes added.

    As one more column of both: an addition to all scores would read and write them once more.
    """
    ones = tf.ones_like(query[..., :1])
    logs = tf.cast(tf.math.log(sizes), key.dtype)[:, None, :, None] * tf.ones_like(key[..., :1])
    return tf.concat([query, ones], axis=-1), tf.concat([key, logs], axis=-1)


def _masked(scores, mask):
    """Returns scores `[batch, heads, ...]`, lowest where the mask `[batch, ...]` is not True."""
    # Lowest, not infinite: its weight is zero all the same, and no gradient is NaN.
    lowest = float(ml_dtypes.finfo(scores.dtype.name).min)
    return tf.where(mask[:, None], scores, tf.constant(lowest, scores.dtype))


def windowed_attention(query, key, value, window, rows, num_special, mask=None, training=False):
    """Returns `attention` where patches look no further along time than a window.

    A patch attends to the patches at most `window` columns before and after its own, and to the
    special tokens, which attend to all. Memory and time grow with the length, not its square.

    Args:
      query: `[batch, heads, tokens, head_dim]`: special tokens, then the patches column by column
        (not mel-major).
      key: As `query`.
      value: As `query`.
      window: Number of columns to either side, at least 1.
      rows: Number of patches in a column.
      num_special: Number of special tokens.
      mask: bool `[batch or 1, 1, tokens]`, True for what may be looked at; None for all.
      training: As of `attention`.

    Returns:
      `[batch, tokens, heads, head_dim]`.

    Reference:
      Beltagy et al., "Longformer: The Long-Document Transformer", 2020.

    Example:

    >>> heads = tf.random.normal([1, 3, 2 + 12 * 40, 16])
    >>> windowed_attention(heads, heads, heads, window=5, rows=12, num_special=2).shape
    TensorShape([1, 482, 3, 16])
    """
    tokens, special = query.shape[2] or tf.shape(query)[2], num_special
    columns = (tokens - special) // rows
    everywhere = attention(query[:, :, :special], key, value, mask, training)
    blocks = (columns + window - 1) // window
    size = window * rows

    def by_block(heads):  # [batch, heads, blocks, size, head_dim]
        short = blocks * window * rows - rows * columns
        patches = tf.pad(heads[:, :, special:], ((0, 0), (0, 0), (0, short), (0, 0)))
        shape = tf.shape(heads)
        return tf.reshape(patches, (shape[0], heads.shape[1], blocks, size, heads.shape[3]))

    def in_sight(heads):  # of each block, the one before and the one after; special tokens first
        parts = tf.pad(by_block(heads), ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
        around = tf.concat([parts[:, :, :-2], parts[:, :, 1:-1], parts[:, :, 2:]], axis=3)
        first = heads[:, :, None, :special]
        shape = tf.shape(around)
        first = tf.broadcast_to(first, (shape[0], shape[1], shape[2], special, shape[4]))
        return tf.concat([first, around], axis=3)

    allowed = _window_mask(mask, rows, columns, window, special, blocks)
    scores = tf.matmul(_scaled(by_block(query)), in_sight(key), transpose_b=True)
    found = tf.matmul(tf.nn.softmax(_masked(scores, allowed)), in_sight(value))
    shape = tf.shape(query)
    found = tf.reshape(found, (shape[0], shape[1], blocks * size, query.shape[3]))
    found = _by_query(found[:, :, : rows * columns])
    return tf.concat([everywhere, found], axis=1)


def _window_mask(mask, rows, columns, window, special, blocks):
    """Returns where a block's patches may look, bool `[batch or 1, blocks, queries, keys]`."""
    own = tf.range(window)  # the queries' columns, within their block
    seen = tf.range(-window, 2 * window)  # the keys' columns, as counted there
    near = tf.abs(own[:, None] - seen[None]) <= window
    near = tf.repeat(tf.repeat(near, rows, axis=0), rows, axis=1)
    place = tf.range(blocks)[:, None] * window + seen[None]
    exists = tf.repeat((place >= 0) & (place < columns), rows, axis=1)[None]
    if mask is not None:
        pad = ((0, 0), (0, blocks * window * rows - rows * columns))
        heard = tf.pad(mask[:, 0, special:], pad)
        heard = tf.pad(tf.reshape(heard, (-1, blocks, window * rows)), ((0, 0), (1, 1), (0, 0)))
        exists &= tf.concat([heard[:, :-2], heard[:, 1:-1], heard[:, 2:]], axis=2)
    patches = near[None, None] & exists[:, :, None]
    shape = tf.shape(patches)
    return tf.concat([tf.ones((*tf.unstack(shape[:3]), special), "bool"), patches], axis=3)


def _chunk_size(query, key):
    """Returns how many queries are taken at once, a number or, of unknown lengths, a tensor."""
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    if queries is not None and keys is not None:
        chunks = math.ceil(heads * queries * keys / WEIGHTS_AT_ONCE)
        return None if chunks <= 1 else max(math.ceil(queries / chunks), _LEAST_CHUNK)
    queries, keys = tf.shape(query)[2], tf.shape(key)[2]
    return tf.clip_by_value(WEIGHTS_AT_ONCE // (heads * keys), _LEAST_CHUNK, tf.maximum(queries, 1))


def _by_query(heads):
    """Returns `[batch, queries, heads, size]` of `[batch, heads, queries, size]`, or back."""
    return tf.transpose(heads, (0, 2, 1, 3))


def _gradients(query, key, value, mask, mean, upstream):
    """Returns the gradients for query, key and value; the weights are computed again.

    Args:
      query, key, value, mask: As of `attention`, the query scaled.
      mean: `[batch, heads, queries, 1]`, what softmax's gradient removes from each row: the mean
        over keys, which is the product of the result with its gradient.
      upstream: `[batch, heads, queries, head_dim]`.
    """
    weights = _weights(query + _late_zero(upstream), key, mask)
    for_value = tf.matmul(weights, upstream, transpose_a=True)
    # The mean goes in one more column: subtracted afterwards, it would cost a pass over them all.
    upstream = tf.concat([upstream, -mean], axis=-1)
    value = tf.concat([value, tf.ones_like(value[..., :1])], axis=-1)
    with tf.control_dependencies([for_value]):  # so that the next two can reuse the weights' memory
        for_scores = tf.matmul(upstream, value, transpose_b=True)
    for_scores = for_scores * weights
    for_key = tf.matmul(for_scores, query, transpose_a=True)
    return tf.matmul(for_scores, key), for_key, for_value


def _mean_and_upstream(found, upstream):
    mean = tf.reduce_sum(upstream * found, axis=-1, keepdims=True)
    return _by_query(mean), _by_query(upstream)


def _at_once(query, key, value, mask):
    @tf.custom_gradient
    def attend(query, key, value):
        found = _by_query(tf.matmul(_weights(query, key, mask), value))

        def gradient(upstream):
            parts = _mean_and_upstream(found, upstream)
            return _gradients(query, key, value, mask, *parts)

        return found, gradient

    return attend(query, key, value)


def _in_chunks(query, key, value, mask, chunk):
    if mask is not None and mask.shape[1] != 1:
        masks = _split(mask[:, None], chunk, fill=True)

        def mask_of(index):
            return masks[index][:, 0]
    else:

        def mask_of(index):
            return mask

    @tf.custom_gradient
    def attend(query, key, value):
        def forward(index, queries):
            return (tf.matmul(_weights(queries[index], key, mask_of(index)), value),)

        (found,) = _over_chunks(forward, value.shape[-1], chunk, (query,))
        found = _by_query(found)

        def gradient(upstream):
            def backward(index, queries, means, upstreams, for_key, for_value):
                parts = mask_of(index), means[index], upstreams[index]
                for_query, more_key, more_value = _gradients(queries[index], key, value, *parts)
                return for_query, for_key + more_key, for_value + more_value

            tensors = (query, *_mean_and_upstream(found, upstream))
            sums = (tf.zeros_like(key), tf.zeros_like(value))
            return _over_chunks(backward, query.shape[-1], chunk, tensors, sums)

        return found, gradient

    return attend(query, key, value)


def _over_chunks(function, size, chunk, tensors, sums=()):
    """Calls `function(index, *split tensors, *sums)` for one chunk of queries after the other.

    It returns a chunk of the result, of this size along the last axis, and the new sums. What fills
    the last chunk is all zero, in the gradients too, and is cut off again.
    """
    length = tf.shape(tensors[0])[2] if tensors[0].shape[2] is None else tensors[0].shape[2]
    parts = [_split(tensor, chunk) for tensor in tensors]
    number = (length + chunk - 1) // chunk
    static = (*parts[0].shape[1:-1], size)
    results = tf.TensorArray(tensors[0].dtype, number, element_shape=static)

    def body(index, results, *sums):
        part, *sums = function(index, *parts, *sums)
        return (index + 1, results.write(index, part), *sums)

    _, results, *sums = tf.while_loop(
        lambda index, *_: index < number,
        body,
        (tf.constant(0), results, *sums),
        parallel_iterations=1,
        maximum_iterations=number,
    )
    joined = tf.transpose(results.stack(), (1, 2, 0, 3, 4))  # [batch, heads, chunks, chunk, size]
    batch, heads = tf.unstack(tf.shape(joined)[:2])
    joined = tf.reshape(joined, (batch, heads, -1, size))[:, :, :length]
    joined.set_shape((*tensors[0].shape[:-1], size))
    return (joined, *sums)


def _split(tensor, chunk, fill=0):
    """Returns `[chunks, batch, heads, chunk, size]` of `[batch, heads, queries, size]`."""
    length = tf.shape(tensor)[2] if tensor.shape[2] is None else tensor.shape[2]
    short = (chunk - length % chunk) % chunk
    tensor = tf.pad(tensor, ((0, 0), (0, 0), (0, short), (0, 0)), constant_values=fill)
    batch, heads, _, size = tensor.shape
    batch = tf.shape(tensor)[0] if batch is None else batch
    size = tf.shape(tensor)[3] if size is None else size
    number = (length + short) // chunk
    return tf.transpose(tf.reshape(tensor, (batch, heads, number, chunk, size)), (2, 0, 1, 3, 4))

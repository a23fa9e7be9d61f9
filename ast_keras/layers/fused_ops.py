"""Dense layers and LayerNorm whose gradients keep only their inputs."""

import math

import tensorflow as tf


def _late_zero(upstream):
    """Returns a zero that is not known before the gradient is, of its dtype.

    Added to what is computed again: else TensorFlow and XLA see that the same was computed on the
    way forward, and keep that.
    """
    first = tf.reshape(upstream, (-1,))[0]
    # No compiler can know this, and where it is not zero the gradient is not finite anyway.
    return tf.where(tf.math.is_finite(first), tf.zeros_like(first), first)


def gelu_dense(x, kernel, bias):
    """Returns a dense layer of the exact GELU of `x`, `[rows, units]`; only the arguments are kept.

    Args:
      x: `[rows, size]`.
      kernel: `[size, units]`.
      bias: `[units]`.

    Reference:
      Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    Example:

    >>> gelu_dense(tf.constant([[0.0], [1.0]]), tf.ones([1, 1]), tf.zeros(1)).numpy().round(3)
    array([[0.   ],
           [0.841]], dtype=float32)
    """

    @tf.custom_gradient
    def activated(x, kernel, bias):
        def gradient(upstream):
            # All halves are taken from `upstream`, the smallest of these; z is x by the root of 2.
            z = x * (0.5**0.5 + _late_zero(upstream))
            twice = 1 + tf.math.erf(z)
            slope = twice + tf.exp(-tf.square(z)) * (z * (2 * math.pi**-0.5))
            half = 0.5 * upstream
            for_kernel = tf.matmul(x * twice, half, transpose_a=True)
            for_x = tf.matmul(half, kernel, transpose_b=True) * slope
            return for_x, for_kernel, _sum_of_rows(upstream)

        hidden = tf.nn.gelu(x, approximate=False)
        return tf.nn.bias_add(tf.matmul(hidden, kernel), bias), gradient

    return activated(x, kernel, bias)


def norm_dense(x, gamma, beta, epsilon, kernel, bias):
    """Returns a dense layer of the normalised `x`, `[rows, units]`; only the arguments are kept.

    Args:
      x: `[rows, size]`.
      gamma, beta, epsilon: As of `normalise`.
      kernel: `[size, units]`.
      bias: `[units]`.

    Example:

    >>> x, ones = tf.constant([[1.0, 3.0]]), tf.ones([2, 1])
    >>> norm_dense(x, tf.ones(2), tf.ones(2), 0.0, ones, tf.zeros(1)).numpy().tolist()
    [[2.0]]
    """

    @tf.custom_gradient
    def projected(x, gamma, beta, kernel, bias):
        def gradient(upstream):
            unit, scale = _unit(x, epsilon, _late_zero(upstream))
            normal = tf.cast(unit * gamma + beta, x.dtype)
            for_kernel = tf.matmul(normal, upstream, transpose_a=True)
            for_normal = tf.matmul(upstream, kernel, transpose_b=True)
            parts = _norm_gradients(unit, scale, gamma, for_normal)
            return *parts, for_kernel, _sum_of_rows(upstream)

        normal = normalise(x, gamma, beta, epsilon)
        return tf.nn.bias_add(tf.matmul(normal, kernel), bias), gradient

    gamma, beta = tf.cast(gamma, "float32"), tf.cast(beta, "float32")
    return projected(x, gamma, beta, kernel, bias)


def normalise(x, gamma, beta, epsilon, training=False):
    """Returns each token with mean 0 and variance 1, times `gamma`, plus `beta`: a LayerNorm.

    Args:
      x: `[..., size]`, computed with in float32 whatever its dtype.
      gamma: `[size]`.
      beta: `[size]`.
      epsilon: What is added to the variance.
      training: Whether gradients are to be expected: then only the arguments are kept.

    Example:

    >>> normalise(tf.constant([[1.0, 3.0]]), tf.ones(2), tf.zeros(2), 0.0).numpy().tolist()
    [[-1.0, 1.0]]
    """
    gamma, beta = tf.cast(gamma, "float32"), tf.cast(beta, "float32")
    if not training:
        return tf.cast(_unit(x, epsilon)[0] * gamma + beta, x.dtype)

    @tf.custom_gradient
    def normalised(x, gamma, beta):
        def gradient(upstream):
            unit, scale = _unit(x, epsilon, _late_zero(upstream))
            return _norm_gradients(unit, scale, gamma, upstream)

        return tf.cast(_unit(x, epsilon)[0] * gamma + beta, x.dtype), gradient

    return normalised(x, gamma, beta)


def _unit(x, epsilon, zero=0):
    """Returns tokens of mean 0 and variance 1, and what they were multiplied by."""
    centred = tf.cast(x, "float32")
    mean = tf.reduce_mean(centred, axis=-1, keepdims=True)
    centred = centred - (mean + tf.cast(zero, "float32"))
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    scale = tf.math.rsqrt(variance + epsilon)
    return centred * scale, scale


def _norm_gradients(unit, scale, gamma, upstream):
    """Returns the gradients for what was normalised, gamma and beta."""
    dtype = upstream.dtype
    upstream = tf.cast(upstream, "float32")
    for_gamma = _sum_of_rows(upstream * unit)
    for_unit = upstream * gamma
    along = tf.reduce_mean(for_unit * unit, axis=-1, keepdims=True)
    mean = tf.reduce_mean(for_unit, axis=-1, keepdims=True)
    for_x = scale * (for_unit - mean - unit * along)
    return tf.cast(for_x, dtype), for_gamma, _sum_of_rows(upstream)


def _sum_of_rows(x):
    """Returns `[size]` of `[..., size]`, by a product: on a CPU up to three times as fast."""
    rows = tf.reshape(x, (-1, x.shape[-1]))
    return tf.matmul(tf.ones_like(rows[:, :1]), rows, transpose_a=True)[0]

"""Weight initializers, and a context that skips random initialisation before weights are loaded."""

import contextlib
import contextvars

import keras
import tensorflow as tf

_skip = contextvars.ContextVar("skip_random_initialization", default=False)


class Uninitialized(keras.initializers.Initializer):
    """Allocates a weight without initialising it. The weight must be assigned before it is read.

    Even zeros would be slower: writing them makes the operating system provide the memory, and the
    later assignment provides it a second time.
    """

    def __call__(self, shape, dtype=None):
        return tf.raw_ops.Empty(shape=shape, dtype=dtype or keras.config.floatx())


def truncated_normal():
    """Returns DeiT's initializer of tokens, positions and kernels: truncated normal, stddev 0.02.

    Within `skip_random_initialization` it returns `Uninitialized`.
    """
    if _skip.get():
        return Uninitialized()
    return keras.initializers.TruncatedNormal(stddev=0.02)


def lecun_normal():
    """Returns the initializer of the patch projection.

    Within `skip_random_initialization` it returns `Uninitialized`.
    """
    return Uninitialized() if _skip.get() else "lecun_normal"


@contextlib.contextmanager
def skip_random_initialization():
    """Leaves the weights of layers that are built in this context uninitialised.

    For code that assigns all weights afterwards: drawing the 87 million random numbers of AST-base
    takes longer than reading its weights from a file.

    Example:

    >>> with skip_random_initialization():
    ...     initializer = truncated_normal()
    >>> type(initializer).__name__
    'Uninitialized'
    """
    token = _skip.set(True)
    try:
        yield
    finally:
        _skip.reset(token)

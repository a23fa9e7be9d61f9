"""Random starts of weights, and how to do without where loaded ones follow."""

import contextlib
import contextvars

import keras
import tensorflow as tf

_skip = contextvars.ContextVar("skip_random_start", default=False)


class Unset(keras.initializers.Initializer):
    """Leaves a weight as memory happens to be, for one that is assigned before it is read.

    Writing even zeros would make the system provide memory that the assignment then provides anew.
    """

    def __call__(self, shape, dtype=None):
        return tf.raw_ops.Empty(shape=shape, dtype=dtype or keras.config.floatx())


def truncated_normal():
    """Returns DeiT's start of weights: truncated normal, deviation 0.02."""
    return Unset() if _skip.get() else keras.initializers.TruncatedNormal(stddev=0.02)


def lecun_normal():
    """Returns the usual start of a patch projection."""
    return Unset() if _skip.get() else "lecun_normal"


@contextlib.contextmanager
def without_random_start():
    """Makes what is built inside start from anything: all of its weights must be assigned.

    Drawing the 87 million numbers of AST-base takes longer than reading them from a file.
    """
    token = _skip.set(True)
    try:
        yield
    finally:
        _skip.reset(token)

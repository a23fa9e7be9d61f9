"""Random starts of weights, and how to do without where loaded ones follow."""

import contextlib
import contextvars

import keras

_skip = contextvars.ContextVar("skip_random_start", default=False)


def truncated_normal():
    """Returns DeiT's start of weights: truncated normal, deviation 0.02."""
    return "zeros" if _skip.get() else keras.initializers.TruncatedNormal(stddev=0.02)


def lecun_normal():
    """Returns the usual start of a patch projection."""
    return "zeros" if _skip.get() else "lecun_normal"


@contextlib.contextmanager
def without_random_start():
    """Makes what is built inside start from zeros.

    Drawing the 87 million numbers of AST-base takes longer than reading them from a file.
    """
    token = _skip.set(True)
    try:
        yield
    finally:
        _skip.reset(token)

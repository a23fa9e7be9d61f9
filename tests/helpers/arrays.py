"""Random arrays, and comparisons that say what differs."""

import numpy as np


def random(*shape, seed=0):
    """Returns standard normal float32 numbers, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def assert_same(found, expected):
    """Asserts that two sequences, or two mappings, of arrays are equal to the bit."""
    if hasattr(expected, "keys"):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)

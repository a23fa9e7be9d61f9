"""Resized kernels and position embeddings: against scalar loops, and by their properties."""

import itertools
import math

import numpy as np
import pytest

from ast_keras.errors import WeightsError
from ast_keras.weights.resize import resize_kernel, resize_positions, to_one_channel

RNG = np.random.default_rng(6)


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def place(index, old, new):
    """Returns the two old cells around the centre of a new cell, and the weight of the second."""
    centre = (index + 0.5) * old / new - 0.5
    left = math.floor(centre)
    weight = centre - left
    return min(max(left, 0), old - 1), min(max(left + 1, 0), old - 1), weight


def interpolated(row, size):
    values = []
    for index in range(size):
        left, right, weight = place(index, len(row), size)
        values.append(row[left] * (1 - weight) + row[right] * weight)
    return values


def taken(row, size, method):
    """Resizes one axis as the authors do, one number at a time."""
    old = len(row)
    if size <= old:
        start = old // 2 - size // 2
        return [row[start + index] for index in range(size)]
    if method == "nearest":
        return [row[math.floor(index * old / size)] for index in range(size)]
    return interpolated(row, size)


def oracle(positions, num_special, source, target, method):
    """Resizes positions by scalar loops in double precision: time first, then mel."""
    embed = positions.shape[2]
    result = [list(map(float, row)) for row in positions[0, :num_special]]
    result += [[0.0] * embed for _ in range(target[0] * target[1])]
    for channel in range(embed):
        old = [
            [
                float(positions[0, num_special + i * source[1] + j, channel])
                for j in range(source[1])
            ]
            for i in range(source[0])
        ]
        rows = [taken(row, target[1], method) for row in old]
        for j in range(target[1]):
            column = taken([row[j] for row in rows], target[0], method)
            for i in range(target[0]):
                result[num_special + i * target[1] + j][channel] = column[i]
    return np.array(result)[None]


# --- Positions ---

GRIDS = [
    ((24, 24), (12, 101)),  # DeiT 384 to the usual 10 s
    ((14, 14), (12, 7)),
    ((12, 101), (12, 12)),
    ((12, 101), (12, 150)),
    ((5, 4), (8, 3)),
    ((5, 4), (3, 9)),
    ((5, 4), (11, 13)),
    ((5, 4), (4, 3)),  # odd to even and even to odd
    ((1, 1), (3, 2)),
    ((1, 6), (2, 6)),
    ((2, 2), (1, 1)),
]


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("num_special", [1, 2])
@pytest.mark.parametrize(("source", "target"), GRIDS)
def test_positions_equal_scalar_loops(source, target, num_special, method):
    positions = random(1, num_special + source[0] * source[1], 2)
    found = resize_positions(positions, num_special, source, target, method)
    expected = oracle(positions, num_special, source, target, method)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    # Two roundings to float32 of numbers up to four, one after each axis: seen 1.2e-7.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-7)
    if method == "nearest" or max(np.subtract(target, source)) <= 0:
        np.testing.assert_array_equal(found, expected)


def test_positions_of_the_same_grid_are_unchanged():
    positions = random(1, 2 + 12 * 5, 3)
    for method in ("bilinear", "nearest"):
        same = resize_positions(positions, 2, (12, 5), (12, 5), method)
        np.testing.assert_array_equal(same, positions, strict=True)


def test_positions_cut_are_the_middle_ones():
    positions = np.arange(1.0 + 9 * 7)[None, :, None]  # patch (i, j) holds 1 + 7 i + j
    cut = resize_positions(positions, 1, (9, 7), (4, 3))[0, 1:, 0].reshape(4, 3)
    np.testing.assert_array_equal(cut, [[1 + 7 * i + j for j in (2, 3, 4)] for i in (2, 3, 4, 5)])


def test_positions_reinit_are_new_and_the_same_each_time():
    positions = random(1, 2 + 4 * 5, 64)
    new = resize_positions(positions, 2, (4, 5), (12, 30), "reinit")
    assert new.shape == (1, 362, 64)
    assert new.dtype == np.float32
    np.testing.assert_array_equal(resize_positions(positions, 2, (4, 5), (12, 30), "reinit"), new)
    # 23,168 draws: the deviation is known to half a percent, the mean to 0.00013.
    assert new.std() == pytest.approx(0.02, rel=0.02)
    assert abs(new.mean()) < 5e-4
    # A whole normal distribution: timm's bounds of -2 and 2 are absolute, a hundred deviations.
    assert np.mean(np.abs(new) > 0.04) == pytest.approx(0.0455, abs=0.006)
    same_grid = resize_positions(positions, 2, (4, 5), (4, 5), "reinit")
    assert not np.isin(positions, same_grid).any()  # the special tokens included


@pytest.mark.parametrize("shape", [(1, 21, 3), (1, 23, 3), (2, 22, 3), (22, 3), (1, 22, 3, 1)])
def test_positions_of_another_grid_are_refused(shape):
    with pytest.raises(WeightsError, match=r"A grid of 4 x 5 patches and 2 special tokens has"):
        resize_positions(np.zeros(shape), 2, (4, 5), (2, 2))


def test_unknown_method_is_refused():
    with pytest.raises(
        WeightsError, match="position_resize must be one of bilinear, nearest, reinit"
    ):
        resize_positions(np.zeros((1, 5, 3)), 1, (2, 2), (2, 2), "bicubic")


# --- Kernels ---


def test_channels_are_summed_or_averaged():
    kernel = random(5, 3, 4, 2)
    for rgb, factor in (("sum", 1.0), ("mean", 1 / 3)):
        found = to_one_channel(kernel, rgb)
        assert found.shape == (5, 1, 4, 2)
        assert found.dtype == np.float32
        for e, i, j in itertools.product(range(5), range(4), range(2)):
            total = factor * sum(float(kernel[e, c, i, j]) for c in range(3))
            # Two sums and a quotient in float32 of numbers up to five: seen 4.4e-7.
            assert found[e, 0, i, j] == pytest.approx(total, abs=1.4e-6)
    assert to_one_channel(kernel).tolist() == to_one_channel(kernel, "sum").tolist()


@pytest.mark.parametrize("rgb", ["sum", "mean"])
def test_kernel_of_one_channel_is_returned_unchanged(rgb):
    kernel = random(5, 1, 4, 2)
    assert to_one_channel(kernel, rgb) is kernel


def test_unknown_reduction_is_refused():
    with pytest.raises(
        WeightsError,
        match=r"rgb_reduction must be one of sum, mean\. Received: rgb_reduction='max'",
    ):
        to_one_channel(random(5, 3, 4, 2), "max")


def resized_patch(patch, size):
    """Resizes a patch by scalar loops."""
    rows = [interpolated(row, size[1]) for row in patch.tolist()]
    columns = [interpolated([row[j] for row in rows], size[0]) for j in range(size[1])]
    return [[columns[j][i] for j in range(size[1])] for i in range(size[0])]


@pytest.mark.parametrize("size", [(16, 16), (32, 8), (8, 24), (9, 11), (128, 8)])
def test_enlarged_kernel_gives_the_same_output_for_enlarged_patches(size):
    kernel = random(3, 1, 8, 8)
    resized = resize_kernel(kernel, size)
    assert resized.shape == (3, 1, *size)
    assert resized.dtype == np.float32
    for _ in range(3):
        patch = RNG.standard_normal((8, 8))
        before = np.einsum("ecij,ij->e", kernel.astype("f8"), patch)
        after = np.einsum("ecij,ij->e", resized.astype("f8"), resized_patch(patch, size))
        # A kernel of up to 1024 numbers, each rounded to float32: seen 2.7e-7.
        np.testing.assert_allclose(after, before, rtol=0, atol=8e-7)


def test_reduced_kernel_is_the_least_squares_solution():
    kernel, size = random(2, 1, 6, 6), (4, 3)
    found = resize_kernel(kernel, size)
    # Least squares over all unit patches: no other kernel has a smaller error.
    patches = [np.eye(36)[index].reshape(6, 6) for index in range(36)]
    matrix = np.array([np.ravel(resized_patch(patch, size)) for patch in patches])
    best = np.linalg.lstsq(matrix, kernel.reshape(2, 36).T.astype("f8"), rcond=None)[0].T
    # Rounded to float32 once, numbers up to four: seen 1.2e-7.
    np.testing.assert_allclose(found.reshape(2, 12), best, rtol=0, atol=4e-7)


def test_kernel_of_the_same_size_is_returned_unchanged():
    kernel = random(2, 3, 6, 5)
    assert resize_kernel(kernel, (6, 5)) is kernel
    assert resize_kernel(kernel, [6, 5]) is kernel

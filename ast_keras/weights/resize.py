"""Patch kernels and position embeddings, fitted to another spectrogram.

These are the steps of the paper's cross-modality transfer from images to spectrograms, and from one
spectrogram size to another. Grids and patches are `(mel, time)`; for an image, `(rows, columns)`.
Only NumPy is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ast_keras.errors import WeightsError

Array = np.ndarray[Any, np.dtype[Any]]
Grid = tuple[int, int]

RGB = ("sum", "mean")
POSITION = ("bilinear", "nearest", "reinit")


def to_one_channel(kernel: Array, rgb_reduction: str = "sum") -> Array:
    """Reduces the channels of a patch kernel to one.

    Args:
        kernel: The kernel, `[embed, channels, mel, time]`.
        rgb_reduction: "sum" adds the channels, as the authors' code does for all released weights.
            "mean" averages them, as the paper states.

    Returns:
        The kernel, `[embed, 1, mel, time]`: the argument itself if it has one channel.

    Raises:
        WeightsError: If `rgb_reduction` is unknown.

    Example:

    >>> float(to_one_channel(np.ones((1, 3, 1, 1), "float32"))[0, 0, 0, 0])
    3.0
    """
    if rgb_reduction not in RGB:
        raise WeightsError(
            f"rgb_reduction must be one of {', '.join(RGB)}. "
            f"Received: rgb_reduction={rgb_reduction!r}"
        )
    if kernel.shape[1] == 1:
        return kernel
    reduced: Array = np.sum(kernel, axis=1, keepdims=True, dtype=kernel.dtype)
    if rgb_reduction == "mean":
        reduced /= kernel.shape[1]
    return reduced


def resize_kernel(kernel: Array, size: Grid) -> Array:
    """Resizes a patch kernel to another patch size.

    A larger kernel gives the same output for an enlarged patch as the original kernel for the
    original patch. A smaller kernel approximates it by least squares. No released AST uses this:
    the authors keep the patch size of the image network.

    Args:
        kernel: The kernel, `[embed, channels, mel, time]`.
        size: The new patch size `(mel, time)`.

    Returns:
        The resized kernel: the argument itself if it has this size.

    Reference:
        Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, section 3.4.

    Example:

    >>> resize_kernel(np.ones((2, 1, 16, 16), "float32"), (32, 8)).shape
    (2, 1, 32, 8)
    """
    if kernel.shape[2:] == tuple(size):
        return kernel
    rows, columns = (
        np.linalg.pinv(_interpolation(old, new).T)
        for old, new in zip(kernel.shape[2:], size, strict=True)
    )
    resized: Array = rows @ kernel.astype("float64") @ columns.T
    return resized.astype(kernel.dtype)


def resize_positions(
    positions: Array, num_special: int, source: Grid, target: Grid, method: str = "bilinear"
) -> Array:
    """Resizes position embeddings to another grid of patches.

    The embeddings of special tokens are kept. Along each axis, time first, a smaller grid is cut
    from the middle, and a larger one is interpolated, as in the authors' code.

    Args:
        positions: Position embeddings, `[1, special + patches, embed]`, patches mel-major.
        num_special: Number of tokens before the patches, 1 or 2.
        source: Grid `(mel, time)` of `positions`.
        target: The requested grid `(mel, time)`.
        method: "bilinear" (half-pixel centres, no smoothing), "nearest", or "reinit" for new random
            embeddings of all tokens (normal, standard deviation 0.02, seed 0).

    Returns:
        The position embeddings, `[1, special + patches, embed]`.

    Raises:
        WeightsError: If `method` is unknown, or if `positions` do not belong to the source grid.

    Example:

    >>> resize_positions(np.zeros((1, 578, 48)), 2, (24, 24), (12, 101)).shape
    (1, 1214, 48)
    """
    if method not in POSITION:
        raise WeightsError(
            f"position_resize must be one of {', '.join(POSITION)}. "
            f"Received: position_resize={method!r}"
        )
    expected = num_special + source[0] * source[1]
    if positions.ndim != 3 or positions.shape[:2] != (1, expected):
        raise WeightsError(
            f"A grid of {source[0]} x {source[1]} patches and {num_special} special tokens has "
            f"positions (1, {expected}, embed). Received: {positions.shape}"
        )
    embed = positions.shape[2]
    if method == "reinit":
        size = (1, num_special + target[0] * target[1], embed)
        draws = np.random.default_rng(0).standard_normal(size)
        return (0.02 * draws).astype(positions.dtype)
    grid = positions[0, num_special:].reshape(*source, embed)
    grid = _fit(grid, 1, target[1], method)
    grid = _fit(grid, 0, target[0], method)
    patches = grid.reshape(1, target[0] * target[1], embed)
    return np.concatenate([positions[:, :num_special], patches], axis=1)


def _fit(grid: Array, axis: int, size: int, method: str) -> Array:
    """Cuts an axis from the middle, or interpolates it if it is too short."""
    old = grid.shape[axis]
    if size <= old:
        start = old // 2 - size // 2
        return np.take(grid, range(start, start + size), axis)
    if method == "nearest":
        return np.take(grid, (np.arange(size) * old) // size, axis)
    weights = _interpolation(old, size)
    moved = np.tensordot(weights, grid.astype("float64"), (1, axis))
    return np.moveaxis(moved, 0, axis).astype(grid.dtype)


def _interpolation(old: int, new: int) -> Array:
    """Returns the matrix `[new, old]` that interpolates linearly between the centres of cells."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.minimum(centres.astype(int), max(old - 2, 0))
    weights = np.zeros((new, old))
    weights[np.arange(new), left] = 1 - (centres - left)
    if old > 1:
        weights[np.arange(new), left + 1] += centres - left
    return weights

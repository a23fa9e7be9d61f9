"""Spectrogram geometry: the size requested for a model, and the size that weights were made for.

A weights file holds one position embedding per patch, but not the spectrogram size and the strides
that give this number of patches. `infer_geometry` finds them from a configuration file, from the
released models, or from the requested geometry. This module does not need Keras.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from ast_keras.errors import WeightsError
from ast_keras.weights.resize import Grid

# (stride, frames) of the released models, tried in this order.
_RELEASED = tuple((stride, frames) for stride in (10, 12, 14, 16) for frames in (1024, 512, 128))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A spectrogram size, how it is cut into patches, and how weights are fitted to it.

    Args:
        num_frames: Length of the spectrogram, in frames. None keeps that of the weights, or 1024
            for an image network.
        num_mel_bins: Height of the spectrogram, in mel bins. None keeps that of the weights, or 128
            for an image network.
        patch_size: Patch size `(mel, time)`. None keeps that of the weights.
        strides: Step between patches `(mel, time)`. None keeps that of the weights, or (10, 10) for
            an image network.
        rgb_reduction: "sum" or "mean": how the colour channels of an image network's patch kernel
            are reduced to one.
        position_resize: "bilinear", "nearest" or "reinit": how position embeddings are fitted to a
            larger grid.

    Example:

    >>> Geometry(num_frames=512).num_frames
    512
    """

    num_frames: int | None = None
    num_mel_bins: int | None = None
    patch_size: Grid | None = None
    strides: Grid | None = None
    rgb_reduction: str = "sum"
    position_resize: str = "bilinear"


@dataclasses.dataclass(frozen=True)
class InferredGeometry:
    """The spectrogram that a network's position embeddings belong to.

    Args:
        grid: Number of patches `(mel, time)`; rows and columns for an image network.
        num_frames: Length of the spectrogram, in frames; None for an image network.
        num_mel_bins: Height of the spectrogram, in mel bins; None for an image network.
        strides: Step between patches `(mel, time)`; None for an image network.
    """

    grid: Grid
    num_frames: int | None = None
    num_mel_bins: int | None = None
    strides: Grid | None = None


def infer_geometry(
    num_patches: int, patch_size: Grid, stated: Geometry, fallback_geometry: Geometry | None = None
) -> InferredGeometry:
    """Finds the spectrogram size and strides that give a number of patches.

    Stated values are never changed. The others are those of the first released model with this
    number of patches; if there is none, those of `fallback_geometry` are tried.

    Args:
        num_patches: Number of patch position embeddings, special tokens excluded.
        patch_size: Patch size `(mel, time)` of the weights.
        stated: Values that the configuration files or the caller state.
        fallback_geometry: Geometry that is tried if no released model fits.

    Returns:
        The geometry, with its grid of patches.

    Raises:
        WeightsError: If no candidate gives this number of patches.

    Example:

    >>> infer_geometry(1212, (16, 16), Geometry()).grid
    (12, 101)
    """
    for frames, bins, strides in _candidates(stated, fallback_geometry or Geometry()):
        rows, columns = (
            (size - patch) // stride + 1
            for size, patch, stride in zip((bins, frames), patch_size, strides, strict=True)
        )
        if min(rows, columns) > 0 and rows * columns == num_patches:
            return InferredGeometry((rows, columns), frames, bins, strides)
    names = ("strides", "num_frames", "num_mel_bins")
    values = {name: getattr(stated, name) for name in names}
    received = "".join(f", {name}={value}" for name, value in values.items() if value)
    raise WeightsError(
        "The number of patches is not that of a released AST: give the strides, num_frames and "
        f"num_mel_bins that the network was made for. Received: {num_patches} patches{received}"
    )


def _candidates(stated: Geometry, fallback_geometry: Geometry) -> Iterator[tuple[int, int, Grid]]:
    """Yields frames, mel bins and strides of the released models, then of the fallback."""
    for stride, frames in _RELEASED:
        yield (
            stated.num_frames or frames,
            stated.num_mel_bins or 128,
            stated.strides or (stride, stride),
        )
    yield (
        stated.num_frames or fallback_geometry.num_frames or 1024,
        stated.num_mel_bins or fallback_geometry.num_mel_bins or 128,
        stated.strides or fallback_geometry.strides or (10, 10),
    )


def square_grid(num_patches: int) -> InferredGeometry:
    """Returns the geometry of an image network, whose patches form a square.

    Raises:
        WeightsError: If the number of patches is not a square.

    Example:

    >>> square_grid(196).grid
    (14, 14)
    """
    side = math.isqrt(max(num_patches, 0))
    if side < 1 or side * side != num_patches:
        raise WeightsError(
            "The patches of an image network must form a square, next to the class token and an "
            f"optional distillation token. Received: {num_patches} patches"
        )
    return InferredGeometry((side, side))

"""Tests of `PatchEmbedding` against its definition in NumPy."""

import numpy as np
import pytest

from ast_keras.errors import ArgumentError
from ast_keras.layers.patch_embedding import PatchEmbedding, patch_grid
from tests.helpers.arrays import random


def patches_of(spectrogram, patch_size, strides):
    """Returns the patches `[patches, mel, time]` of `[frames, mel]`, mel-major, by loops."""
    image = spectrogram.T  # [mel, frames]
    (height, width), (down, right) = patch_size, strides
    return np.stack(
        [
            image[top : top + height, left : left + width]
            for top in range(0, image.shape[0] - height + 1, down)
            for left in range(0, image.shape[1] - width + 1, right)
        ]
    )


# (frames, mel), patch size (mel, time), strides (mel, time): overlapping, adjacent, with gaps,
# tall, a single patch, and with unused frames and bins.
SHAPES = [
    ((128, 128), (16, 16), (10, 10)),
    ((64, 32), (16, 16), (16, 16)),
    ((50, 31), (16, 8), (5, 7)),
    ((40, 20), (4, 6), (8, 9)),
    ((40, 128), (128, 2), (128, 2)),
    ((64, 64), (32, 32), (32, 32)),
    ((9, 7), (7, 9), (1, 1)),
    ((30, 20), (1, 1), (3, 2)),
]


@pytest.mark.parametrize(("shape", "patch_size", "strides"), SHAPES)
def test_patch_embedding_equals_its_definition(shape, patch_size, strides):
    layer = PatchEmbedding(embed_dim=5, patch_size=patch_size, strides=strides)
    spectrogram = random(2, *shape)
    layer.build(spectrogram.shape)
    kernel, bias = random(*patch_size, 1, 5) / np.sqrt(np.prod(patch_size)), random(5)
    layer.set_weights([kernel.astype("float32"), bias])
    embedded = layer(spectrogram).numpy()
    for example, actual in zip(spectrogram, embedded, strict=True):
        patches = patches_of(example, patch_size, strides).astype("float64")
        expected = np.einsum("pmt,mte->pe", patches, kernel[:, :, 0]) + bias
        # float32 sums of up to 1024 products, outputs of about 1: observed 1.6e-6.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    rows, columns = patch_grid(shape[1], shape[0], patch_size, strides)
    assert embedded.shape == (2, rows * columns, 5)


def test_patch_embedding_ignores_frames_after_the_last_whole_patch():
    layer = PatchEmbedding(embed_dim=5)
    spectrogram = random(1, 35, 16)  # patches start at frames 0 and 10; frames 26 to 34 are unused
    changed = spectrogram.copy()
    changed[:, 26:] += 1
    np.testing.assert_array_equal(layer(spectrogram), layer(changed))
    changed[:, 25] += 1
    assert not np.array_equal(layer(spectrogram), layer(changed))


def test_patch_embedding_built_without_frames_accepts_any_number():
    layer = PatchEmbedding(embed_dim=5)
    layer.build((None, None, 16))
    assert layer.compute_output_shape((None, None, 16)) == (None, None, 5)
    assert layer(random(1, 26, 16)).shape == (1, 2, 5)
    assert layer(random(1, 36, 16)).shape == (1, 3, 5)


@pytest.mark.parametrize(("mel", "frames"), [(15, 128), (128, 15), (1, 1)])
def test_patches_reject_a_spectrogram_smaller_than_a_patch(mel, frames):
    with pytest.raises(ArgumentError, match=r"at least one patch.*Received: .*patch_size"):
        patch_grid(mel, frames)
    with pytest.raises(ArgumentError, match="at least one patch"):
        PatchEmbedding(embed_dim=4)(random(1, frames, mel))

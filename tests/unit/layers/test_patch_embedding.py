"""Patches, special tokens and positions against their definition in NumPy."""

import numpy as np
import pytest

from ast_keras.layers.patch_embedding import (
    PatchEmbedding,
    PositionEmbedding,
    SpecialTokens,
    patch_grid,
)

RNG = np.random.default_rng(6)


def random(*shape):
    return RNG.standard_normal(shape).astype("float32")


def patches_of(spectrogram, patch_size, strides):
    """Returns an example's patches `[patches, mel, time]`, mel-major, in plain loops."""
    image = spectrogram.T  # [mel, frames]
    (height, width), (down, right) = patch_size, strides
    return np.stack(
        [
            image[top : top + height, left : left + width]
            for top in range(0, image.shape[0] - height + 1, down)
            for left in range(0, image.shape[1] - width + 1, right)
        ]
    )


# (frames, mel), patch size (mel, time), strides (mel, time): square, overlapping, with gaps, tall,
# flat, one patch, and with frames and bins left over.
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
    layer = PatchEmbedding(5, patch_size, strides)
    spectrogram = random(2, *shape)
    embedded = layer(spectrogram)
    kernel, bias = random(*patch_size, 1, 5) / np.sqrt(np.prod(patch_size)), random(5)
    layer.set_weights([kernel.astype("float32"), bias])
    embedded = layer(spectrogram).numpy()
    for example, actual in zip(spectrogram, embedded, strict=True):
        patches = patches_of(example, patch_size, strides).astype("float64")
        expected = np.einsum("pmt,mte->pe", patches, kernel[:, :, 0]) + bias
        # float32 sums of up to 1024 products, outputs of size one: seen 1.6e-6.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)
    rows, columns = patch_grid(shape[1], shape[0], patch_size, strides)
    assert embedded.shape == (2, rows * columns, 5)


def test_patch_embedding_ignores_frames_after_the_last_whole_patch():
    layer = PatchEmbedding(5, (16, 16), (10, 10))
    spectrogram = random(1, 35, 16)  # patches begin at frames 0 and 10; 26 to 34 are left over
    changed = spectrogram.copy()
    changed[:, 26:] += 1
    np.testing.assert_array_equal(layer(spectrogram), layer(changed))
    changed[:, 25] += 1
    assert not np.array_equal(layer(spectrogram), layer(changed))


def test_patch_embedding_takes_any_number_of_frames_when_built_with_none():
    layer = PatchEmbedding(5, (16, 16), (10, 10))
    layer.build((None, None, 16))
    assert layer.compute_output_shape((None, None, 16)) == (None, None, 5)
    assert layer(random(1, 26, 16)).shape == (1, 2, 5)
    assert layer(random(1, 36, 16)).shape == (1, 3, 5)


@pytest.mark.parametrize(("mel", "frames"), [(15, 128), (128, 15), (1, 1)])
def test_patches_reject_a_spectrogram_smaller_than_a_patch(mel, frames):
    with pytest.raises(ValueError, match=r"at least one patch large.*Received: .*patch_size"):
        patch_grid(mel, frames)
    with pytest.raises(ValueError, match="at least one patch large"):
        PatchEmbedding(4)(random(1, frames, mel))


@pytest.mark.parametrize(("distillation", "count"), [(True, 2), (False, 1)])
def test_special_tokens_stand_before_the_patches(distillation, count):
    layer = SpecialTokens(distillation)
    patches = random(3, 4, 6)
    tokens = layer(patches).numpy()
    assert layer.num_tokens == count
    assert layer.tokens.shape == (count, 6)
    np.testing.assert_array_equal(tokens[:, count:], patches)
    for example in tokens:
        np.testing.assert_array_equal(example[:count], layer.tokens.numpy())
    assert np.abs(layer.tokens.numpy()).max() > 0  # drawn, not zero


def test_position_embedding_adds_one_vector_to_each_place():
    layer = PositionEmbedding()
    tokens = random(3, 4, 6)
    layer.build(tokens.shape)
    assert layer.embedding.shape == (4, 6)
    np.testing.assert_array_equal(layer(tokens), tokens + layer.embedding.numpy())
    assert len({row.tobytes() for row in layer.embedding.numpy()}) == 4


@pytest.mark.parametrize("count", [1, 3, 5])
def test_position_embedding_rejects_another_number_of_tokens(count):
    layer = PositionEmbedding()
    layer(random(1, 4, 6))
    with pytest.raises(ValueError, match=r"is incompatible with the layer.*4, 6"):
        layer(random(1, count, 6))  # one token would be broadcast

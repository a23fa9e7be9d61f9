"""Tests of `SpectrogramAugment` against an independent NumPy version of torchaudio's masks."""

import numpy as np
import pytest
import tensorflow as tf

from ast_keras.layers.spectrogram_augment import SpectrogramAugment, axis_mask, uniform_per_example

NUM_DRAWS = 20_480
FILL = 0.46703


@pytest.fixture(scope="module")
def draws():
    """Uniform numbers `[NUM_DRAWS, 6]`, drawn as the layer does from one seed per example."""
    seeds = tf.stack([tf.fill([NUM_DRAWS], 11), tf.range(NUM_DRAWS)], axis=1)
    return tf.function(uniform_per_example)(seeds, [6]).numpy()


def torchaudio_mask(draws, max_width, size):
    """Returns the mask of one example as torchaudio's `mask_along_axis` computes it."""
    value = draws[0] * np.float32(max_width)
    min_value = draws[1] * (np.float32(size) - value)
    start, width = int(min_value), int(value)  # rounds towards zero, as torch.Tensor.long
    position = np.arange(size)
    return (position >= start) & (position < start + width)


def chi_square(counts, expected):
    """Returns Pearson's statistic in standard deviations above its mean (number of cells - 1)."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    assert expected.min() > 5, "too few numbers in a cell"
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def augmented(layer, spectrogram, seeds):
    return layer(spectrogram, training=True, seeds=seeds).numpy()


def augmented_in_a_graph(layer, spectrogram, seeds):
    """Returns the result of `augmented`, in less time for many examples."""
    return tf.function(lambda x, seeds: layer(x, training=True, seeds=seeds))(
        spectrogram, seeds
    ).numpy()


def seeds_of(batch, first=0):
    return np.stack([np.full(batch, 3), first + np.arange(batch)], axis=1).astype("int32")


def everything(**changes):
    arguments = {
        "freq_mask_bins": 8,
        "time_mask_frames": 12,
        "noise": True,
        "roll_frames": 5,
        "fill_value": FILL,
        "seed": 2,
    }
    return SpectrogramAugment(**{**arguments, **changes})


@pytest.fixture(scope="module")
def spectrogram():
    return np.random.default_rng(8).standard_normal((6, 30, 16)).astype("float32")


# --- Draws and masks ---


def test_draws_are_uniform_and_independent(draws):
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        counts, _ = np.histogram(column, bins=32, range=(0, 1))
        assert abs(chi_square(counts, [NUM_DRAWS / 32] * 32)) < 5
    correlation = np.corrcoef(draws.T) - np.eye(6)
    # Five standard deviations of the correlation of independent numbers.
    assert np.abs(correlation).max() < 5 / np.sqrt(NUM_DRAWS)


# The masks of AudioSet and Speech Commands, and masks as wide as the axis and wider.
@pytest.mark.parametrize(("max_width", "size"), [(192, 1024), (48, 128), (30, 30), (50, 30)])
def test_mask_equals_torchaudio_for_the_same_random_numbers(max_width, size, draws):
    masks = axis_mask(tf.constant(draws[:, :2]), max_width, size).numpy()
    assert masks.shape == (NUM_DRAWS, size)
    expected = np.stack([torchaudio_mask(pair, max_width, size) for pair in draws[:, :2]])
    np.testing.assert_array_equal(masks, expected)


def test_mask_widths_are_uniform_below_the_maximum(draws):
    masks = axis_mask(tf.constant(draws[:, 2:4]), 48, 128).numpy()
    counts = np.bincount(masks.sum(1), minlength=48)
    assert len(counts) == 48  # widths are 0 to 47
    # The numbers are fixed. Fewer than 1 in 10,000 other seeds would exceed five.
    assert abs(chi_square(counts, [NUM_DRAWS / 48] * 48)) < 5


def test_mask_positions_have_the_distribution_of_torchaudio(draws):
    masks = axis_mask(tf.constant(draws[:, 2:4]), 12, 40).numpy()
    rng = np.random.default_rng(9)
    theirs = [torchaudio_mask(pair, 12, 40) for pair in rng.random((50_000, 2), "float32")]
    for statistic in (lambda m: m.argmax(1)[m.any(1)], lambda m: m[:, ::-1].argmax(1)[m.any(1)]):
        ours, reference = np.bincount(statistic(masks)), np.bincount(statistic(np.array(theirs)))
        assert len(ours) == len(reference)
        common = reference > 100
        expected = reference[common] * (ours[common].sum() / reference[common].sum())
        assert abs(chi_square(ours[common], expected)) < 5


# --- The layer ---


@pytest.mark.parametrize("training", [False, None])
def test_augment_is_identity_unless_training(training, spectrogram):
    output = everything()(spectrogram, training=training, seeds=seeds_of(6))
    np.testing.assert_array_equal(output, spectrogram)


def test_augment_is_identity_at_its_defaults(spectrogram):
    output = SpectrogramAugment()(spectrogram, training=True)
    np.testing.assert_array_equal(output, spectrogram)


def test_augment_fills_one_band_and_one_time_span(spectrogram):
    batch = np.tile(spectrogram, (20, 1, 1))
    layer = everything(noise=False, roll_frames=0)
    changed = augmented_in_a_graph(layer, batch, seeds_of(120))
    masked = changed != batch
    assert set(np.unique(changed[masked])) == {np.float32(FILL)}
    bands, spans = masked.all(1), masked.all(2)  # [batch, mel], [batch, frames]
    np.testing.assert_array_equal(masked, bands[:, None, :] | spans[:, :, None])
    for lines, widest in ((bands, 8), (spans, 12)):
        padded = np.pad(lines, ((0, 0), (1, 1)))
        assert np.abs(np.diff(padded.astype(int), axis=1)).sum(1).max() == 2  # contiguous
        assert set(lines.sum(1)) == set(range(widest))


@pytest.mark.parametrize(("argument", "axis"), [("freq_mask_bins", 2), ("time_mask_frames", 1)])
def test_each_mask_argument_masks_its_own_axis(argument, axis, spectrogram):
    changed = augmented(SpectrogramAugment(**{argument: 10}), spectrogram, seeds_of(6))
    masked = changed != spectrogram
    assert 0 < masked.sum() < masked.size
    np.testing.assert_array_equal(masked.any(3 - axis), masked.all(3 - axis))


def test_augment_adds_noise_of_one_amplitude_per_example():
    zeros = np.zeros((400, 30, 16), "float32")
    noise = augmented_in_a_graph(SpectrogramAugment(noise=True), zeros, seeds_of(400))
    assert noise.min() >= 0
    assert noise.max() < 0.1
    # The largest of 480 uniform numbers is close to 1, so it estimates the amplitude.
    amplitudes = noise.max((1, 2))
    counts, _ = np.histogram(amplitudes, bins=10, range=(0, 0.1))
    assert abs(chi_square(counts, [40] * 10)) < 5
    # The numbers below the largest of uniform numbers are uniform again.
    field = np.sort((noise / amplitudes[:, None, None]).reshape(400, 480))[:, :-1]
    counts, _ = np.histogram(field, bins=32, range=(0, 1))
    assert abs(chi_square(counts, [field.size / 32] * 32)) < 5
    field = (noise / amplitudes[:, None, None]).reshape(400, 480)
    # Fields are independent of each other and of the amplitude: five standard deviations.
    assert np.abs(np.corrcoef(field[:50]) - np.eye(50)).max() < 5 / np.sqrt(480)
    with_amplitude = np.corrcoef(np.column_stack([amplitudes, field]).T)[0, 1:]
    assert np.abs(with_amplitude).max() < 5 / np.sqrt(400)


def test_augment_rolls_frames_circularly_by_minus_n_to_n_minus_one():
    ramp = np.arange(30.0, dtype="float32")[None, :, None] + np.zeros((2000, 1, 2), "float32")
    rolled = augmented_in_a_graph(SpectrogramAugment(roll_frames=5), ramp, seeds_of(2000))
    shifts = -rolled[:, 0, 0].astype(int)  # frame s is first after a roll by -s
    shifts = np.where(shifts < -15, shifts + 30, shifts)
    for example, before, shift in zip(rolled, ramp, shifts, strict=True):
        np.testing.assert_array_equal(example, np.roll(before, shift, axis=0))
    values, counts = np.unique(shifts, return_counts=True)
    assert list(values) == list(range(-5, 5))
    assert abs(chi_square(counts, [200] * 10)) < 5


def test_augment_masks_then_adds_noise_then_rolls(spectrogram):
    seeds = seeds_of(6)
    masked = augmented(everything(noise=False, roll_frames=0), spectrogram, seeds)
    noisy = augmented(everything(roll_frames=0), spectrogram, seeds)
    rolled = augmented(everything(), spectrogram, seeds)
    assert ((noisy - masked) >= 0).all()
    assert (noisy[masked == np.float32(FILL)] > FILL).any()  # noise is added to masked elements
    assert not np.array_equal(rolled, noisy)
    for before, after in zip(noisy, rolled, strict=True):
        assert any(np.array_equal(np.roll(before, s, axis=0), after) for s in range(-5, 5))


# --- Seeds ---


def test_augment_with_seeds_depends_on_each_examples_own_seed(spectrogram):
    layer = everything()
    together = augmented(layer, spectrogram, seeds_of(6))
    for index in range(6):
        one = slice(index, index + 1)
        alone = augmented(layer, spectrogram[one], seeds_of(6)[one])
        np.testing.assert_array_equal(alone, together[one])
    backwards = augmented(layer, spectrogram[::-1], seeds_of(6)[::-1])
    np.testing.assert_array_equal(backwards[::-1], together)
    same = augmented(layer, np.repeat(spectrogram[:1], 6, 0), seeds_of(6))
    assert len({example.tobytes() for example in same}) == 6


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_augment_accepts_seeds_of_any_integer_dtype(dtype, spectrogram):
    expected = augmented(everything(), spectrogram, seeds_of(6))
    actual = augmented(everything(), spectrogram, seeds_of(6).astype(dtype))
    np.testing.assert_array_equal(actual, expected)


def test_augment_accepts_the_largest_seeds(spectrogram):
    seeds = np.array([[2**31 - 1, 2**31 - 1], [0, 0]], "int32")
    changed = augmented(everything(), spectrogram[:2], seeds)
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, spectrogram[:2])


def test_augment_without_seeds_changes_per_call_and_repeats_from_a_saved_state(spectrogram):
    layer, other = everything(), everything(seed=5)
    layer(spectrogram, training=True)
    state = layer.seed_generator.state.numpy()
    second = layer(spectrogram, training=True).numpy()
    assert not np.array_equal(layer(spectrogram, training=True), second)
    other.seed_generator.state.assign(state)
    np.testing.assert_array_equal(other(spectrogram, training=True), second)


def test_augment_without_seeds_repeats_with_the_layers_seed(spectrogram):
    outputs = [everything(seed=seed)(spectrogram, training=True).numpy() for seed in (4, 4, 5)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_augment_without_seeds_treats_every_example_differently(spectrogram):
    same = np.repeat(spectrogram[:1], 6, 0)
    changed = everything()(same, training=True).numpy()
    assert len({example.tobytes() for example in changed}) == 6


# --- Compiled, dynamic shapes, half precision ---


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_augment_equals_eager_for_any_batch_size(jit_compile, spectrogram):
    layer = everything()
    signature = [tf.TensorSpec([None, 30, 16]), tf.TensorSpec([None, 2], tf.int32)]

    @tf.function(jit_compile=jit_compile, input_signature=signature)
    def compiled(spectrogram, seeds):
        return layer(spectrogram, training=True, seeds=seeds)

    for batch in (6, 1):
        expected = augmented(layer, spectrogram[:batch], seeds_of(batch))
        actual = compiled(spectrogram[:batch], seeds_of(batch)).numpy()
        # The division by ten becomes a multiplication fused with the sum: observed 2.4e-7.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=8e-7)


def test_augment_without_seeds_runs_compiled(spectrogram):
    layer = everything()
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = compiled(spectrogram).numpy(), compiled(spectrogram).numpy()
    assert not np.array_equal(first, second)


def test_augment_accepts_any_number_of_frames(spectrogram):
    layer = everything()
    signature = [tf.TensorSpec([None, None, 16])]
    compiled = tf.function(lambda x: layer(x, training=True), input_signature=signature)
    for frames in (30, 17):
        assert compiled(spectrogram[:, :frames]).shape == (6, frames, 16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_augment_keeps_a_half_precision_dtype(dtype, spectrogram):
    layer = everything(dtype=dtype, noise=False)
    halved = tf.cast(spectrogram, dtype)
    output = layer(halved, training=True, seeds=seeds_of(6))
    assert output.dtype == dtype
    expected = augmented(everything(noise=False), spectrogram, seeds_of(6))
    # Masks and roll do not compute: the result consists of the rounded inputs.
    np.testing.assert_array_equal(
        tf.cast(output, tf.float32), tf.cast(tf.cast(expected, dtype), tf.float32)
    )
    noisy = everything(dtype=dtype)(halved, training=True, seeds=seeds_of(6))
    assert noisy.dtype == dtype
    assert np.isfinite(tf.cast(noisy, tf.float32)).all()

"""Every step of every published recipe equals the authors' step, over the whole run.

The recipes are compared with `tests/reference/authors_recipes.py` at the real sizes of the data.
Nothing is decoded. The file is longer than others, because all checks share one cached run of each
recipe, which is expensive to make.
"""

import csv
import dataclasses
import functools
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.packed import PackedTargets, Rows
from ast_keras.labels import LabelSet
from ast_keras.layers.patch_embedding import patch_grid
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.recipe import list_recipes, load_recipe, override
from ast_keras.reports.fold_report import read_fold_scores
from ast_keras.reports.tables import SCORES
from ast_keras.training import build
from ast_keras.training.result import best_epoch
from tests.reference import adam_l2, authors_recipes
from tests.reference.authors_recipes import RECIPES

# Recipes that differ from one another in the steps of a run; the others differ in the model.
DISTINCT = ("audioset_full", "audioset_balanced", "esc50", "esc50_imagenet", "speech_commands")
# If a distribution is right, a p-value is smaller once in ten thousand runs. Seeds are fixed.
RARE = 1e-4


class Sounds(Sequence):
    """Makes `count` short waveforms on access, and records which were accessed."""

    def __init__(self, count):
        self.count = count
        self.accessed = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.accessed.append(index)
        return np.random.default_rng(index).normal(0.1, 1, 20 + index % 7).astype("float32")


def label_sets(count, num_classes, multi_label):
    """Returns the labels of `count` clips, some a hundred times as frequent as others."""
    first = (np.random.default_rng(1).random(count) ** 3 * (num_classes - 2)).astype(np.int32)
    sizes = np.arange(count) % 3 + 1 if multi_label else np.ones(count, int)
    rows = Rows.from_lengths(np.repeat(first, sizes), sizes)
    rows.values[:] += np.arange(len(rows.values)) - np.repeat(rows.starts, sizes)
    return PackedTargets(rows)


@functools.cache
def recipe_of(name):
    return load_recipe(name)


def dataset_of(name, count=None):
    """Returns a data set with the splits and the size of the real one, or `count` clips."""
    authors = RECIPES[name]
    multi_label = authors.metric == "mean_average_precision"
    sizes = {"train": count or authors.num_clips, "test": 400}
    if authors.scored_every_epoch == "validation":
        sizes["validation"] = 300
    splits = {
        split: Split(Sounds(size), label_sets(size, authors.num_classes, multi_label))
        for split, size in sizes.items()
    }
    labels = LabelSet(tuple(f"class {index}" for index in range(authors.num_classes)))
    return SoundDataset(name, labels, splits, multi_label)


@functools.cache
def pipeline_of(name, count=None):
    """Returns the training pipeline of the real size, without a cache that hides accesses."""
    recipe = override(recipe_of(name), ["data.cache_megabytes=0"])
    return build.make_pipeline(recipe, dataset_of(name, count), "train", training=True)


# --- Settings ---


def test_every_published_recipe_is_compared():
    published = ("audioset_", "esc50", "speech_commands")
    known = {name for name in list_recipes() if name.startswith(published)}
    assert known - {"speech_commands_small"} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_settings_are_the_authors(name):
    recipe, authors = recipe_of(name), RECIPES[name]
    frontend, model, augment = recipe.frontend, recipe.model, recipe.augment
    assert (frontend.num_frames, frontend.mean, frontend.std) == (
        *(authors.num_frames, authors.mean, authors.std),
    )
    assert (frontend.sample_rate, frontend.num_mel_bins, frontend.window) == (16000, 128, "hann")
    assert (model.size, model.start) == ("ast_base", authors.start)
    assert (model.patch_size, model.strides) == (authors.patch, authors.stride)
    assert (model.rgb_reduction, model.position_resize) == ("sum", authors.position)
    assert model.use_distillation_token
    assert (model.dropout, model.attention_dropout, model.drop_path) == (0, 0, 0)
    assert augment.shift_seconds == augment.gain_db == 0
    assert recipe.optimizer.weight_decay == recipe.train.label_smoothing == 0
    assert recipe.optimizer.gradient_clip_norm is None
    assert (recipe.train.loss, recipe.train.metric) == (authors.loss, authors.metric)
    assert (recipe.train.batch_size, recipe.train.num_epochs) == (
        *(authors.batch_size, authors.num_epochs),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_number_of_tokens_is_the_published_one(name):
    recipe = recipe_of(name)
    grid = patch_grid(
        128, recipe.frontend.num_frames, recipe.model.patch_size, recipe.model.strides
    )
    assert math.prod(grid) + 2 == RECIPES[name].num_tokens


# --- The learning rate ---


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rate_of_every_step_is_the_authors(name):
    recipe, authors = recipe_of(name), RECIPES[name]
    steps = -(-authors.num_clips // recipe.train.batch_size)
    assert steps == authors_recipes.steps_per_epoch(authors)
    schedule = build.make_schedule(recipe, steps)
    expected = np.array(authors_recipes.learning_rates(authors), "float32")
    every_step = tf.function(lambda numbers: tf.vectorized_map(schedule, numbers))
    np.testing.assert_array_equal(every_step(tf.range(len(expected))), expected)


@pytest.mark.parametrize("name", DISTINCT)
def test_number_of_steps_follows_from_the_data(name):
    assert pipeline_of(name).steps_per_epoch == authors_recipes.steps_per_epoch(RECIPES[name])


@pytest.mark.parametrize("name", authors_recipes.PRINTED_RATES)
def test_learning_rate_by_epoch_is_the_printed_one(name):
    authors = RECIPES[name]
    steps = authors_recipes.steps_per_epoch(authors)
    schedule = build.make_schedule(recipe_of(name), steps)
    for epoch, rate in authors_recipes.PRINTED_RATES[name].items():
        # Printed with four digits.
        assert float(schedule(epoch * steps - 1)) == pytest.approx(rate, rel=1.3e-4)


@pytest.mark.parametrize("name", DISTINCT)
def test_optimizer_moves_a_weight_as_the_authors_adam_does(name):
    """Runs all epochs with few steps each, so that the warm-up and every decay are included."""
    recipe = recipe_of(name)
    authors = dataclasses.replace(RECIPES[name], num_clips=6 * RECIPES[name].batch_size)
    if authors.warmup:
        authors = dataclasses.replace(authors, num_epochs=2, num_clips=60 * authors.batch_size)
        recipe = override(recipe, ["train.num_epochs=2", "train.keep_epochs=1,2"])
    rates = authors_recipes.learning_rates(authors)
    optimizer = build.make_optimizer(recipe, authors_recipes.steps_per_epoch(authors))
    for value in ("beta_1", "beta_2", "epsilon", "l2"):
        assert getattr(optimizer, value) == getattr(authors, value)
    # From zero, where float32 resolves even the smallest steps.
    weight, oracle, expected = tf.Variable([0.0, 0.0]), adam_l2.Adam([2]), np.zeros(2)
    optimizer.build([weight])
    apply = tf.function(lambda gradient: optimizer.apply([gradient], [weight]))
    for rate, gradient in zip(rates, np.random.default_rng(1).normal(1, 1, [999, 2]), strict=False):
        before, found_before = expected.copy(), weight.numpy().astype("float64")
        apply(tf.constant(gradient, tf.float32))
        oracle.step(expected, gradient, rate)
        found = weight.numpy()
        # Rounding of the weight to float32 is half a unit in its last place. Beyond that an error
        # of 4.6e-7 of the rate was seen.
        tolerance = 0.5 * np.spacing(np.abs(found)) + 1.4e-6 * rate
        assert (np.abs(found - found_before - (expected - before)) <= tolerance).all()
    assert np.abs(expected).min() > 2 * authors.learning_rate


# --- Masks, noise, roll ---


def augment_of(name, **changes):
    """Returns the augmentation layer of the run's model, with changes to its configuration."""
    layer = _augment_of(name)
    return type(layer).from_config(layer.get_config() | changes)


@functools.cache
def _augment_of(name):
    recipe = override(recipe_of(name), ["model.size=ast_test", "model.start=random"])
    return build.make_model(recipe, dataset_of(name, 12).labels).augment


def seeds_of(count):
    return np.random.default_rng(1).integers(0, 2**31 - 1, [count, 2], dtype=np.int32)


def masks_of(name):
    """Returns which bins and which frames of many examples are masked, and with what."""
    # Noise and roll come after the masks and are tested below.
    config = augment_of(name, noise=False, roll_frames=0).get_config()
    return _masks_of(json.dumps(config), RECIPES[name].num_frames)


@functools.cache  # recipes with the same configuration have the same masks
def _masks_of(config, num_frames, count=1024):
    # At least 5 examples of each of 192 widths, which the chi-square test needs.
    layer = SpectrogramAugment.from_config(json.loads(config))
    bins, frames, values = [], [], set()
    run = tf.function(functools.partial(layer, training=True))
    spectrograms = tf.fill([64, num_frames, 128], 7.0)
    for seeds in np.split(seeds_of(count), count // 64):
        result = run(spectrograms, seeds=seeds).numpy()
        masked = result != 7
        bins.append(masked.all(axis=1))
        frames.append(masked.all(axis=2))
        assert np.array_equal(masked, bins[-1][:, None, :] | frames[-1][:, :, None])
        values.update(np.unique(result[:4]).tolist())
    return np.concatenate(bins), np.concatenate(frames), values - {7.0}


@pytest.mark.parametrize("axis", ["frequency", "time"])
@pytest.mark.parametrize("name", DISTINCT)
def test_masks_are_distributed_as_the_authors(name, axis):
    authors = RECIPES[name]
    masked = masks_of(name)[0 if axis == "frequency" else 1]
    max_width = authors.freqm if axis == "frequency" else authors.timem
    widths, covered = authors_recipes.mask_law(max_width, masked.shape[1], cuts=16)
    runs = np.diff(masked.astype(int), axis=1, prepend=0) == 1
    assert runs.sum(axis=1).max() == 1  # one mask
    counts = np.bincount(masked.sum(axis=1), minlength=max_width)
    assert len(counts) == max_width  # none as wide as the maximum
    assert stats.chisquare(counts, widths * len(masked)).pvalue > RARE
    assert covered[-1] == 0
    assert not masked[:, -1].any()
    # How often each other place is masked: the largest of these deviations. Exact probabilities,
    # because counts near the ends are too small for a normal approximation.
    found = masked.sum(axis=0)
    rare = [
        min(stats.binom.cdf(n, len(masked), p), stats.binom.sf(n - 1, len(masked), p))
        for n, p in zip(found[:-1].tolist(), covered[:-1], strict=True)
    ]
    assert min(rare) > RARE / 2 / len(rare)


@pytest.mark.parametrize("name", DISTINCT)
def test_masks_write_zero_before_normalisation(name):
    authors = RECIPES[name]
    (value,) = masks_of(name)[2]
    assert value == np.float32((0.0 - authors.mean) / (2 * authors.std))


@pytest.mark.parametrize("name", DISTINCT)
def test_noise_and_roll_are_used_as_by_the_authors(name):
    authors, layer = RECIPES[name], augment_of(name)
    assert layer.noise == authors.noise
    assert layer.roll_frames == (-min(authors_recipes.ROLLS) if authors.noise else 0)


def test_roll_is_distributed_as_the_authors():
    off = {"noise": False, "freq_mask_bins": 0, "time_mask_frames": 0}
    layer = augment_of("speech_commands", **off)
    ramp = tf.broadcast_to(tf.range(128.0)[None, :, None], [4000, 128, 1])
    rolled = tf.function(layer)(ramp, training=True, seeds=seeds_of(4000)).numpy()[:, :, 0]
    shifts = (64 - rolled[:, 64] + 64) % 128 - 64
    np.testing.assert_array_equal(rolled[:5], [np.roll(np.arange(128), int(s)) for s in shifts[:5]])
    counts = [np.sum(shifts == shift) for shift in authors_recipes.ROLLS]
    assert sum(counts) == 4000
    assert stats.chisquare(counts).pvalue > RARE


def test_noise_is_distributed_as_the_authors():
    off = {"roll_frames": 0, "freq_mask_bins": 0, "time_mask_frames": 0}
    layer = augment_of("speech_commands", **off)
    zeros = tf.zeros([500, 128, 128])
    noise = tf.function(layer)(zeros, training=True, seeds=seeds_of(500)).numpy()
    # U(0, 1) * A / 10: the largest of 16,384 is within a fraction of 1e-3 of A / 10, except with a
    # probability of 1e-7.
    amplitude = 10 * noise.max(axis=(1, 2))
    assert stats.kstest(amplitude, "uniform").pvalue > RARE
    fraction = noise[:20] / noise[:20].max(axis=(1, 2), keepdims=True)
    assert min(stats.kstest(s.ravel()[:1000], "uniform").pvalue for s in fraction) > RARE / 20


# --- Mixup ---


@functools.cache
def mixed_examples(name, count=3000):
    """Returns (clip, partner or None, target) of the pipeline at many places of a run."""
    pipeline = pipeline_of(name)
    sounds, found = pipeline.split.sources, []
    for number in range(count):
        epoch, place = divmod(number, count // 2)
        sounds.accessed.clear()
        _, target, _ = pipeline.example(epoch, place % pipeline.num_examples)
        first, *partner = sounds.accessed
        found.append((first, partner[0] if partner else None, target))
    return found


@pytest.mark.parametrize("name", DISTINCT)
def test_mixup_is_as_frequent_as_the_authors(name):
    mixed = sum(partner is not None for _, partner, _ in mixed_examples(name))
    rate = RECIPES[name].mixup
    if rate == 0:
        assert mixed == 0
    else:
        assert stats.binomtest(mixed, len(mixed_examples(name)), rate).pvalue > RARE


@pytest.mark.parametrize("name", [n for n in DISTINCT if RECIPES[n].mixup])
def test_mixup_partner_is_drawn_uniformly_from_all_clips(name):
    num_clips = RECIPES[name].num_clips
    partners = np.array([p for _, p, _ in mixed_examples(name) if p is not None])
    assert 0 <= partners.min() <= partners.max() < num_clips
    # Uniform in the order of the split, and among rare and frequent labels, by which a weighted
    # sampler draws.
    assert stats.kstest((partners + 0.5) / num_clips, "uniform").pvalue > RARE
    targets = pipeline_of(name).split.targets
    rank = np.array([targets[int(p)][0] for p in partners])
    population = np.array([targets[int(p)][0] for p in range(0, num_clips, num_clips // 1500)])
    assert stats.ks_2samp(rank, population).pvalue > RARE


def test_mixup_weight_is_distributed_as_the_authors():
    weights = []
    for name in (n for n in DISTINCT if RECIPES[n].mixup):
        targets = pipeline_of(name).split.targets
        for first, partner, target in mixed_examples(name):
            # A label that only the first clip has gives the weight.
            own = set(targets[first]) - set(targets[partner]) if partner is not None else ()
            weights += [float(target[label]) for label in sorted(own)[:1]]
    assert len(weights) > 4000
    assert stats.kstest(weights, np.vectorize(authors_recipes.beta_10_10_cdf)).pvalue > RARE
    # Another Beta(n, n) differs most in its spread: the variance of Beta(10, 10) is 1 / 84, the
    # fourth moment of its deviations 1 / 84 ** 2 * 3 * 21 / 23.
    error = np.sqrt((3 * 21 / 23 - 1) / len(weights))
    assert abs(84 * np.var(weights) - 1) < stats.norm.isf(RARE / 2) * error


@pytest.mark.parametrize("name", [n for n in DISTINCT if RECIPES[n].mixup])
def test_mixup_result_is_the_authors(name):
    pipeline, authors = pipeline_of(name), RECIPES[name]
    compared = 0
    for place in range(300):
        pipeline.split.sources.accessed.clear()
        clip, target, _ = pipeline.example(2, place)
        first, *partner = list(pipeline.split.sources.accessed)
        labels = [pipeline.split.targets[index] for index in (first, *partner)]
        if not partner:
            assert np.flatnonzero(target).tolist() == list(labels[0])
            assert set(target[list(labels[0])]) == {1.0}
            np.testing.assert_array_equal(clip, pipeline.split.sources[first])
            continue
        # A label that only the first clip has gives the weight.
        own = set(labels[0]) - set(labels[1])
        if not own:
            continue
        weight, compared = float(target[min(own)]), compared + 1
        expected = authors_recipes.mixed_target(*labels, weight, authors.num_classes)
        # Sums of two float32 weights.
        np.testing.assert_allclose(target, expected, rtol=0, atol=2e-7)
        sounds = [pipeline.split.sources[index] for index in (first, *partner)]
        mixed = authors_recipes.mixed_waveform(*sounds, weight)
        # Float32 waveforms of values up to 4; the weight is read back from float32. 5e-7 was seen.
        np.testing.assert_allclose(clip, mixed, rtol=0, atol=1.5e-6)
    assert compared > 90


# --- Sampling ---


@pytest.mark.parametrize("name", [n for n in DISTINCT if not RECIPES[n].balanced_sampler])
def test_shuffled_recipes_use_every_clip_once_in_every_epoch(name):
    pipeline = pipeline_of(name)
    orders = [pipeline.order(epoch) for epoch in range(3)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(RECIPES[name].num_clips))
    assert np.mean(orders[0] == orders[1]) < 0.01
    # No part of the epoch is sorted.
    place = orders[2] / len(orders[2])
    parts = [stats.kstest(part, "uniform").pvalue for part in np.array_split(place, 4)]
    assert min(parts) > RARE / 4


@pytest.mark.parametrize("count", [200_000, pytest.param(None, marks=pytest.mark.slow)])
def test_full_audioset_draws_clips_with_replacement_by_the_authors_weights(count):
    pipeline, authors = pipeline_of("audioset_full", count), RECIPES["audioset_full"]
    targets = pipeline.split.targets
    weights = np.array(authors_recipes.sampling_weights(list(targets), authors.num_classes))
    fraction = weights / weights.sum()
    # Clips in order of their weight, in 1,000 groups that should be drawn equally often.
    ranked = np.argsort(weights)
    group = np.empty(len(weights), int)
    group[ranked] = np.minimum(np.cumsum(fraction[ranked]) * 1000, 999).astype(int)
    expected = np.bincount(group, fraction, minlength=1000) * len(weights)
    orders = [pipeline.order(epoch) for epoch in range(2)]
    for order in orders:
        assert len(order) == (count or authors.num_clips)
        counts = np.bincount(group[order], minlength=1000)
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > RARE
    # With replacement: a clip that is drawn m times on average is not drawn with rate exp(-m).
    drawn = np.bincount(orders[0], minlength=len(weights)) > 0
    missing = np.exp(-fraction * len(weights)).sum()
    assert abs((~drawn).sum() - missing) < 4 * np.sqrt(missing)
    assert np.mean(orders[0] == orders[1]) < 0.01


def test_full_audioset_follows_its_order():
    pipeline = pipeline_of("audioset_full")
    order = pipeline.order(1)
    for place in (0, 1, 5000, len(order) - 1):
        pipeline.split.sources.accessed.clear()
        pipeline.example(1, place)
        assert pipeline.split.sources.accessed[0] == order[place]


def test_last_batch_of_an_epoch_is_smaller_and_has_the_same_weight():
    pipeline = pipeline_of("speech_commands")
    steps, rest = pipeline.steps_per_epoch, 84_843 % 128
    weight = pipeline.batch(steps - 1)["weight"]
    assert np.count_nonzero(weight) == rest
    assert weight.sum() == pytest.approx(1)


# --- Scores and the model that is chosen ---


@pytest.mark.parametrize("name", RECIPES)
def test_scored_split_is_the_authors_and_not_augmented(name):
    recipe, authors = recipe_of(name), RECIPES[name]
    dataset = dataset_of(name, 24)
    split = build.validation_split(recipe, dataset)
    assert split == authors.scored_every_epoch
    pipeline = build.make_pipeline(recipe, dataset, split)
    assert pipeline.batch_size == min(2 * authors.batch_size, len(dataset.splits[split]))
    for place in (0, 7):
        clip, target, _ = pipeline.example(0, place)
        np.testing.assert_array_equal(clip, dataset.splits[split].sources[place])
        assert np.flatnonzero(target).tolist() == list(dataset.splits[split].targets[place])


@pytest.mark.parametrize("name", RECIPES)
def test_chosen_model_is_the_authors(name):
    train, authors = recipe_of(name).train, RECIPES[name]
    if authors.averaged_epochs:
        first, last = train.keep_epochs
        assert train.final_model == "average"
        assert tuple(range(first, last + 1)) == authors.averaged_epochs
    else:
        assert (train.final_model, train.keep_epochs) == ("best", None)


CURVES = {
    "rising": [0.1, 0.2, 0.3],
    "falling": [0.3, 0.2, 0.1],
    "equal": [0.2, 0.3, 0.3, 0.3],
    **authors_recipes.CURVES,
}


@pytest.mark.parametrize("scores", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("metric", ["accuracy", "mean_average_precision"])
def test_best_epoch_is_the_authors(metric, scores):
    other = "accuracy" if metric != "accuracy" else "mean_average_precision"
    history = [
        {"epoch": epoch, metric: score, other: -score} for epoch, score in enumerate(scores, 1)
    ]
    assert best_epoch(history, metric)["epoch"] == authors_recipes.best_epoch(scores)


def test_best_epoch_of_the_folds_is_that_of_their_mean(tmp_path):
    folds = np.round(0.9 + 0.05 * np.random.default_rng(3).random([5, 25]), 4).tolist()
    # The published epoch 22: the best in the mean, and in no single fold.
    published = [0.950, 0.9775, 0.9475, 0.970, 0.9425]
    for number, (scores, score) in enumerate(zip(folds, published, strict=True), 1):
        scores[21], scores[number] = score, score + 0.01
        folder = tmp_path / f"fold_{number}"
        folder.mkdir()
        (folder / "recipe.json").write_text(recipe_of("esc50").to_json())
        (folder / "evaluation.json").write_text(
            json.dumps({"average": None, "last_epoch": {"epoch": 25}})
        )
        with open(folder / "epochs.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *SCORES])
            rows = enumerate(scores, 1)
            writer.writerows([[epoch, *[value] * len(SCORES)] for epoch, value in rows])
    assert authors_recipes.best_mean_epoch(folds) == 22
    best, last = read_fold_scores(tmp_path).rules[:2]
    assert (best.epoch, last.epoch) == (22, 25)
    assert best.mean("accuracy") == pytest.approx(0.9575)
    assert last.mean("accuracy") == pytest.approx(np.mean([scores[24] for scores in folds]))

"""The pipeline: batches as a pure function of (seed, epoch, position), and as input of `fit`."""

import threading

import numpy as np
import pytest
import soundfile

from ast_keras.data.dataset import Split
from ast_keras.data.pipeline import Pipeline
from ast_keras.data.waveform_augment import mixup
from ast_keras.errors import ArgumentError, AudioError, AudioNotFoundError
from tests.helpers.arrays import assert_same
from tests.helpers.models import tiny_classifier

RATE = 16000


def make_split(count=10, samples=800):
    rng = np.random.default_rng(5)
    lengths = [samples - 10 * i for i in range(count)]
    return Split(
        sources=[rng.uniform(-1, 1, n).astype("float32") for n in lengths],
        targets=[(i % 3,) for i in range(count)],
    )


def make(split=None, **settings):
    defaults = {"num_classes": 3, "clip_samples": 800, "batch_size": 4, "seed": 7}
    return Pipeline(make_split() if split is None else split, **{**defaults, **settings})


AUGMENTED = {"training": True, "mixup_rate": 0.5, "shift_samples": 100, "gain_db": 6.0}


def test_batches_do_not_depend_on_where_they_start_or_on_threads():
    whole = list(make(**AUGMENTED, num_workers=1).batches(0, 9))
    resumed = list(make(**AUGMENTED, num_workers=4).batches(5, 9))
    for expected, batch in zip(whole[5:], resumed, strict=True):
        assert_same(expected, batch)


def test_dataset_holds_the_same_batches():
    pipeline = make(**AUGMENTED)
    for step, batch in enumerate(pipeline.dataset(2, 5).as_numpy_iterator(), start=2):
        assert_same(pipeline.batch(step), batch)


def test_rows_of_workers_add_up_to_the_global_batch():
    pipeline = make(**AUGMENTED)
    whole, parts = (
        pipeline.batch(1),
        [pipeline.batch(1, slice(0, 2)), pipeline.batch(1, slice(2, 4))],
    )
    assert_same(whole, {k: np.concatenate([p[k] for p in parts]) for k in whole})


def test_every_epoch_holds_every_example_once_in_a_new_order():
    pipeline = make(training=True)
    orders = [pipeline.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert make(training=True, seed=8).order(0).tolist() != orders[0]


def test_a_partial_batch_is_filled_with_weight_zero():
    pipeline = make()
    assert pipeline.steps_per_epoch == 3
    last = pipeline.batch(2)
    np.testing.assert_allclose(last["weight"], [0.5, 0.5, 0, 0])
    assert last["waveform"].shape == (4, 800)
    assert not last["waveform"][2:].any()
    seen = [i for step in range(3) for i in pipeline.batch(step)["lengths"] if i > 1]
    assert seen == [800 - 10 * i for i in range(10)]


def test_clips_are_cut_and_padded_to_the_clip_length():
    batch = make(clip_samples=750).batch(0)
    assert batch["lengths"].tolist() == [750, 750, 750, 750]
    batch = make(make_split(1), batch_size=1, clip_samples=1000).batch(0)
    assert batch["lengths"].tolist() == [800]
    assert not batch["waveform"][0, 800:].any()


def test_augmentation_is_for_training_only():
    settings = {**AUGMENTED, "training": False}
    assert_same(make(**settings).batch(0), make().batch(0))


def test_mixup_equals_the_authors():
    rng = np.random.default_rng(1)
    long, short = rng.normal(size=900).astype("float32"), rng.normal(size=700).astype("float32")
    for first, second in ((long, short), (short, long)):
        other = second - second.mean()
        fitted = np.pad(other, (0, max(0, len(first) - len(other))))[: len(first)]
        expected = 0.3 * (first - first.mean()) + 0.7 * fitted
        expected -= expected.mean()
        # Three float32 roundings of values below 4; seen 2.4e-7.
        np.testing.assert_allclose(mixup(first, second, 0.3), expected, atol=8e-7)


def test_mixup_rate_partner_and_weight_follow_the_rule():
    split = Split(sources=[np.zeros(4, "float32")] * 1000, targets=[(i,) for i in range(1000)])
    pipeline = make(split, num_classes=1000, clip_samples=4, training=True, mixup_rate=0.6)
    weights, partners, mixed = [], [], 0
    order = pipeline.order(0)
    for position in range(1000):
        _, target, _ = pipeline.example(0, position)
        others = [i for i in np.flatnonzero(target) if i != order[position]]
        if others:
            mixed += 1
            weights.append(target[order[position]])
            partners.append(others[0])
        # Two float32 halves of one.
        assert target.sum() == pytest.approx(1, abs=2e-7)
    # 600 of 1000 binomial draws, five standard deviations of 15.5.
    assert abs(mixed - 600) < 78
    # Beta(10, 10): mean 1/2, standard deviation 0.1091; five standard errors of 600 draws.
    assert abs(np.mean(weights) - 0.5) < 0.0223
    assert abs(np.std(weights) - 0.1091) < 0.016
    # Uniform over 0..999: standard deviation 288.7.
    assert abs(np.mean(partners) - 499.5) < 59


def test_seeds_differ_between_examples_and_epochs():
    pipeline = make(training=True)
    seeds = {tuple(pipeline.example(e, p)[2]) for e in range(3) for p in range(10)}
    assert len(seeds) == 30


def test_shift_and_gain_change_nothing_else():
    clip = make_split(1).sources[0]
    shifted = make(make_split(1), batch_size=1, training=True, shift_samples=100).batch(3)
    assert sorted(shifted["waveform"][0]) == sorted(clip)
    assert not np.array_equal(shifted["waveform"][0], clip)
    louder = make(make_split(1), batch_size=1, training=True, gain_db=6.0).batch(3)["waveform"][0]
    ratio = louder / clip
    # One float32 rounding of the product.
    np.testing.assert_allclose(ratio, ratio[0], rtol=2e-7)
    assert 10 ** (-6 / 20) <= ratio[0] <= 10 ** (6 / 20)
    assert ratio[0] != 1


def test_error_of_the_dataset_names_the_unreadable_file(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF nothing")
    pipeline = make(Split(sources=[str(path)], targets=[(0,)]), batch_size=1)
    with pytest.raises(AudioError, match=r"broken\.wav"), pipeline.translate_errors():
        list(pipeline.dataset(0, 1))


def test_closing_the_batches_ends_their_threads():
    before = threading.active_count()
    batches = make(**AUGMENTED, num_workers=4).batches(0, 1000)
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=5)
    assert threading.active_count() <= before


def test_pipeline_rejects_an_empty_split():
    with pytest.raises(ValueError, match="at least one example"):
        make(Split(sources=[], targets=[]))


# --- Input of model.fit ---


def test_fit_dataset_holds_the_examples_of_the_batches_without_filler_rows():
    pipeline = make(**AUGMENTED)
    for step, (inputs, target, weight) in enumerate(
        pipeline.fit_dataset(initial_epoch=1).take(4).as_numpy_iterator(), start=3
    ):
        batch = pipeline.batch(step)
        num_examples = 2 if step % 3 == 2 else 4
        assert weight.tolist() == [1.0] * num_examples
        expected = {name: batch[name][:num_examples] for name in ("waveform", "lengths", "seeds")}
        assert_same(inputs, expected)
        np.testing.assert_array_equal(target, batch["target"][:num_examples])


def test_fit_dataset_is_endless_in_training_and_one_pass_otherwise():
    import tensorflow as tf

    endless = make(training=True).fit_dataset()
    assert endless.cardinality() == tf.data.experimental.INFINITE_CARDINALITY
    one_pass = make().fit_dataset()
    assert one_pass.cardinality() == 3
    for _ in range(2):  # it can be read again, as validation data is after every epoch
        assert sum(len(target) for _, target, _ in one_pass) == 10


# Tracing a training step takes most of a quarter of a minute.
@pytest.mark.parametrize(
    ("padding", "run_eagerly"),
    [
        ("masked", True),
        pytest.param("masked", False, marks=pytest.mark.slow),
        pytest.param("original", False, marks=pytest.mark.slow),
    ],
)
def test_model_fits_on_a_pipeline(padding, run_eagerly):
    import keras

    # Classes that differ in level.
    clips = [np.full(n, 0.01 * 10**c, "float32") for c in (0, 1) for n in (16000, 9000, 12000)]
    rng = np.random.default_rng(2)
    clips = [clip * rng.standard_normal(len(clip)).astype("float32") for clip in clips]
    split = Split(sources=clips, targets=[(0,)] * 3 + [(1,)] * 3)
    settings = {"num_classes": 3, "clip_samples": 16000, "by_length": padding == "masked"}
    train = make(split, **settings, training=True, mixup_rate=0.5)
    validation = make(split, **settings)
    model = tiny_classifier(padding=padding)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        run_eagerly=run_eagerly,
        jit_compile=False,
    )
    history = model.fit(
        train.fit_dataset(),
        steps_per_epoch=train.steps_per_epoch,
        epochs=3,
        validation_data=validation.fit_dataset(),
        verbose=0,
    ).history
    assert len(history["loss"]) == 3
    assert history["val_accuracy"][-1] > 0.8
    # The loss is the mean over the examples, whatever the size of the batches.
    logits = np.concatenate([model(x).numpy() for x, _, _ in validation.fit_dataset()])
    expected = np.mean([keras.ops.logsumexp(z) - z[i // 3] for i, z in enumerate(logits)])
    # float32 in a traced and an eager model: a hundred units in the last place of values near 1.
    assert history["val_loss"][-1] == pytest.approx(expected, abs=1e-5)


def test_an_unreadable_file_has_no_weight_in_a_fit_dataset(tmp_path):
    pipeline = make(broken_split(tmp_path, broken={1}), **BROKEN)
    weights = [weight.tolist() for _, _, weight in pipeline.fit_dataset().as_numpy_iterator()]
    assert weights == [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0]]


# --- Weighted sampling ---


def labelled_split(targets):
    return Split(sources=[np.zeros(4, "float32")] * len(targets), targets=targets)


def test_weighted_sampling_draws_rare_labels_as_often_as_common_ones():
    # As in AudioSet with one label each: 90, 9 and 1 examples are drawn a third of the time each.
    split = labelled_split([(0,)] * 90 + [(1,)] * 9 + [(2,)])
    pipeline = make(split, clip_samples=4, batch_size=8, training=True, sampling="weighted")
    assert pipeline.steps_per_epoch == 13
    drawn = np.zeros(3)
    for step in range(13 * 20):
        batch = pipeline.batch(step)
        drawn += batch["target"][batch["weight"] > 0].sum(0)
    assert drawn.sum() == 2000
    # Five standard deviations of a binomial of 2000 draws at 1/3.
    assert np.abs(drawn - 2000 / 3).max() < 5 * 21.1


def test_weighted_batches_resume_anywhere_with_uniform_mixup_partners():
    split = labelled_split([(0,)] * 99 + [(1,)])
    settings = {"num_classes": 2, "clip_samples": 4, "training": True, "sampling": "weighted"}
    settings |= {"mixup_rate": 1.0}
    whole = list(make(split, **settings, num_workers=3).batches(0, 60))
    for expected, batch in zip(whole[41:], make(split, **settings).batches(41, 60), strict=True):
        assert_same(expected, batch)
    targets = np.concatenate([batch["target"] for batch in whole])
    # Half of the draws are the rare example, but its partners are uniform, so mostly the others:
    # about half of the clips have both labels. Five standard deviations of 240 draws.
    assert abs((targets.min(1) > 0).mean() - 0.5) < 5 * (0.5 / 240**0.5)


def test_weighted_sampling_is_for_training_only():
    assert make(sampling="weighted").order(0).tolist() == list(range(10))


def test_pipeline_rejects_unknown_sampling_and_examples_without_labels():
    with pytest.raises(ValueError, match='"shuffled" or "weighted"'):
        make(sampling="wieghted")
    with pytest.raises(ValueError, match="weighted sampling needs labels"):
        make(labelled_split([(), ()]), training=True, sampling="weighted")


# --- Class weights ---

NINE_TO_ONE = [(0,)] * 9 + [(1,)]


def test_balanced_class_weights_are_inverse_frequencies_with_mean_1():
    pipeline = make(labelled_split(NINE_TO_ONE), training=True, class_weights="balanced")
    batches = [pipeline.batch(step) for step in range(3)]
    for batch, real in zip(batches, (4, 4, 2), strict=True):
        # 10 examples / (2 classes * 9 or 1 examples of the class).
        expected = batch["target"] @ np.array([10 / 18, 5.0, 0.0]) / real
        np.testing.assert_allclose(batch["weight"], expected, rtol=1e-6)
    total = sum(
        real * batch["weight"].sum() for batch, real in zip(batches, (4, 4, 2), strict=True)
    )
    assert total == pytest.approx(10)  # as many as examples: the mean weight of an example is 1
    plain = make(labelled_split(NINE_TO_ONE), training=True)
    for batch, step in zip(batches, range(3), strict=True):
        assert_same(
            {k: v for k, v in batch.items() if k != "weight"},
            {k: v for k, v in plain.batch(step).items() if k != "weight"},
        )


def test_class_weights_of_mixed_examples_are_mixed():
    settings = {"training": True, "mixup_rate": 1.0, "class_weights": [1.0, 3.0, 0.0]}
    batch = make(labelled_split(NINE_TO_ONE), batch_size=10, **settings).batch(0)
    assert ((batch["target"] > 0).sum(axis=1) == 2).any()
    np.testing.assert_allclose(batch["weight"], batch["target"] @ [0.1, 0.3, 0.0], rtol=1e-6)


def test_fit_dataset_weights_the_loss_of_each_class():
    pipeline = make(labelled_split(NINE_TO_ONE), training=True, class_weights="balanced")
    elements = list(pipeline.fit_dataset().take(3))
    targets = np.concatenate([target for _, target, _ in elements])
    weights = np.concatenate([weight for _, _, weight in elements])
    np.testing.assert_allclose(weights, targets @ [10 / 18, 5.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("targets", "settings", "message"),
    [
        ([(0, 1), (0,)], {}, 'sampling="weighted"'),
        ([(), (0,)], {}, "exactly one label"),
        (NINE_TO_ONE, {"training": False}, "are for training"),
        (NINE_TO_ONE, {"sampling": "weighted"}, "leave one of the two out"),
        (NINE_TO_ONE, {"class_weights": [1.0, 2.0]}, "one number for each class"),
        (NINE_TO_ONE, {"class_weights": [1.0, -2.0, 1.0]}, "not negative"),
        (NINE_TO_ONE, {"class_weights": "equal"}, 'must be "balanced"'),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(targets, settings, message):
    settings = {"training": True, "class_weights": "balanced", **settings}
    with pytest.raises(ArgumentError, match=message):
        make(labelled_split(targets), **settings)


# --- Unreadable files ---


def broken_split(tmp_path, broken, count=6):
    """Returns a split whose file i is the constant i / 10 with label i, or cannot be decoded."""
    paths = []
    for index in range(count):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.full(800, 0.1 * index), RATE, subtype="FLOAT")
        if index in broken:
            path.write_bytes(b"RIFF nothing")
        paths.append(str(path))
    return Split(sources=paths, targets=[(i,) for i in range(count)])


BROKEN = {"num_classes": 6, "clip_samples": 800, "skip_unreadable": True}


def test_an_unreadable_example_is_replaced_by_the_next_in_training(tmp_path):
    split = broken_split(tmp_path, broken={1, 2, 5})
    pipeline = make(split, **BROKEN, batch_size=6, training=True)
    batch = pipeline.batch(0)
    replacement = {0: 0, 1: 3, 2: 3, 3: 3, 4: 4, 5: 0}
    expected = [replacement[index] for index in pipeline.order(0).tolist()]
    assert batch["target"].argmax(1).tolist() == expected
    levels = [index / 10 for index in expected]
    # One float32 rounding of the sample.
    np.testing.assert_allclose(batch["waveform"][:, 0], levels, rtol=6e-8)
    # Six equal weights of one batch: their float32 sum.
    assert batch["weight"].sum() == pytest.approx(1, abs=2e-7)
    assert sorted(pipeline.clips.unreadable) == [1, 2, 5]
    assert "2.wav" in pipeline.clips.unreadable[2]


def test_batches_with_unreadable_files_resume_anywhere(tmp_path):
    split = broken_split(tmp_path, broken={0, 3, 4})
    settings = {**BROKEN, "training": True, "mixup_rate": 0.5, "sampling": "weighted"}
    whole = list(make(split, **settings, num_workers=4).batches(0, 12))
    for expected, batch in zip(whole[7:], make(split, **settings).batches(7, 12), strict=True):
        assert_same(expected, batch)
    drawn = np.concatenate([batch["target"] for batch in whole]).sum(0)
    assert not drawn[[0, 3, 4]].any()  # neither sampled nor as partners
    assert drawn[[1, 2, 5]].all()


def test_an_unreadable_example_is_left_out_of_an_evaluation(tmp_path):
    split = broken_split(tmp_path, broken={1, 5})
    pipeline = make(split, **BROKEN)
    batches = list(pipeline.batches(0, pipeline.steps_per_epoch))
    counted = np.concatenate([b["target"][b["weight"] > 0] for b in batches]).argmax(1)
    assert counted.tolist() == [0, 2, 3, 4]
    parts = [pipeline.batch(0, slice(0, 2)), pipeline.batch(0, slice(2, 4))]
    assert_same(batches[0], {k: np.concatenate([p[k] for p in parts]) for k in batches[0]})


def test_an_unreadable_file_is_logged_once(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *args: messages.append(text % args))
    pipeline = make(broken_split(tmp_path, broken={2}), **BROKEN, training=True, num_workers=4)
    list(pipeline.batches(0, 10))
    (message,) = messages
    assert "skipped, 1 so far" in message
    assert "2.wav" in message


def test_missing_file_is_an_error_although_unreadable_ones_are_skipped(tmp_path):
    split = broken_split(tmp_path, broken=())
    (tmp_path / "3.wav").unlink()
    with pytest.raises(AudioNotFoundError, match=r"3\.wav"):
        make(split, **BROKEN, training=True, batch_size=6).batch(0)


@pytest.mark.parametrize("training", [False, True])
def test_only_unreadable_files_are_an_error(tmp_path, training):
    split = broken_split(tmp_path, broken=range(6))
    with pytest.raises(AudioError, match=r"Too many files in a row.*\.wav"):
        make(split, **BROKEN, training=training).batch(0)

"""The pipeline: a pure function of (seed, epoch, position)."""

import threading

import numpy as np
import pytest
import soundfile

from ast_keras.audio import AudioError
from ast_keras.datasets import Split
from ast_keras.pipeline import Pipeline, mixup

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


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_batches_do_not_depend_on_where_they_start_or_on_threads():
    whole = list(make(**AUGMENTED, num_workers=1).batches(0, 9))
    resumed = list(make(**AUGMENTED, num_workers=4).batches(5, 9))
    for expected, batch in zip(whole[5:], resumed, strict=True):
        assert_same(expected, batch)


def test_dataset_holds_the_same_batches():
    pipeline = make(**AUGMENTED)
    for step, batch in enumerate(pipeline.dataset(2, 5).as_numpy_iterator(), start=2):
        assert_same(pipeline.batch(step), batch)


def test_rows_of_workers_make_up_the_global_batch():
    pipeline = make(**AUGMENTED)
    whole, parts = (
        pipeline.batch(1),
        [pipeline.batch(1, slice(0, 2)), pipeline.batch(1, slice(2, 4))],
    )
    assert_same(whole, {k: np.concatenate([p[k] for p in parts]) for k in whole})


def test_every_epoch_shows_every_example_once_in_a_new_order():
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
    seen = [i for step in range(3) for i in pipeline.batch(step)["length"] if i]
    assert seen == [800 - 10 * i for i in range(10)]


def test_clips_are_cut_and_padded_to_the_clip_length():
    batch = make(clip_samples=750).batch(0)
    assert batch["length"].tolist() == [750, 750, 750, 750]
    batch = make(make_split(1), batch_size=1, clip_samples=1000).batch(0)
    assert batch["length"].tolist() == [800]
    assert not batch["waveform"][0, 800:].any()


def test_augmentation_is_for_training_only():
    settings = {**AUGMENTED, "training": False}
    assert_same(make(**settings).batch(0), make().batch(0))


def test_mixup_mixes_as_the_authors_do():
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


def test_shift_and_gain_keep_the_sound():
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


def test_files_are_decoded_once_while_they_fit(tmp_path, monkeypatch):
    paths = []
    for index in range(3):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.full(800, 0.1 * index), RATE, subtype="FLOAT")
        paths.append(str(path))
    split = Split(sources=paths, targets=[(0,), (1,), (2,)])
    decoded = []
    import ast_keras.audio

    real = ast_keras.audio.load_audio
    monkeypatch.setattr(
        ast_keras.audio, "load_audio", lambda p, *a: decoded.append(p) or real(p, *a)
    )
    pipeline = make(split, batch_size=3, cache_bytes=2 * 800 * 4, num_workers=1)
    first, second = pipeline.batch(0), pipeline.batch(1)
    np.testing.assert_array_equal(first["waveform"], second["waveform"])
    assert sorted(decoded) == sorted([*paths, paths[2]])  # two fit, the third is read again
    np.testing.assert_allclose(first["waveform"][2], np.float32(0.2))


def test_an_unreadable_file_is_reported_by_name_through_the_dataset(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF nothing")
    pipeline = make(Split(sources=[str(path)], targets=[(0,)]), batch_size=1)
    with pytest.raises(AudioError, match=r"broken\.wav"), pipeline.clear_errors():
        list(pipeline.dataset(0, 1))


def test_leaving_a_dataset_early_ends_its_threads():
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

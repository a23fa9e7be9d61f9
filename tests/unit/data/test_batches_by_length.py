"""Pipelines with `by_length`: batches of clips of similar length."""

import numpy as np

from ast_keras.data.dataset import Split
from ast_keras.data.pipeline import Pipeline

LENGTHS = [int(n) for n in np.random.default_rng(5).integers(3000, 40000, 42)]


def make_pipeline(lengths, **settings):
    split = Split(
        sources=[np.full(n, 0.1, "float32") for n in lengths],
        targets=[(i % 5,) for i in range(len(lengths))],
    )
    settings = {"training": True, "seed": 4, "by_length": True, **settings}
    return Pipeline(split, num_classes=5, clip_samples=32000, batch_size=4, **settings)


def test_batches_hold_clips_of_similar_length():
    plain, by_length = (make_pipeline(LENGTHS, by_length=choice) for choice in (False, True))

    def padding(pipeline):
        batches = list(pipeline.batches(0, pipeline.steps_per_epoch))
        size = sum(batch["waveform"].size for batch in batches)
        return 1 - sum(batch["lengths"].sum() for batch in batches) / size

    assert padding(plain) > 0.3
    assert padding(by_length) < 0.15
    widths = {b["waveform"].shape[1] for b in by_length.batches(0, by_length.steps_per_epoch)}
    assert len(widths) > 3
    assert all(width % 2000 == 0 for width in widths)


def test_every_epoch_holds_every_clip_once_in_another_order():
    pipeline = make_pipeline(LENGTHS)
    orders = [pipeline.order(epoch).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(42))
    assert orders[0] != orders[1]
    again = make_pipeline(LENGTHS)
    np.testing.assert_array_equal(again.batch(7)["waveform"], pipeline.batch(7)["waveform"])
    rows = pipeline.batch(7, slice(2, 4))
    np.testing.assert_array_equal(rows["lengths"], pipeline.batch(7)["lengths"][2:4])


def test_lengths_are_read_from_file_headers(tmp_path):
    import soundfile

    for name, rate, frames in (
        ("a.wav", 16000, 8000),
        ("b.flac", 44100, 44100),
        ("c.ogg", 8000, 9),
    ):
        soundfile.write(tmp_path / name, np.zeros(frames), rate)
    (tmp_path / "d.wav").write_bytes(b"not audio")
    sources = [str(path) for path in sorted(tmp_path.iterdir())]
    split = Split(sources=[*sources, np.zeros(70000)], targets=[(0,)] * 5)
    pipeline = Pipeline(split, num_classes=1, clip_samples=32000, batch_size=2, by_length=True)
    assert pipeline.clips.lengths().tolist() == [8000, 16000, 18, 32000, 32000]


def test_evaluation_keeps_the_order_of_the_split():
    pipeline = make_pipeline(LENGTHS, training=False)
    lengths = np.concatenate([b["lengths"] for b in pipeline.batches(0, pipeline.steps_per_epoch)])
    assert lengths[:42].tolist() == [min(n, 32000) for n in LENGTHS]

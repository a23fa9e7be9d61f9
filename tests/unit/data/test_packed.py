"""Packed sequences equal lists, and data sets of them have a fingerprint."""

import hashlib
import os

import numpy as np
import pytest

from ast_keras.data.dataset import SoundDataset, Split, fingerprint
from ast_keras.data.packed import PackedPaths, PackedTargets, Rows
from ast_keras.labels import LabelSet

LABELS = LabelSet(tuple("abcdefgh"))


def random_targets(count, seed):
    rng = np.random.default_rng(seed)
    return [
        tuple(sorted(rng.choice(8, rng.integers(4), replace=False).tolist())) for _ in range(count)
    ]


def test_packed_targets_equal_the_tuples():
    targets = random_targets(200, seed=1)
    packed = PackedTargets.pack(targets)
    assert list(packed) == targets
    assert packed[-1] == targets[-1]
    assert all(type(label) is int for row in packed for label in row)
    with pytest.raises(IndexError):
        packed[200]
    assert PackedTargets.pack(packed) is packed


def test_rows_selected_and_concatenated_equal_those_of_lists():
    first, second = random_targets(50, seed=2), random_targets(70, seed=3)
    chosen = np.random.default_rng(4).integers(0, 50, 60)
    mask = np.arange(70) % 3 == 0
    parts = [
        PackedTargets.pack(first).rows.take(chosen),
        PackedTargets.pack(second).rows.take(mask),
    ]
    joined = Rows.concatenate(parts).take(np.arange(80)[::-1])
    expected = [
        *(first[i] for i in chosen),
        *(row for row, m in zip(second, mask, strict=True) if m),
    ]
    expected = expected[79::-1]
    assert list(PackedTargets(joined)) == expected
    assert joined.flat().tolist() == [label for row in expected for label in row]


def test_packed_paths_equal_the_strings():
    paths = ["a/1.wav", "b/c/\udcff\u00e4.flac", "a/2.wav", "/d/1.wav", "bare.wav"]
    packed = PackedPaths.pack(paths)
    assert list(packed) == paths
    assert len(packed.folders) == 4
    both = PackedPaths.concatenate([packed, PackedPaths.pack(["b/9.wav"]).take(np.array([0, 0]))])
    assert list(both.take(np.array([6, 1]))) == ["b/9.wav", paths[1]]
    names = [hash(os.path.basename(path)) for path in paths]
    assert packed.name_hashes().tolist() == names


def dataset(paths, targets, pack=True):
    if pack:
        paths, targets = PackedPaths.pack(paths), PackedTargets.pack(targets)
    return SoundDataset("mine", LABELS, {"train": Split(paths, targets)}, True)


def test_fingerprint_of_lists_is_that_of_earlier_checkpoints():
    paths, targets = ["x/a.wav", "x/b.wav"], [(0, 1), ()]
    text = repr(LABELS.names) + "train 2" + repr(("a.wav", (0, 1))) + repr(("b.wav", ()))
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(dataset(paths, targets, pack=False)) == expected


def test_fingerprint_of_packed_examples_differs_with_content():
    paths, targets = ["x/ab.wav", "x/c.wav"], [(0, 1), (2,)]
    same = [dataset(paths, targets), dataset(["y/ab.wav", "z/c.wav"], targets)]
    named = Split([b"1", b"2"], PackedTargets.pack(targets), PackedPaths.pack(paths))
    same.append(SoundDataset("built", LABELS, {"train": named}, True))
    assert len({fingerprint(data) for data in same}) == 1
    others = [
        dataset(paths[::-1], targets),
        dataset(paths, targets[::-1]),
        dataset(paths, [(0,), (1, 2)]),
        dataset(["x/ab.wavc", "x/.wav"], targets),
        dataset(paths[:1], targets[:1]),
    ]
    assert len({fingerprint(data) for data in [same[0], *others]}) == 6


def test_fingerprint_is_computed_once():
    reads = []

    class Watched(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    data = SoundDataset("mine", LABELS, {"train": Split(Watched(["a.wav"]), [(0,)])}, False)
    assert fingerprint(data) == fingerprint(data)
    assert reads == [0]

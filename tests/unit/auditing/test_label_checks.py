"""Labels that are difficult to train, and the choice of the sounds that are inspected."""

import numpy as np

from ast_keras.auditing.label_checks import label_report, similar_names
from ast_keras.auditing.survey import sample
from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.labels import LabelSet


def dataset(splits, names=("dog", "hen"), multi_label=False):
    made = {n: Split([f"{n}{i}.wav" for i in range(len(t))], t) for n, t in splits.items()}
    return SoundDataset("mine", LabelSet(names), made, multi_label)


def test_label_report_names_labels_that_are_difficult_to_train():
    splits = {"train": [(0,)] * 6 + [(1,)] * 2 + [(3,)], "test": [(0,), (2,), ()]}
    found = label_report(dataset(splits, ("dog", "hen", "cow", "owl", "none"), multi_label=True))
    assert found["labels"][0] == {"label": "dog", "train": 6, "test": 1}
    defects = found["label_defects"]
    assert defects["imbalance"] == 6.0
    assert defects["not_in_train"] == ["cow"]
    assert defects["single_example"] == ["cow", "owl"]
    assert defects["only_in_train"] == ["hen"]
    assert defects["no_example"] == ["none"]
    assert defects["without_label"] == 1


def test_similar_names_are_not_numbers_or_short_words():
    assert similar_names(["Dog", "dog ", "dogs"]) == [
        ["Dog", "dog "],
        ["Dog", "dogs"],
        ["dog ", "dogs"],
    ]
    assert similar_names(["chainsaw", "chain_saw", "chainsow"])[0] == ["chainsaw", "chain_saw"]
    assert similar_names(["class 1", "class 2", "cat", "rat", "three", "tree", "go", "no"]) == []


def test_published_labels_are_not_reported_as_similar():
    names = LabelSet.load("audioset").names
    assert similar_names(names)  # "Clatter" and "Chatter", for one
    rows = {"train": [(i,) for i in range(527)]}
    assert label_report(dataset(rows, names))["label_defects"]["similar_names"] == []


def test_sample_is_the_same_again_and_in_proportion():
    data = dataset({"train": [(0,)] * 900, "test": [(1,)] * 100, "validation": [(1,)]})
    chosen = sample(data, 100)
    assert {name: len(c) for name, c in chosen.items()} == {"train": 89, "test": 9, "validation": 1}
    for name, indices in sample(data, 100).items():
        np.testing.assert_array_equal(indices, chosen[name])
        assert len(set(indices)) == len(indices)
    assert chosen["train"].max() > 800  # from everywhere
    assert len(sample(data, 5000)["train"]) == 900

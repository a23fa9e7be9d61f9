"""The audit finds parts of one recording in two splits, and suggests the pattern to group them."""

import os

import numpy as np
import pytest
import soundfile

from ast_keras.auditing.audit import audit
from ast_keras.auditing.likely_groups import likely_groups
from ast_keras.auditing.text_report import describe
from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.readers import load_dataset
from ast_keras.labels import LabelSet
from tests.helpers.paths import DATA


def dataset(train, test):
    """Returns a data set of `class/name` for training and for testing."""
    labels = LabelSet(tuple(sorted({path.split("/")[0] for path in train})))
    splits = {
        name: Split(paths, [(labels.index_of(path.split("/")[0]),) for path in paths])
        for name, paths in (("train", train), ("test", test))
    }
    return SoundDataset("farm", labels, splits, multi_label=False)


def names(pattern, numbers):
    return [f"{label}/{pattern.format(i, label)}.wav" for label in ("dog", "hen") for i in numbers]


@pytest.mark.parametrize(
    ("train", "test", "count"),
    [
        ("{1}-{0:02}-a", "{1}-{0:02}-b", 20),
        ("{0}_1", "{0}_2", 20),
        ("site {0} morning 1", "site {0} morning 2", 20),
        ("3-{0}-A-17", "3-{0}-B-17", 20),  # as ESC-50 names takes
        ("{1}_{0:03}", "{1}_9{0:02}", 0),  # numbered through, with the class in front
        ("rec{0}", "rec{0}x", 0),
    ],
)
def test_names_that_start_alike_in_two_splits_are_likely_groups(train, test, count):
    data = dataset([*names(train, range(30))], [*names(test, range(20, 40))])
    found = likely_groups(data)
    assert found["count"] == count
    assert bool(found["pattern"]) == bool(count)


def test_the_audit_reports_them_and_its_pattern_mends_the_splits(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("dog", "hen"):
        (tmp_path / label).mkdir()
        for take in range(8):
            for part in "abc":
                path = tmp_path / label / f"{label}-{take}-{part}.wav"
                soundfile.write(path, rng.uniform(-0.1, 0.1, 800), 16_000)
    rows = [f"{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(tmp_path.rglob("*.wav"))]
    table = tmp_path / "farm.csv"
    table.write_text("\n".join(["path,labels", *rows]))
    report = audit(str(table), statistics=False)
    found = report["likely_groups"]
    assert found["count"] > 3
    text = "\n".join(describe(report))
    assert f"names that start alike in two splits: {found['count']}" in text
    assert "data.group_pattern=" in text.replace("\n", "")
    mended = audit(str(table), settings={"group_pattern": found["pattern"]}, statistics=False)
    assert mended["likely_groups"]["count"] == 0
    assert mended["splits"] == {"train": 36, "test": 12}


def test_the_audit_finds_the_same_beginning_in_two_splits(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 96_000)
    for name, count in (("long", 96_000), ("short", 64_000)):
        soundfile.write(tmp_path / f"{name}.wav", samples[:count], 32_000)
    soundfile.write(tmp_path / "other.wav", samples[1:], 32_000)
    rows = ["path,labels,split", "long.wav,dog,train", "short.wav,dog,test", "other.wav,hen,train"]
    (tmp_path / "farm.csv").write_text("\n".join(rows))
    report = audit(str(tmp_path / "farm.csv"), statistics=False)
    (group,) = report["duplicates"]["same_start_across_splits"]["examples"]
    assert {os.path.basename(member["sound"]) for member in group} == {"long.wav", "short.wav"}
    assert any("parts of one recording" in remark for remark in report["remarks"])
    assert report["duplicates"]["across_splits"]["count"] == 0


@pytest.mark.skipif(not DATA, reason="AST_KERAS_DATA is not set")
def test_takes_of_esc10_are_found_when_its_folds_are_not_used(tmp_path):
    folds = load_dataset("esc50", os.path.join(DATA, "esc10"), subset="esc10", fold=1)
    assert likely_groups(folds)["count"] == 0  # the folds keep the sources of ESC-10 apart
    (tmp_path / "audio").symlink_to(os.path.join(DATA, "esc10", "audio"))
    rows = [
        f"audio/{os.path.basename(source)},{folds.labels.names[target]}"
        for split in folds.splits.values()
        for source, (target,) in zip(split.sources, split.targets, strict=True)
    ]
    table = tmp_path / "esc10.csv"
    table.write_text("\n".join(["path,labels", *rows]))
    found = likely_groups(load_dataset("manifest", table))
    assert found["count"] == 21
    mended = load_dataset("manifest", table, group_pattern=found["pattern"])
    assert likely_groups(mended)["count"] == 0
    assert len(mended.split("test")) == 61

"""Lists of AudioSet's clips: read in pieces into few bytes; names of clips."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from ast_keras.data.readers import audioset_lists
from ast_keras.data.readers.audioset_lists import parse_stem, read_clip_list
from ast_keras.labels import LabelSet
from tests.helpers.audioset import record, write_json, write_list

LABELS = LabelSet.load("audioset")


@pytest.mark.parametrize(("form", "kept_bytes"), [("csv", 29), ("json", 29 + 25)])
def test_lists_take_few_bytes_for_each_clip(tmp_path, monkeypatch, form, kept_bytes):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(audioset_lists, "_CHUNK", 10_000)
    path = tmp_path / f"list.{form}"
    labels = rng.integers(0, 527, (10_000, 2)).tolist()
    rows = [(f"{i:011d}", row) for i, row in enumerate(labels)]
    if form == "csv":
        write_list(path, rows)
    else:
        write_json(path, *(record(f"a/rather/long/folder/{ytid}.wav", row) for ytid, row in rows))
    tracemalloc.start()
    clips = read_clip_list(str(path), LABELS)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(clips) == 10_000
    # 11 for the YTID, 4 for the start, 6 to find the labels, 4 for each of two; in JSON 15 for the
    # file's name and 10 to find it. As tuples and strings a clip takes more than 200.
    assert kept < 10_000 * 1.1 * kept_bytes
    # The collected values and their copy; the text of the JSON file would be 100 more.
    assert peak < 10_000 * 2.3 * kept_bytes


@pytest.mark.parametrize(
    "ytid", ["abcdefghijk", "Yabcdefghij", "-bcdefghij_", "_bcdefgh_30", "YYYYYYYYYYY"]
)
@pytest.mark.parametrize(
    ("pattern", "times"),
    [
        ("{}", ()),
        ("Y{}", ()),
        ("{}_30", (30,)),
        ("Y{}_30.000", (30,)),
        ("{}_30.000_40.000", (30, 40)),
        ("{}_30000_40000", (30000, 40000)),
        ("Y{}_30_40", (30, 40)),
    ],
)
def test_stems_of_common_downloaders_are_parsed(pattern, times, ytid):
    assert parse_stem(pattern.format(ytid)) == (ytid, times)


@pytest.mark.parametrize(
    "stem",
    ["abcdefghij", "Zabcdefghijk", "abcdefghijk_", "abcdefghijk_1.2.3", "abcdefghij\u00e4", ""],
)
def test_stems_of_other_files_are_not_clips(stem):
    assert parse_stem(stem) is None


def test_json_is_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    records = [record(f"sounds/{i}.wav", (i % 527, (7 * i) % 527)) for i in range(50)]
    path = tmp_path / "many.json"
    for text in (json.dumps({"data": records}), json.dumps(records, indent=4), f" {records}"):
        path.write_text(text.replace("'", '"'))
        for size in (140, 141, 200, 1000, 10**6):
            monkeypatch.setattr(audioset_lists, "_CHUNK", size)
            clips = read_clip_list(str(path), LABELS)
            assert [os.path.basename(p) for p in clips.paths] == [f"{i}.wav" for i in range(50)]
            assert list(clips.targets) == [tuple(sorted({i, 7 * i % 527})) for i in range(50)]

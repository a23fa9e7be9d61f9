"""AudioSet from segment lists and from the authors' JSON files, with clips under common names."""

import csv
import os

import numpy as np
import pytest
import soundfile

from ast_keras.data.readers import audio_folder, load_dataset
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.labels import LabelSet
from ast_keras.recipe import Recipe, override
from ast_keras.training import build
from tests.helpers.audioset import HEAD, MIDS, record, write_json, write_list
from tests.helpers.errors import error_of

LABELS = LabelSet.load("audioset")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LISTS = {
    "balanced": "balanced_train_segments.csv",
    "unbalanced": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(split):
    return [os.path.basename(path) for path in split.sources]


def error(*args, **settings):
    return error_of(read_audioset, *map(str, args), **settings)


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with the three lists, and all clips in one folder."""
    write_list(tmp_path / LISTS["balanced"], [("bal-0000000", (0, 5)), ("bal-0000001", (2,))])
    write_list(tmp_path / LISTS["unbalanced"], [("unb_0000000", (526, 0)), ("unb_0000001", ())])
    write_list(tmp_path / LISTS["eval"], [("Yval0000000", (0,))])
    ytids = ("bal-0000000", "bal-0000001", "unb_0000000", "unb_0000001", "Yval0000000")
    touch(tmp_path, *(f"clips/{ytid}.flac" for ytid in ytids))
    return tmp_path


# --- Segment lists ---


@pytest.mark.parametrize(
    ("subset", "targets"),
    [
        ("balanced", [(0, 5), (2,)]),
        ("unbalanced", [(0, 526), ()]),
        ("full", [(0, 5), (2,), (0, 526), ()]),
    ],
)
def test_subsets_are_read_from_their_lists(folder, subset, targets):
    dataset = read_audioset(str(folder), subset=subset)
    assert dataset.name == f"audioset_{subset}"
    assert dataset.multi_label
    assert dataset.labels == LABELS
    train, test = dataset.split("train"), dataset.split("test")
    assert list(train.targets) == targets
    prefixes = {
        "balanced": ["bal"] * 2,
        "unbalanced": ["unb"] * 2,
        "full": ["bal"] * 2 + ["unb"] * 2,
    }
    assert [name[:3] for name in names_of(train)] == prefixes[subset]
    assert names_of(test) == ["Yval0000000.flac"]
    assert list(test.targets) == [(0,)]
    assert all(os.path.isfile(path) for path in [*train.sources, *test.sources])


def test_only_the_lists_of_the_subset_are_needed(folder):
    (folder / LISTS["unbalanced"]).unlink()
    assert len(read_audioset(str(folder)).split("train")) == 2
    message = error(folder, subset="full")
    assert LISTS["unbalanced"] in message
    assert "research.google.com" in message
    assert "balanced, unbalanced, full" in error(folder, subset="ballanced")
    (folder / LISTS["eval"]).unlink()
    assert "set test_path" in error(folder)


def test_lists_and_clips_may_be_in_different_folders(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in (LISTS["balanced"], LISTS["eval"]):
        (folder / name).rename(lists / name)
    dataset = read_audioset(str(lists), clips_path=str(folder / "clips"))
    assert [len(split) for split in dataset.splits.values()] == [2, 1]
    dataset = read_audioset(
        str(lists / LISTS["balanced"]),
        clips_path=str(folder / "clips"),
        test_path=str(lists / LISTS["eval"]),
    )
    assert names_of(dataset.split("train")) == ["bal-0000000.flac", "bal-0000001.flac"]


def test_reading_equals_plain_python_on_a_thousand_clips(tmp_path):
    rng = np.random.default_rng(0)
    ytids = ["".join(rng.choice(list(ALPHABET), 11)) for _ in range(1100)]
    rows = [(y, rng.choice(527, rng.integers(5), replace=False).tolist()) for y in ytids]
    write_list(tmp_path / LISTS["balanced"], rows[:1000])
    write_list(tmp_path / LISTS["eval"], rows[1000:])
    there = {ytid: f"{i % 7}/Y{ytid}.wav" for i, ytid in enumerate(ytids) if rng.random() < 0.9}
    touch(tmp_path, *there.values())

    dataset = read_audioset(str(tmp_path))
    for split, name in (("train", LISTS["balanced"]), ("test", LISTS["eval"])):
        with open(tmp_path / name, newline="") as file:
            lines = [line for line in file if not line.startswith("#")]
        expected = []
        for ytid, _, _, mids in csv.reader(lines, skipinitialspace=True):
            if ytid in there:
                labels = sorted(MIDS.index(mid) for mid in mids.split(",") if mid)
                expected.append((str(tmp_path / there[ytid]), tuple(labels)))
        read = dataset.split(split)
        assert list(zip(read.sources, read.targets, strict=True)) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("short, 0.000, 10.000, /m/09x0r", "11 letters"),
        ('abcdefghijk, 0.000, 10.000, "/m/09x0q"', "Labels must be mids"),
        ("abcdefghijk", "A row must have the form YTID"),
        ("abcdefghijk, 0.000, 10.000", "Labels must be mids"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(folder, line, words):
    with open(folder / LISTS["balanced"], "a") as file:
        file.write(line)
    message = error(folder)
    assert words in message
    assert f"{LISTS['balanced']} line 6" in message


def test_lists_saved_by_other_programs_are_read(folder):
    rows = [
        "YTID,start_seconds,end_seconds,positive_labels",
        f'"bal-0000000",30.0,40.0,"{MIDS[0]},{MIDS[5]}"',
        "",
        f"bal-0000001, 30, 40, {MIDS[2]}",
    ]
    (folder / LISTS["balanced"]).write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    assert list(read_audioset(str(folder)).split("train").targets) == [(0, 5), (2,)]


def test_a_clip_listed_twice_is_rejected(folder):
    write_list(folder / LISTS["eval"], [("Yval0000000", (0,)), ("bal-0000000", (0,))])
    assert "Received: bal-0000000 twice" in error(folder)


def test_an_empty_list_is_rejected(folder):
    (folder / LISTS["eval"]).write_text(HEAD)
    assert f"list of clips is empty. Received: {folder / LISTS['eval']}" in error(folder)


# --- Names of clips ---


@pytest.mark.parametrize(
    "name",
    [
        "bal-0000000.wav",
        "Ybal-0000000.mp3",
        "train/00/bal-0000000_30.OGG",
        "bal-0000000_30.000_40.000.flac",
        "a/b/c/Ybal-0000000_30000_40000.wav",
        "bal-0000000_30000.opus",
    ],
)
def test_clips_are_found_by_any_common_name(folder, name):
    (folder / "clips" / "bal-0000000.flac").unlink()
    touch(folder, name)
    assert str(folder / name) in list(read_audioset(str(folder)).split("train").sources)


def test_another_segment_of_the_video_is_not_the_clip(folder):
    (folder / "clips" / "bal-0000000.flac").unlink()
    touch(folder, "bal-0000000_0_10.wav", "bal-0000000_31.wav", "bal-0000000_29000.wav")
    dataset = read_audioset(str(folder))
    assert names_of(dataset.split("train")) == ["bal-0000001.flac"]
    assert "3 files ignored: their names state other segments of the listed videos" in dataset.notes


def test_of_several_files_of_a_clip_the_lossless_one_is_used(folder):
    touch(folder, "a/bal-0000000.mp3", "b/bal-0000000_30.wav", "a/Ybal-0000000.wav")
    touch(folder, "c/bal-0000001.aiff", "a/bal-0000001.flac.part", "._bal-0000001.wav")
    sources = list(read_audioset(str(folder)).split("train").sources)
    assert sources == [str(folder / "a/Ybal-0000000.wav"), str(folder / "clips/bal-0000001.flac")]


def test_links_are_followed_once(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (folder / "clips").rename(elsewhere)
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(folder)
    dataset = read_audioset(str(folder), clips_path=str(folder / "linked"))
    assert len(dataset.split("train")) == 2


def test_missing_clips_are_counted(folder):
    (folder / "clips" / "bal-0000000.flac").unlink()
    dataset = read_audioset(str(folder))
    assert f"1 of 2 training clips are missing from {folder}" in dataset.notes
    assert list(dataset.split("train").targets) == [(2,)]
    assert any(
        note.startswith("526 of 527 labels have no training example") for note in dataset.notes
    )


def test_error_without_any_clip_states_found_suffixes_and_expected_names(folder, monkeypatch):
    monkeypatch.setattr(audio_folder, "ffmpeg_command", lambda: None)
    for path in (folder / "clips").iterdir():
        path.rename(path.with_suffix(".m4a"))
    message = error(folder)
    assert "No file exists for any of the 2 training clips" in message
    assert "the folder holds 5 .m4a, 3 .csv; 5 sounds left out, unreadable without" in message
    assert "YTID_start_end.wav" in message
    assert "without bal-0000000" in message
    (folder / "empty").mkdir()
    assert "holds no file" in error(folder, clips_path=str(folder / "empty"))


def test_a_split_without_clips_is_rejected(folder):
    (folder / "clips" / "Yval0000000.flac").unlink()
    assert "No file exists for any of the 1 evaluation clips" in error(folder)


def test_a_missing_folder_of_clips_is_rejected(folder):
    message = error(folder, clips_path=str(folder / "nothing"))
    assert "Cannot list the folder of clips: No such file or directory" in message


# --- The authors' JSON files ---


@pytest.fixture
def json_folder(tmp_path):
    """Lists with a relative, an absolute and a missing path, and plain names of files."""
    touch(tmp_path, "sounds/a/one.wav", "sounds/two.flac", "sounds/b/one.wav")
    write_json(
        tmp_path / "train.json",
        record("sounds/a/one.wav", (7, 3)),
        record(tmp_path / "sounds/two.flac", (1,)),
        record("sounds/gone.wav", (1,)),
    )
    write_json(tmp_path / "eval_data.json", record("sounds/b/one.wav", (2,)))
    return tmp_path


def test_json_lists_are_read_with_paths_from_their_folder(json_folder):
    dataset = read_audioset(str(json_folder / "train.json"))
    train, test = dataset.split("train"), dataset.split("test")
    sounds = json_folder / "sounds"
    assert list(train.sources) == [str(sounds / "a" / "one.wav"), str(sounds / "two.flac")]
    assert list(train.targets) == [(3, 7), (1,)]
    assert list(test.sources) == [str(sounds / "b" / "one.wav")]
    assert dataset.name == "train"
    assert "1 of 3 training clips are missing from the paths in their list" in dataset.notes


def test_the_evaluation_list_can_be_named(json_folder):
    (json_folder / "eval_data.json").rename(json_folder / "other.json")
    assert "eval_data.json" in error(json_folder / "train.json")
    dataset = read_audioset(
        str(json_folder / "train.json"), test_path=str(json_folder / "other.json")
    )
    assert len(dataset.split("test")) == 1


def test_the_same_file_in_both_lists_is_rejected(json_folder):
    write_json(json_folder / "eval_data.json", record("sounds/../sounds/two.flac", (1,)))
    assert "must not be in both" in error(json_folder / "train.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"data": [{"wav": "a.wav", "labels": "/m/09x0r"}', "record 2"),
        ('{"data": [{"wav": "a.wav", "labels": "/m/0', "record 1"),
        ('{"data": [{"wav": "a.wav"}]}', "A record must have the form"),
        ('{"data": [["a.wav"]]}', "A record must have the form"),
        ('{"data": [{"wav": 1, "labels": "/m/09x0r"}]}', "A record must have the form"),
        ('{"data": [{"wav": "a.wav", "labels": "/m/no"}]}', "Labels must be mids"),
        ('{"files": []}', 'must begin with {"data": ['),
        ('{"data": []}', "is empty"),
        ("", 'must begin with {"data": ['),
    ],
)
def test_a_damaged_json_list_is_an_error_with_its_name(json_folder, text, words):
    (json_folder / "train.json").write_text(text)
    message = error(json_folder / "train.json")
    assert words in message
    assert "train.json" in message


def test_clips_of_json_lists_can_be_in_another_folder(folder):
    write_json(
        folder / "train.json",
        record("/data/sls/audioset/audio/bal-0000001.flac", (1,)),
        record("/data/sls/audioset/audio/Yunb_0000000.wav", (2,)),
        record("/data/sls/audioset/audio/no_ytid.wav", (3,)),
    )
    write_json(folder / "eval_data.json", record("/data/sls/audioset/eval/Yval0000000.flac", (4,)))
    path = folder / "train.json"
    assert "set clips_path" in error(path)
    # JSON lists do not state the start of a clip, so that any start in a name is accepted.
    (folder / "clips" / "bal-0000001.flac").rename(folder / "clips" / "bal-0000001_70.flac")
    dataset = read_audioset(str(path), clips_path=str(folder / "clips"))
    assert names_of(dataset.split("train")) == ["bal-0000001_70.flac", "unb_0000000.flac"]
    assert list(dataset.split("train").targets) == [(1,), (2,)]
    assert list(dataset.split("test").targets) == [(4,)]


# --- Enhanced labels ---


def enhanced_files(folder):
    write_json(folder / "better.json", record("/elsewhere/Ybal-0000001.flac", (9, 4)))
    write_list(folder / "better_segments.csv", [("bal-0000001", (9, 4)), ("Yval0000000", (1,))])
    rows = [f'bal-0000001,"{MIDS[9]},{MIDS[4]}"', f"unb_0000000,{MIDS[3]}"]
    (folder / "better_pairs.csv").write_text("\n".join(rows))
    (folder / "better_semicolons.csv").write_text(f"bal-0000001,{MIDS[9]};{MIDS[4]}\n")
    return ["better.json", "better_segments.csv", "better_pairs.csv", "better_semicolons.csv"]


@pytest.mark.parametrize("form", range(4))
def test_enhanced_labels_replace_those_of_training_clips(folder, form):
    path = str(folder / enhanced_files(folder)[form])
    dataset = read_audioset(str(folder), enhanced_labels=path)
    assert list(dataset.split("train").targets) == [(0, 5), (4, 9)]
    assert list(dataset.split("test").targets) == [(0,)]
    assert f"labels of 1 of 2 training clips are those of {path}" in dataset.notes


def test_enhanced_labels_apply_to_json_lists_by_ytid(folder):
    write_json(
        folder / "train.json",
        record("clips/bal-0000000.flac", (0,)),
        record("clips/bal-0000001.flac", (0,)),
    )
    write_json(folder / "eval_data.json", record("clips/Yval0000000.flac", (0,)))
    path = str(folder / enhanced_files(folder)[2])
    dataset = read_audioset(str(folder / "train.json"), enhanced_labels=path)
    assert list(dataset.split("train").targets) == [(0,), (4, 9)]


def test_enhanced_labels_leave_files_without_a_ytid_alone(folder):
    write_json(
        folder / "train.json", record("clips/bal-0000000.flac", (0,)), record("a_dog.wav", (1,))
    )
    write_json(folder / "eval_data.json", record("clips/Yval0000000.flac", (0,)))
    write_json(
        folder / "better.json", record("x/bal-0000000.flac", (5,)), record("a_hen.wav", (6,))
    )
    touch(folder, "a_dog.wav")
    dataset = read_audioset(str(folder / "train.json"), enhanced_labels=str(folder / "better.json"))
    assert list(dataset.split("train").targets) == [(5,), (1,)]


def test_enhanced_labels_of_other_clips_are_rejected(folder):
    path = folder / "better.csv"
    path.write_text(f"zzzzzzzzzzz,{MIDS[0]}\n")
    assert "The list of enhanced labels has no training clip" in error(
        folder, enhanced_labels=str(path)
    )


# --- In a run ---


def test_a_recipe_draws_weighted_batches_and_skips_broken_downloads(folder):
    rng = np.random.default_rng(0)
    for index, path in enumerate(sorted((folder / "clips").iterdir())):
        if index != 2:  # bal-0000001, the second by its list, stays empty
            soundfile.write(path, rng.uniform(-0.1, 0.1, 1600), 16000)
    settings = ["kind=audioset", f"path={folder}", "subset=full", "sampling=weighted"]
    settings += ["skip_unreadable=true", f"clips_path={folder / 'clips'}", "clip_seconds=0.1"]
    settings += [f"enhanced_labels={folder / enhanced_files(folder)[0]}"]
    changes = [f"data.{setting}" for setting in settings]
    recipe = override(Recipe("mine"), [*changes, "train.loss=binary", "train.batch_size=4"])
    dataset = build.make_dataset(recipe)
    assert str(dataset).startswith("audioset_full: 527 labels; 4 train, 1 test")
    pipeline = build.make_pipeline(recipe, dataset, "train", training=True)
    targets = np.concatenate([pipeline.batch(step)["target"] for step in range(20)])
    assert targets.shape == (80, 527)
    assert pipeline.clips.unreadable
    evaluation = build.make_pipeline(recipe, dataset, "test")
    assert evaluation.batch(0)["weight"].tolist() == [1.0]


def test_load_dataset_reads_audioset(folder):
    dataset = load_dataset("audioset", folder, subset="full")
    assert len(dataset.split("train")) == 4

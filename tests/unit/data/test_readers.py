"""Readers of folders, on trees of empty files (no reader decodes audio)."""

import os
import random

import numpy as np
import pytest

from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.readers import READERS, load_dataset
from ast_keras.data.readers.audio_folder import AudioFolder
from ast_keras.data.readers.hold_out import hold_out
from ast_keras.errors import DatasetError
from ast_keras.labels import LabelSet
from tests.helpers.errors import error_of

ESC50 = LabelSet.load("esc50").names
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_of(split):
    return [os.path.basename(source) for source in split.sources]


@pytest.fixture
def reverse_disk(monkeypatch):
    """Returns a function that makes the file system list every folder in reverse order."""
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda e: e.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

    return lambda: monkeypatch.setattr(os, "scandir", Reversed)


def error(*args, **settings):
    return error_of(load_dataset, *args, **settings)


# --- All readers ---


def test_split_rejects_sequences_of_different_lengths():
    with pytest.raises(DatasetError, match=r"lengths \[2, 1\]"):
        Split(sources=["a.wav", "b.wav"], targets=[(0,)])


def test_named_split_does_not_read_its_sources_for_names():
    class Unreadable(list):
        def __getitem__(self, index):
            raise AssertionError

    split = Split(Unreadable([b"", b""]), [(0,), (1,)], names=["first", "second"])
    assert split.source_name(1) == "second"
    assert Split([np.zeros(3, np.float32)], [(0,)]).source_name(0) == "example 0"


def test_dataset_prints_one_line_and_explains_a_missing_split():
    split = Split(["a.wav"], [(0,)])
    dataset = SoundDataset("mine", LabelSet(("dog",)), {"train": split}, False, ("2 missing",))
    assert str(dataset) == "mine: 1 labels; 1 train; 2 missing"
    assert dataset.split("train") is split
    with pytest.raises(DatasetError, match="mine has no examples for 'test'; it has train"):
        dataset.split("test")


def test_load_dataset_rejects_unknown_kinds_settings_and_paths(tmp_path):
    assert "Did you mean 'esc50'?" in error("esc51", tmp_path)
    assert "Did you mean 'fold'?" in error("esc50", tmp_path, fodl=1)
    assert "esc50 data needs a path" in error("esc50", None)
    assert "takes no path" in error("synthetic", tmp_path)


@pytest.mark.parametrize("kind", sorted(set(READERS) - {"synthetic"}))
def test_every_reader_explains_a_missing_folder(kind, tmp_path):
    message = error(kind, tmp_path / "nothing")
    assert str(tmp_path / "nothing") in message
    assert any(
        word in message
        for word in ("unpacks", "layout is", "is a CSV", "NAME/VERSION", "Annotated")
    )


def test_audio_folder_prefers_exact_names_then_lossless_suffixes(tmp_path):
    touch(tmp_path, "b.mp3", "b.FLAC", "a.ogg", "._a.wav", "c.txt", "sub/d.wav")
    folder = AudioFolder.scan(str(tmp_path))
    assert list(folder.by_stem.items()) == [("a", "a.ogg"), ("b", "b.FLAC")]
    assert [sound.path for sound in folder.left_out] == ["b.mp3"]
    assert folder.find("b.mp3") == str(tmp_path / "b.mp3")
    assert folder.find("b.wav") == str(tmp_path / "b.FLAC")
    assert folder.find("c.wav") is None


def test_hold_out_depends_only_on_names_and_keeps_small_groups_in_training():
    keys = [f"class{i % 3}/{i}.wav" for i in range(300)] + ["rare/1.wav", "rare/2.wav", "one/1.wav"]
    groups = [key.split("/")[0] for key in keys]
    splits = dict(zip(keys, hold_out(keys, groups, 0.2, 0.1), strict=True))
    for group in ("class0", "class1", "class2"):
        chosen = [split for key, split in splits.items() if key.startswith(group)]
        assert [chosen.count(s) for s in ("train", "validation", "test")] == [70, 10, 20]
    assert sorted(splits[f"rare/{i}.wav"] for i in (1, 2)) == ["test", "train"]
    assert splits["one/1.wav"] == "train"
    order = random.Random(0).sample(range(len(keys)), len(keys))
    shuffled = hold_out([keys[i] for i in order], [groups[i] for i in order], 0.2, 0.1)
    assert shuffled == [splits[keys[i]] for i in order]


@pytest.mark.parametrize("fractions", [(-0.1, 0.0), (0.5, 0.5), (1.0, 0.1)])
def test_hold_out_rejects_fractions_that_leave_nothing(fractions):
    with pytest.raises(DatasetError, match="sum to less than 1"):
        hold_out(["a", "b"], [0, 0], *fractions)


# --- ESC-50 ---


@pytest.fixture
def esc50(tmp_path):
    """All 50 classes, one clip in each of five folds; the files are .flac, the table says .wav."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, name in enumerate(ESC50):
            stem = f"{fold}-{target:03d}-A-{target}"
            rows.append(f"{stem}.wav,{fold},{target},{name},{target in ESC10_TARGETS},{target},A")
            touch(tmp_path, f"audio/{stem}.flac")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_esc50_has_one_fold_for_testing_and_the_others_for_training(esc50):
    dataset = load_dataset("esc50", esc50, fold=3)
    assert dataset.labels == LabelSet.load("esc50")
    assert not dataset.multi_label
    assert dataset.notes == ()
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train), len(test)) == (200, 50)
    assert {name[0] for name in names_of(test)} == {"3"}
    assert {name[0] for name in names_of(train)} == {"1", "2", "4", "5"}
    for split in (train, test):
        assert all(
            name.endswith(f"-{t}.flac")
            for name, (t,) in zip(names_of(split), split.targets, strict=True)
        )
        assert all(map(os.path.isfile, split.sources))


def test_esc10_numbers_its_ten_labels_from_zero(esc50):
    dataset = load_dataset("esc50", esc50, subset="esc10")
    assert dataset.labels.names == tuple(ESC50[target] for target in ESC10_TARGETS)
    assert dataset.labels.ids[2] == "/m/07rwj10"
    assert dataset.split("test").targets == [(i,) for i in range(10)]
    assert len(dataset.split("train")) == 40


def test_esc50_counts_missing_files_and_unused_labels(esc50):
    for fold in (1, 2, 4, 5):
        (esc50 / "audio" / f"{fold}-007-A-7.flac").unlink()
    dataset = load_dataset("esc50", esc50, fold=3)
    assert dataset.notes[0] == f"4 of 250 files are missing from {esc50 / 'audio'}"
    assert dataset.notes[1] == "1 of 50 labels has no training example: insects"
    assert len(dataset.split("train")) == 196


def test_esc50_rejects_bad_settings(esc50):
    assert "fold must be one of 1, 2, 3, 4, 5. Received: fold=6" in error("esc50", esc50, fold=6)
    assert 'subset must be "esc50" or "esc10"' in error("esc50", esc50, subset="esc20")


def test_esc50_rejects_a_copy_without_files(esc50):
    for file in (esc50 / "audio").glob("3-*"):
        file.unlink()
    assert "No file of the test split exists" in error("esc50", esc50, fold=3)
    for file in (esc50 / "audio").iterdir():
        file.unlink()
    assert "No file of the train split exists" in error("esc50", esc50, fold=3)
    (esc50 / "audio").rmdir()
    assert "folder audio/ is missing" in error("esc50", esc50)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1-001-A-1.wav,1,1,rooster", "1-001-A-1.wav,1,1,robin", "esc50.csv line 3: 1, 'robin'"),
        ("1-001-A-1.wav,1,1,rooster", "1-001-A-1.wav,1,50,rooster", "line 3: 50"),
        ("1-001-A-1.wav,1,1,", "1-001-A-1.wav,one,1,", "line 3: 'one'"),
        ("1-001-A-1.wav,1,1,rooster,True", "1-001-A-1.wav,1,1,rooster,yes", "line 3: 'yes'"),
        ("2-000-A-0.wav", "1-000-A-0.wav", "lines 2 and 52: 1-000-A-0.wav"),
        (",esc10,", ",esc_10,", "lacks the column 'esc10'.*Did you mean 'esc_10'"),
        ("1-001-A-1.wav,1,1,rooster,True,1,A", "1-001-A-1.wav,1,1", "line 3: 3 cells"),
    ],
)
def test_esc50_rejects_bad_tables_with_the_line(esc50, old, new, message):
    edit(esc50 / "meta" / "esc50.csv", old, new)
    with pytest.raises(DatasetError, match=message):
        load_dataset("esc50", esc50)


# --- Speech Commands ---


@pytest.fixture
def speech_commands(tmp_path):
    """Three official words; the files are .flac, the lists say .wav."""
    for word in ("yes", "no", "go"):
        touch(tmp_path, *(f"{word}/{speaker}_nohash_0.flac" for speaker in "abcde"))
    touch(
        tmp_path, "_background_noise_/pink.wav", "LICENSE", "notes/read.me", "yes/._a_nohash_0.wav"
    )
    (tmp_path / "validation_list.txt").write_text("yes/a_nohash_0.wav\nno/a_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_bytes(b"yes/b_nohash_0.wav\r\n\r\ngo/e_nohash_0.wav")
    return tmp_path


def test_speech_commands_has_the_unlisted_clips_for_training(speech_commands):
    dataset = load_dataset("speech_commands", speech_commands)
    assert dataset.labels.names == ("no", "yes", "go")  # the order of the released models
    assert dataset.labels.ids == ("/m/spcmd22", "/m/spcmd28", "/m/spcmd33")
    relative = {
        name: [os.path.relpath(source, speech_commands) for source in split.sources]
        for name, split in dataset.splits.items()
    }
    assert relative["validation"] == ["no/a_nohash_0.flac", "yes/a_nohash_0.flac"]
    assert relative["test"] == ["yes/b_nohash_0.flac", "go/e_nohash_0.flac"]
    assert len(relative["train"]) == 11
    assert relative["train"][:2] == ["no/b_nohash_0.flac", "no/c_nohash_0.flac"]
    assert dataset.split("test").targets == [(1,), (2,)]
    assert dataset.notes == (
        "1 folders without a recording ignored: notes",
        "_background_noise_ ignored: it is not a word",
    )


def test_speech_commands_order_does_not_depend_on_the_file_system(speech_commands, reverse_disk):
    expected = load_dataset("speech_commands", speech_commands)
    reverse_disk()
    dataset = load_dataset("speech_commands", speech_commands)
    assert dataset.labels == expected.labels
    for name, split in expected.splits.items():
        assert dataset.split(name).sources == split.sources


def test_speech_commands_reads_chosen_words_in_their_order(speech_commands):
    dataset = load_dataset("speech_commands", speech_commands, words=["go", "yes"])
    assert dataset.labels.names == ("go", "yes")
    assert dataset.split("test").targets == [(0,), (1,)]
    assert len(dataset.split("train")) == 7
    message = error("speech_commands", speech_commands, words=["yess"])
    assert "no recording of 'yess'. Did you mean 'yes'?" in message


def test_speech_commands_sorts_unofficial_words(speech_commands):
    touch(speech_commands, "aloha/a_nohash_0.wav")
    labels = load_dataset("speech_commands", speech_commands).labels
    assert labels.names == labels.ids == ("aloha", "go", "no", "yes")


def test_speech_commands_counts_missing_and_shadowed_files(speech_commands):
    with open(speech_commands / "testing_list.txt", "a") as file:
        file.write("\nyes/x_nohash_0.wav\nno/x_nohash_0.wav\nwow/x_nohash_0.wav\n")
    touch(speech_commands, "yes/c_nohash_0.mp3")
    notes = load_dataset("speech_commands", speech_commands).notes
    assert notes[0].startswith("1 sound left out, next to a file that differs only in its suffix")
    assert notes[0].endswith(": yes 1; yes/c_nohash_0.mp3")
    assert f"3 clips of testing_list.txt are missing from {speech_commands}" in notes
    notes = load_dataset("speech_commands", speech_commands, words=("no",)).notes
    assert notes[0] == f"1 clips of testing_list.txt are missing from {speech_commands}"


def test_speech_commands_rejects_bad_lists(speech_commands):
    path = speech_commands / "testing_list.txt"
    path.write_text("yes/b_nohash_0.wav\nyes/a_nohash_0.wav\n")
    message = error("speech_commands", speech_commands)
    assert "testing_list.txt line 2" in message
    assert "also in validation_list.txt" in message
    path.write_text("b_nohash_0.wav\n")
    assert "word/file.wav. Received:" in error("speech_commands", speech_commands)
    path.unlink()
    assert "testing_list.txt. Speech Commands is" in error("speech_commands", speech_commands)


# --- A folder for each class ---


def test_class_folders_hold_out_a_fifth_of_every_class(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.wav" for c in ("hen", "dog") for i in range(10)))
    touch(tmp_path, "dog/deeper/1.ogg", "dog/.cache/2.wav", "docs/read.me", "top.wav")
    dataset = load_dataset("folders", tmp_path)
    assert dataset.labels.names == ("dog", "hen")
    assert [len(dataset.split(name)) for name in ("train", "test")] == [17, 4]
    assert dataset.notes == (
        "1 sound left out, outside the folders of the classes (move each into the folder of its "
        "class): top.wav",
        "1 sound left out, hidden by a dot before their name or folder (rename it to read them): "
        "dog 1; dog/.cache/2.wav",
        "20% of every class held out by name for testing",
        "1 folders without sounds, which are not classes: docs",
    )
    sources = set(dataset.split("train").sources) | set(dataset.split("test").sources)
    assert len(sources) == 21
    assert str(tmp_path / "dog" / "deeper" / "1.ogg") in sources
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert names_of(load_dataset("folders", moved).split("test")) == names_of(dataset.split("test"))


def test_class_folders_order_does_not_depend_on_the_file_system(tmp_path, reverse_disk):
    touch(tmp_path, *(f"{c}/{d}/{i}.wav" for c in "ba" for d in "yx" for i in range(5)))
    expected = load_dataset("folders", tmp_path)
    reverse_disk()
    assert (
        load_dataset("folders", tmp_path).split("train").sources == expected.split("train").sources
    )


def test_class_folders_hold_out_the_given_fractions(tmp_path):
    touch(tmp_path, *(f"dog/{i}.wav" for i in range(10)))
    dataset = load_dataset("folders", tmp_path, test_fraction=0.3, validation_fraction=0.1)
    assert {k: len(v) for k, v in dataset.splits.items()} == {
        "train": 6,
        "validation": 1,
        "test": 3,
    }
    assert "test" not in load_dataset("folders", tmp_path, test_fraction=0.0).splits


def test_class_folders_use_folders_of_splits(tmp_path):
    touch(tmp_path, "train/dog/1.wav", "train/hen/1.wav", "val/hen/2.wav", "test/dog/2.wav")
    dataset = load_dataset("folders", tmp_path)
    assert {k: v.targets for k, v in dataset.splits.items()} == {
        "train": [(0,), (1,)],
        "validation": [(1,)],
        "test": [(0,)],
    }
    assert "omit the fractions" in error("folders", tmp_path, test_fraction=0.5)


def test_class_folders_reject_a_folder_without_classes(tmp_path):
    touch(tmp_path, "docs/read.me")
    assert "holds no audio file" in error("folders", tmp_path)

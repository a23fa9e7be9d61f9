"""Whatever looks like a sound and is not read is counted and named, by readers and commands."""

import os

import pytest

from ast_keras.auditing.audit import audit
from ast_keras.auditing.text_report import describe
from ast_keras.commands.inputs import sound_files
from ast_keras.data.readers import audio_folder, load_dataset
from ast_keras.data.readers.audio_folder import SoundTree, is_audio, why_left_out
from ast_keras.errors import CommandError, DatasetError
from ast_keras.labels import LabelSet
from tests.helpers.data_folders import write_sound
from tests.helpers.errors import error_of


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch):
    """Whether the machine has ffmpeg must not decide these tests."""
    monkeypatch.setattr(audio_folder, "ffmpeg_command", lambda: None)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def farm(root, *names):
    return touch(root, *(f"{c}/{i}.wav" for c in ("dog", "hen") for i in range(3)), *names)


def named(dataset):
    return {sound.path: (sound.label, sound.reason.split(" (")[0]) for sound in dataset.left_out}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.m4a", "unreadable without ffmpeg"),
        ("a.M4A", "unreadable without ffmpeg"),
        ("a.Webm", "unreadable without ffmpeg"),
        ("a.ape", "unreadable without ffmpeg"),
        ("a.mpc", "in a format that nothing here reads"),
        ("a.MID", "in a format that nothing here reads"),
        ("a.wav.part", "unfinished or packed"),
        (".a.wav.icloud", "unfinished or packed"),
        ("a.mp3.crdownload", "unfinished or packed"),
        ("a.flac.gz", "unfinished or packed"),
        (".a.wav", "hidden by a dot before their name or folder"),
        ("._a.wav", None),
        ("a.wav", None),
        ("a.VOC", None),
        ("a.txt", None),
        ("a.zip", None),
        ("a.wav.json", None),
        ("m4a", None),
    ],
)
def test_file_that_looks_like_a_sound_is_read_or_named(name, reason):
    found = why_left_out(name)
    assert (found and found.split(" (")[0]) == reason
    assert not (found and is_audio(name))


def test_with_ffmpeg_compressed_sounds_are_read(monkeypatch, tmp_path):
    farm(tmp_path, "dog/x.m4a", "hen/y.MP4")
    monkeypatch.setattr(audio_folder, "ffmpeg_command", lambda: "/usr/bin/ffmpeg")
    dataset = load_dataset("folders", tmp_path, test_fraction=0.0)
    assert len(dataset.split("train")) == 8
    assert dataset.left_out == ()


def test_class_folders_count_and_name_what_they_leave_out(tmp_path):
    farm(tmp_path, *(f"dog/x{i}.m4a" for i in range(6)), "hen/deep/x.m4a", "hen/a.dff")
    touch(tmp_path, "top.wav", ".bin/dog/1.wav", "_old/1.wav", "dog/._0.wav", "dog/0.txt")
    dataset = load_dataset("folders", tmp_path)
    assert sum(len(split) for split in dataset.splits.values()) == 6
    assert named(dataset) == {
        **{f"dog/x{i}.m4a": ("dog", "unreadable without ffmpeg") for i in range(6)},
        "hen/deep/x.m4a": ("hen", "unreadable without ffmpeg"),
        "hen/a.dff": ("hen", "in a format that nothing here reads"),
        "top.wav": ("", "outside the folders of the classes"),
        ".bin/dog/1.wav": ("", "hidden by a dot before their name or folder"),
        "_old/1.wav": ("", "in folders whose names start with _"),
    }
    (note,) = [note for note in dataset.notes if "ffmpeg" in note]
    assert note == (
        "7 sounds left out, unreadable without ffmpeg (install it, or convert them where it is: "
        "ffmpeg -i NAME.m4a NAME.flac): dog 6, hen 1; dog/x0.m4a, dog/x1.m4a, dog/x2.m4a, ..."
    )
    assert f"warning: {note}" in dataset.remarks()
    assert "note: 20% of every class held out by name for testing" in dataset.remarks()


def test_class_that_would_vanish_is_an_error(tmp_path):
    farm(tmp_path, *(f"cow/{i}.m4a" for i in range(3)))
    message = error_of(load_dataset, "folders", tmp_path)
    assert "No sound of the class 'cow' is read." in message
    assert str(tmp_path) in message
    assert "3 sounds left out, unreadable without ffmpeg" in message
    only = touch(tmp_path / "only", "dog/1.m4a", "hen/1.m4a")
    assert "2 sounds left out, unreadable" in error_of(load_dataset, "folders", only)
    split = touch(tmp_path / "split", "train/dog/1.wav", "train/hen/1.m4a", "test/hen/2.m4a")
    assert "the class 'hen' is read" in error_of(load_dataset, "folders", split)


def test_files_that_differ_in_their_suffix_are_two_recordings(tmp_path):
    farm(tmp_path, "dog/0.flac", "dog/1.WAV", "hen/0.mp3")
    dataset = load_dataset("folders", tmp_path, test_fraction=0.0)
    names = [os.path.relpath(source, tmp_path) for source in dataset.split("train").sources]
    assert names[:5] == ["dog/0.flac", "dog/0.wav", "dog/1.WAV", "dog/1.wav", "dog/2.wav"]
    assert len(set(names)) == 9
    assert dataset.notes[0] == (
        "3 names have several suffixes, and each file is an example: remove copies of the same "
        "recording (dog/0.flac, dog/0.wav, ...)"
    )
    # Without such files the splits are those of earlier versions.
    alone = load_dataset("folders", farm(tmp_path / "alone")).split("test").sources
    assert [os.path.relpath(s, tmp_path / "alone") for s in alone] == ["dog/2.wav", "hen/2.wav"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    farm(tmp_path / "farm")
    touch(tmp_path, "disk/a.wav", "disk/inner/b.wav")
    os.symlink(tmp_path / "disk", tmp_path / "farm" / "dog" / "more")
    for link, target in (("self", "."), ("up", ".."), ("root", "/")):
        os.symlink(target, tmp_path / "farm" / "hen" / link)
    os.symlink(tmp_path / "farm", tmp_path / "disk" / "inner" / "back")
    os.symlink("gone", tmp_path / "farm" / "hen" / "broken.wav")
    tree = SoundTree.scan(str(tmp_path / "farm"))
    assert [name for name in tree.sounds if "more" in name] == [
        "dog/more/a.wav", "dog/more/inner/b.wav"
    ]  # fmt: skip
    assert len(tree.sounds) == 9
    assert "hen/broken.wav" in tree.sounds  # an error when it is read, as in a list
    assert tree.left_out == ()


def test_what_is_no_file_is_named_and_not_opened(tmp_path):
    farm(tmp_path)
    os.mkfifo(tmp_path / "dog" / "pipe.wav")
    assert named(load_dataset("folders", tmp_path)) == {
        "dog/pipe.wav": ("dog", "neither files nor folders")
    }


def test_commands_read_a_folder_as_readers_do(tmp_path, capsys):
    farm(tmp_path, "dog/0.flac", "dog/x.m4a", "hen/.y.wav", ".trash/z.wav", "top.wav")
    found = list(sound_files([str(tmp_path), "-"]))
    tree = SoundTree.scan(str(tmp_path))
    assert found == [*sorted(str(tmp_path / name) for name in tree.sounds), "-"]
    assert len(found) == 9
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(" (")[0] for line in lines) == [
        f"warning: {tmp_path}: 1 sound left out, unreadable without ffmpeg",
        f"warning: {tmp_path}: 2 sounds left out, hidden by a dot before their name or folder",
    ]
    touch(tmp_path / "only", "x.m4a")
    with pytest.raises(CommandError, match=r"can be read\. .*only; 1 sound left out, unreadable"):
        list(sound_files([str(tmp_path / "only")]))


def test_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    farm(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("hen"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match=r"Permission denied\. Received: .*/hen"):
        load_dataset("folders", tmp_path)


def test_audit_reports_what_is_left_out_as_a_defect(tmp_path):
    for seed, name in enumerate(("dog/1", "dog/2", "hen/1", "hen/2")):
        write_sound(tmp_path / f"{name}.wav", seed)
    touch(tmp_path, "dog/3.m4a", "dog/4.m4a", "top.wav")
    report = audit(str(tmp_path), statistics=False)
    assert report["kind"] == "folders"
    assert report["defects"]["left_out"]["count"] == 3
    assert report["defects"]["left_out"]["examples"][1] == {
        "split": "", "sound": "dog/3.m4a", "label": "dog", "detail": "unreadable without ffmpeg"
    }  # fmt: skip
    lines = "\n".join(describe(report))
    assert "  2 sounds left out, unreadable without ffmpeg (install it" in lines
    assert "  left out: 3, not read" in lines
    assert "    dog/4.m4a: unreadable without ffmpeg" in lines
    assert report["problems"] == []


def esc50(root, *names):
    rows = ["filename,fold,target,category,esc10"]
    labels = LabelSet.load("esc50").names
    for fold in (1, 2):
        rows += [f"{fold}-{t}.wav,{fold},{t},{labels[t]},{t < 2}" for t in range(3)]
    touch(root, "meta/esc50.csv", *(f"audio/{name}" for name in names))
    (root / "meta" / "esc50.csv").write_text("\n".join(rows))
    return root


def test_esc50_names_sounds_that_are_shadowed_unreadable_or_not_listed(tmp_path):
    root = esc50(tmp_path, "1-0.wav", "1-0.flac", "1-1.m4a", "2-0.wav", "2-1.wav", "9-9.wav")
    touch(root, "audio/1-2.m4a")  # not of the subset
    dataset = load_dataset("esc50", root, subset="esc10")
    assert named(dataset) == {
        "1-0.flac": ("dog", "next to a file that differs only in its suffix and is read"),
        "1-1.m4a": ("rooster", "unreadable without ffmpeg"),
        "9-9.wav": ("", "not in meta/esc50.csv"),
    }
    assert dataset.notes[:3] == tuple(n.removeprefix("warning: ") for n in dataset.remarks()[:3])
    assert "No sound of the class 'pig' is read" in error_of(load_dataset, "esc50", root)


def test_speech_commands_names_sounds_that_are_not_read(tmp_path):
    touch(tmp_path, *(f"{w}/{s}_nohash_0.wav" for w in ("yes", "no") for s in "abc"))
    touch(tmp_path, "yes/d_nohash_0.m4a", "yes/in/e.wav", "top.wav", "_background_noise_/x.wma")
    touch(tmp_path, "validation_list.txt", "testing_list.txt", "no/a_nohash_0.ogg", "up/a.m4a")
    dataset = load_dataset("speech_commands", tmp_path, words=("yes", "no"))
    assert named(dataset) == {
        "yes/d_nohash_0.m4a": ("yes", "unreadable without ffmpeg"),
        "no/a_nohash_0.ogg": ("no", "next to a file that differs only in its suffix and is read"),
        "yes/in/e.wav": ("", "outside the folders of the words"),
        "top.wav": ("", "outside the folders of the words"),
    }
    assert "the class 'up' is read" in error_of(load_dataset, "speech_commands", tmp_path)


def test_audioset_counts_sounds_that_are_not_read(tmp_path):
    for name, ytid in (("balanced_train", "bal_1cCGK4M"), ("eval", "val_1cCGK4M")):
        touch(tmp_path, f"clips/{ytid}.wav")
        (tmp_path / f"{name}_segments.csv").write_text(f'{ytid}, 30.0, 40.0, "/m/09x0r"\n')
    touch(tmp_path, "clips/bal_1cCGK4M.flac", "clips/abc_1cCGK4M.m4a", "clips/song.wav")
    touch(tmp_path, "clips/abd_1cCGK4M.m4a")
    notes = load_dataset("audioset", tmp_path).notes
    assert sorted(note.split(" (")[0] for note in notes if "left out" in note) == [
        "1 sound left out, next to a file that differs only in its suffix and is read",
        "1 sound left out, not named like a clip",
        "2 sounds left out, unreadable without ffmpeg",
    ]

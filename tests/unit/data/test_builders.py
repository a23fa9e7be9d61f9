"""Builders find or download their data, explain errors in one line, and run in `tfds build`."""

import dataclasses
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from ast_keras.data.dataset import fingerprint
from ast_keras.data.downloads import public_data
from ast_keras.data.readers.array_record import read_built
from ast_keras.data.readers.esc50 import read_esc50
from ast_keras.errors import DatasetError
from tests.helpers.data_folders import (
    NUM_CLIPS,
    build,
    write_audioset,
    write_esc50,
    write_sound,
    write_speech_commands,
)
from tests.helpers.http_server import serve_files
from tests.helpers.paths import ROOT

pytest.importorskip("importlib_resources", reason="tensorflow-datasets needs it to build a set")
tfds = pytest.importorskip("tensorflow_datasets")

from ast_keras.data.builders.audioset import Audioset  # noqa: E402
from ast_keras.data.builders.esc50 import Esc50  # noqa: E402
from ast_keras.data.builders.speech_commands_v2 import OFFICIAL_SIZES, SpeechCommandsV2  # noqa: E402

has_beam = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not has_beam, reason="AudioSet is built with Apache Beam")
needs_command = pytest.mark.skipif(
    not has_beam or importlib.util.find_spec("mlcroissant") is None,
    reason="the command tfds needs apache_beam and mlcroissant",
)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Returns a server that is set as the mirror."""
    with serve_files() as server:
        monkeypatch.setenv("AST_KERAS_MIRROR", server.url)
        monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path / "data"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def serve_archive(server, monkeypatch, kind, folder, form):
    """Serves a folder as the archive of a data set, and expects its size."""
    archive = dataclasses.replace(
        public_data.ARCHIVES[kind],
        num_recordings=len(list(folder.glob("*/*.wav"))),
        num_bytes=10**6, unpacked_bytes=10**6, sha256=None,
    )  # fmt: skip
    monkeypatch.setitem(public_data.ARCHIVES, kind, archive)
    packed = shutil.make_archive(os.fspath(folder) + "_packed", form, folder)
    server.files[archive.filename] = pathlib.Path(packed).read_bytes()


def test_esc50_is_downloaded(mirror, tmp_path, monkeypatch):
    folder = write_esc50(tmp_path / "original")
    serve_archive(mirror, monkeypatch, "esc50", folder, "zip")
    Esc50(data_dir=tmp_path / "built").download_and_prepare()
    built = read_built(os.fspath(tmp_path / "built"), fold=2)
    assert fingerprint(built) == fingerprint(read_esc50(os.fspath(folder), fold=2))


def test_speech_commands_is_downloaded(mirror, tmp_path, monkeypatch):
    folder = write_speech_commands(tmp_path / "original")
    serve_archive(mirror, monkeypatch, "speech_commands", folder, "gztar")
    SpeechCommandsV2(data_dir=tmp_path / "built").download_and_prepare()
    assert {n: len(s) for n, s in read_built(os.fspath(tmp_path / "built")).splits.items()} == {
        "train": 15, "validation": 2, "test": 1,
    }  # fmt: skip


def plan_audioset(folder, tmp_path):
    """Returns the plan of AudioSet's builder; running it takes seconds with Apache Beam."""
    manager = tfds.download.DownloadManager(
        download_dir=tmp_path / "tfds", manual_dir=folder, manual_dir_instructions="none"
    )
    return Audioset(data_dir=tmp_path / "built").plan(manager)


def test_audioset_downloads_the_lists_if_the_folder_of_clips_has_none(mirror, tmp_path):
    folder = write_audioset(tmp_path / "copy")
    expected = plan_audioset(folder, tmp_path)
    for name in NUM_CLIPS:
        list_file = folder / f"{name}_segments.csv"
        mirror.files[list_file.name] = list_file.read_bytes()
        list_file.unlink()
    plan = plan_audioset(folder, tmp_path)
    assert list(plan.splits) == ["balanced", "unbalanced", "eval"]
    for split, index in plan.splits.items():
        rows = [index.row(position) for position in range(len(index))]
        assert rows == [expected.splits[split].row(position) for position in range(len(index))]
    assert sorted(name for name, _ in mirror.requests) == sorted(mirror.files)


def test_audioset_plans_the_lists_in_the_folder(tmp_path):
    folder = write_audioset(tmp_path / "copy")
    (folder / "unbalanced_train_segments.csv").unlink()
    plan = plan_audioset(folder, tmp_path)
    assert {split: len(index) for split, index in plan.splits.items()} == {
        "balanced": 81, "eval": 36,
    }  # fmt: skip


@pytest.mark.parametrize("builder_class", [Esc50, SpeechCommandsV2])
def test_builder_offline_names_the_file_to_provide(builder_class, tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path))
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")  # no server is there
    with pytest.raises(DatasetError, match="cannot be downloaded") as caught:
        builder_class(data_dir=tmp_path / "built").download_and_prepare()
    assert "--manual_dir FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_audioset_offline_names_the_lists_to_provide(tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path / "data"))
    write_sound(tmp_path / "clips" / "Yabcdefghijk.wav", 1)
    with pytest.raises(DatasetError, match="put one or more of balanced_train_seg") as caught:
        build(Audioset, tmp_path / "clips", tmp_path / "built")
    assert "\n" not in str(caught.value)


def test_audioset_needs_clips(tmp_path):
    with pytest.raises(DatasetError, match=r"from your own copy of the clips.*--manual_dir FOLDER"):
        Audioset(data_dir=tmp_path).download_and_prepare()


def test_audioset_rejects_a_folder_without_listed_clips(tmp_path):
    folder = write_audioset(tmp_path / "copy")
    shutil.rmtree(folder / "clips")
    write_sound(folder / "Yabcdefghijk.wav", 1)
    with pytest.raises(DatasetError, match=r"any of the 260 listed clips.*3 \.csv, 1 \.wav"):
        build(Audioset, folder, tmp_path / "built")


def test_builder_rejects_a_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match="manual_dir must be a folder"):
        build(Esc50, tmp_path / "typo", tmp_path / "built")


@pytest.mark.parametrize(
    ("builder_class", "message"),
    [
        (Esc50, r"Cannot read the table: No such file.*ESC-50 is a folder with audio/"),
        (SpeechCommandsV2, r"No such file or directory: .*validation_list.txt"),
    ],
)
def test_builder_rejects_a_folder_of_other_data(builder_class, message, tmp_path):
    write_sound(tmp_path / "copy" / "yes" / "a_nohash_0.wav", 1)
    with pytest.raises(DatasetError, match=message):
        build(builder_class, tmp_path / "copy", tmp_path / "built")


def test_speech_commands_rejects_words_that_are_not_in_it(tmp_path):
    folder = write_speech_commands(tmp_path / "copy")
    write_sound(folder / "yess" / "a_nohash_0.wav", 1)
    with pytest.raises(DatasetError, match=r"has 35 words.* Did you mean 'yes'\? Received: 'yess'"):
        build(SpeechCommandsV2, folder, tmp_path / "built")


def test_speech_commands_is_the_set_of_35_words():
    assert sum(OFFICIAL_SIZES.values()) == public_data.ARCHIVES["speech_commands"].num_recordings
    assert SpeechCommandsV2(data_dir="unused").info.features["label"].num_classes == 35


def test_builder_rejects_another_order(tmp_path):
    config = tfds.download.DownloadConfig(nondeterministic_order=True)
    with pytest.raises(DatasetError, match="omit --nondeterministic_order"):
        Esc50(data_dir=tmp_path).download_and_prepare(download_config=config)


def test_builder_rejects_files_without_an_index(tmp_path):
    with pytest.raises(DatasetError, match=r"omit --file_format. Received: .*'tfrecord'"):
        Esc50(data_dir=tmp_path, file_format="tfrecord")


def test_failed_build_leaves_nothing_behind(tmp_path):
    folder = write_esc50(tmp_path / "copy")
    builder = Esc50(data_dir=tmp_path / "built")
    gone = next((folder / "audio").glob("*.wav"))
    plan = builder.plan
    builder.plan = lambda dl_manager: (plan(dl_manager), gone.unlink())[0]
    with pytest.raises(DatasetError, match="Cannot read a clip: No such file"):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=folder)
        )
    with pytest.raises(DatasetError, match="The folder holds no built data set"):
        read_built(os.fspath(tmp_path / "built"))


def test_built_set_can_be_read_with_tensorflow_datasets(tmp_path):
    folder = write_esc50(tmp_path / "copy")
    build(Esc50, folder, tmp_path / "built")
    path = tmp_path / "built" / "esc50" / "1.0.0"
    example = tfds.builder_from_directory(path).as_data_source(split="train")[0]
    assert example["audio"] == (folder / example["path"].decode()).read_bytes()
    assert (example["label"], example["fold"], example["esc10"]) == (40, 2, True)


def test_builder_is_registered_by_name(tmp_path):
    assert isinstance(tfds.builder("esc50", data_dir=tmp_path), Esc50)


@pytest.mark.slow
@needs_command
def test_command_builds_in_a_checkout(tmp_path):
    folder = write_esc50(tmp_path / "copy")
    # Like the script `tfds`, which unlike `python -m` does not search the current folder.
    script = "import sys; from tensorflow_datasets.scripts.cli.main import launch_cli; "
    script += "sys.path.remove(''); sys.exit(launch_cli())"
    command = [sys.executable, "-c", script, "build", "ast_keras/data/builders/esc50"]
    result = subprocess.run(
        [*command, "--manual_dir", folder, "--data_dir", tmp_path / "built"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    built = read_built(os.fspath(tmp_path / "built" / "esc50"), fold=3)
    assert fingerprint(built) == fingerprint(read_esc50(os.fspath(folder), fold=3))

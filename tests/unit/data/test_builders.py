"""Builders find or fetch their data, say what is wrong in a line, and run under `tfds build`."""

import dataclasses
import functools
import http.server
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from ast_keras.data.dataset import fingerprint
from ast_keras.data.downloads import public_data
from ast_keras.data.readers.array_record import read_built
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.data.readers.esc50 import read_esc50
from ast_keras.errors import DatasetError
from tests.unit.data.test_array_record import (
    NUM_CLIPS,
    build,
    write_audioset,
    write_esc50,
    write_sound,
    write_speech_commands,
)

pytest.importorskip("importlib_resources", reason="tensorflow-datasets needs it to build a set")
tfds = pytest.importorskip("tensorflow_datasets")

from ast_keras.data.builders.audioset import Audioset  # noqa: E402
from ast_keras.data.builders.esc50 import Esc50  # noqa: E402
from ast_keras.data.builders.speech_commands_v2 import OFFICIAL_SIZES, SpeechCommandsV2  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
has_beam = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not has_beam, reason="AudioSet is built with Apache Beam")
needs_command = pytest.mark.skipif(
    not has_beam or importlib.util.find_spec("mlcroissant") is None,
    reason="the command tfds needs apache_beam and mlcroissant",
)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Gives a folder that is served under the address of the mirror."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(_Handler, directory=os.fspath(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AST_KERAS_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


def expect_small(monkeypatch, kind, num_sounds):
    """Makes the fetcher expect an archive of this many sounds under the published name."""
    archive = dataclasses.replace(
        public_data.ARCHIVES[kind],
        num_sounds=num_sounds, num_bytes=10**6, unpacked_bytes=10**6, sha256=None,
    )  # fmt: skip
    monkeypatch.setitem(public_data.ARCHIVES, kind, archive)
    return archive


def test_esc50_is_fetched(mirror, tmp_path, monkeypatch):
    folder = write_esc50(tmp_path / "packed" / "ESC-50-master")
    archive = expect_small(monkeypatch, "esc50", len(list((folder / "audio").glob("*.wav"))))
    packed = shutil.make_archive(os.fspath(mirror / "packed"), "zip", tmp_path / "packed")
    os.rename(packed, mirror / archive.filename)
    Esc50(data_dir=tmp_path / "built").download_and_prepare()
    built = read_built(os.fspath(tmp_path / "built"), fold=2)
    assert fingerprint(built) == fingerprint(read_esc50(os.fspath(folder), fold=2))


def test_speech_commands_is_fetched(mirror, tmp_path, monkeypatch):
    folder = write_speech_commands(tmp_path / "packed")
    archive = expect_small(monkeypatch, "speech_commands", len(list(folder.glob("*/*.wav"))))
    packed = shutil.make_archive(os.fspath(mirror / "packed"), "gztar", folder)
    os.rename(packed, mirror / archive.filename)
    SpeechCommandsV2(data_dir=tmp_path / "built").download_and_prepare()
    assert {n: len(s) for n, s in read_built(os.fspath(tmp_path / "built")).splits.items()} == {
        "train": 15, "validation": 2, "test": 1,
    }  # fmt: skip


@needs_beam
def test_audioset_fetches_the_lists_that_no_clip_folder_holds(mirror, tmp_path):
    folder = write_audioset(tmp_path / "copy")
    for name in NUM_CLIPS:
        shutil.copy(folder / f"{name}_segments.csv", mirror)
    data_dir = build(Audioset, folder / "clips", tmp_path / "built")
    built = read_built(os.fspath(data_dir), subset="full")
    assert fingerprint(built) == fingerprint(read_audioset(os.fspath(folder), subset="full"))


@needs_beam
def test_audioset_builds_the_lists_that_are_there(tmp_path):
    folder = write_audioset(tmp_path / "copy")
    (folder / "unbalanced_train_segments.csv").unlink()
    built = os.fspath(build(Audioset, folder, tmp_path / "built"))
    assert len(read_built(built).split("test")) == 36
    with pytest.raises(DatasetError, match="no clip of 'unbalanced'; it has balanced, eval"):
        read_built(built, subset="full")


@pytest.mark.parametrize("builder_class", [Esc50, SpeechCommandsV2])
def test_builder_offline_says_what_to_put_where(builder_class, tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path))
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")  # nobody is there
    with pytest.raises(DatasetError, match="cannot be fetched") as caught:
        builder_class(data_dir=tmp_path / "built").download_and_prepare()
    assert "--manual_dir FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_audioset_offline_says_which_lists_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("AST_KERAS_DATA_DIR", os.fspath(tmp_path / "data"))
    write_sound(tmp_path / "clips" / "Yabcdefghijk.wav", 1)
    with pytest.raises(DatasetError, match="put one or more of balanced_train_seg") as caught:
        build(Audioset, tmp_path / "clips", tmp_path / "built")
    assert "\n" not in str(caught.value)


def test_audioset_needs_clips(tmp_path):
    with pytest.raises(DatasetError, match=r"clips are your own.*--manual_dir FOLDER"):
        Audioset(data_dir=tmp_path).download_and_prepare()


def test_audioset_rejects_a_folder_without_listed_clips(tmp_path):
    folder = write_audioset(tmp_path / "copy")
    shutil.rmtree(folder / "clips")
    write_sound(folder / "Yabcdefghijk.wav", 1)
    with pytest.raises(DatasetError, match=r"None of the 260 listed clips.*3 \.csv, 1 \.wav"):
        build(Audioset, folder, tmp_path / "built")


def test_builder_rejects_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="manual_dir must be a folder"):
        build(Esc50, tmp_path / "typo", tmp_path / "built")


@pytest.mark.parametrize(
    ("builder_class", "message"),
    [
        (Esc50, r"Cannot read the table: No such file.*ESC-50 is a folder with audio/"),
        (SpeechCommandsV2, r"No such file or directory: .*validation_list.txt"),
    ],
)
def test_builder_rejects_a_folder_of_something_else(builder_class, message, tmp_path):
    write_sound(tmp_path / "copy" / "yes" / "a_nohash_0.wav", 1)
    with pytest.raises(DatasetError, match=message):
        build(builder_class, tmp_path / "copy", tmp_path / "built")


def test_speech_commands_rejects_words_that_are_not_in_it(tmp_path):
    folder = write_speech_commands(tmp_path / "copy")
    write_sound(folder / "yess" / "a_nohash_0.wav", 1)
    with pytest.raises(DatasetError, match=r"has 35 words.* Did you mean 'yes'\? Received: 'yess'"):
        build(SpeechCommandsV2, folder, tmp_path / "built")


def test_speech_commands_is_the_set_of_35_words():
    assert sum(OFFICIAL_SIZES.values()) == public_data.ARCHIVES["speech_commands"].num_sounds
    assert SpeechCommandsV2(data_dir="unused").info.features["label"].num_classes == 35


def test_builder_rejects_another_order(tmp_path):
    config = tfds.download.DownloadConfig(nondeterministic_order=True)
    with pytest.raises(DatasetError, match="leave --nondeterministic_order out"):
        Esc50(data_dir=tmp_path).download_and_prepare(download_config=config)


def test_builder_rejects_files_without_an_index(tmp_path):
    with pytest.raises(DatasetError, match=r"leave --file_format out. Received: .*'tfrecord'"):
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
    with pytest.raises(DatasetError, match="There is no built set here"):
        read_built(os.fspath(tmp_path / "built"))


def test_built_set_is_open_to_tensorflow_datasets(tmp_path):
    folder = write_esc50(tmp_path / "copy")
    build(Esc50, folder, tmp_path / "built")
    path = tmp_path / "built" / "esc50" / "1.0.0"
    example = tfds.builder_from_directory(path).as_data_source(split="train")[0]
    assert example["audio"] == (folder / example["path"].decode()).read_bytes()
    assert (example["label"], example["fold"], example["esc10"]) == (40, 2, True)


def test_builder_is_known_by_its_name(tmp_path):
    assert isinstance(tfds.builder("esc50", data_dir=tmp_path), Esc50)


@pytest.mark.slow
@needs_command
def test_command_builds_in_a_checkout(tmp_path):
    folder = write_esc50(tmp_path / "copy")
    # As the script `tfds` does, which unlike `python -m` does not look into the current folder.
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

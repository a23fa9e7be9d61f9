"""Public data sets are found or downloaded once, complete and verified."""

import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import pytest

from ast_keras.data.downloads import public_data
from ast_keras.data.downloads.public_data import ARCHIVES, data_folder, find_data
from ast_keras.errors import DatasetError
from tests.helpers.http_server import serve_files
from tests.helpers.paths import ROOT


def zipped(names, root="ESC-50-master/"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(f"{root}{name}", f"content of {name}")
    return file.getvalue()


def tarred(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(f"./{name}")
            info.size = 4
            archive.addfile(info, io.BytesIO(b"wave"))
    return file.getvalue()


ESC50 = zipped(["meta/esc50.csv", "audio/1.wav", "audio/2.wav", "README.md"])
WORDS = tarred(
    ["validation_list.txt", "testing_list.txt", "go/1.wav", "up/1.wav", "_background_noise_/a.wav"]
)
SMALL = {"num_recordings": 2, "num_bytes": 10_000, "unpacked_bytes": 10_000}


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Serves small archives of the real layout as the mirror, and sets an empty data folder."""
    with serve_files() as server:
        server.files["ESC-50-master.zip"] = ESC50
        server.files["speech_commands_v0.02.tar.gz"] = WORDS
        monkeypatch.setenv("AST_KERAS_MIRROR", f"{server.url}/")
        monkeypatch.setenv("AST_KERAS_DATA_DIR", str(tmp_path / "data"))
        small = {kind: dataclasses.replace(archive, **SMALL) for kind, archive in ARCHIVES.items()}
        digest = hashlib.sha256(WORDS).hexdigest()
        small["speech_commands"] = dataclasses.replace(small["speech_commands"], sha256=digest)
        monkeypatch.setattr(public_data, "ARCHIVES", small)
        yield server


@pytest.mark.parametrize("kind", ["esc50", "speech_commands"])
def test_data_is_announced_downloaded_and_unpacked_once(kind, web, tmp_path):
    lines = []
    folder = find_data(kind, lines.append)
    assert folder == tmp_path / "data" / kind
    for marker in ARCHIVES[kind].markers:
        assert (folder / marker).exists()
    assert len(list(folder.glob(ARCHIVES[kind].recordings))) == 2
    assert lines[0].startswith(f"Downloading {ARCHIVES[kind].title}: 1 MB from {web.url}/")
    assert str(folder) in lines[0]
    assert sorted(os.listdir(tmp_path / "data")) == [f".{kind}.lock", kind]
    assert find_data(kind, lines.append) == folder
    assert len(web.requests) == 1


def test_real_archives_are_described_by_their_sizes():
    esc50, words = ARCHIVES["esc50"], ARCHIVES["speech_commands"]
    # 2,000 clips of 5 s at 44.1 kHz, and 105,829 of at most 1 s at 16 kHz, 16 bits each.
    assert 2_000 * 5 * 44_100 * 2 < esc50.unpacked_bytes < 1.1 * 2_000 * 5 * 44_100 * 2
    assert 105_829 * 16_000 * 2 < words.unpacked_bytes < 1.1 * 105_829 * 16_000 * 2 + 10**8
    assert words.num_recordings == 84_843 + 9_981 + 11_005


@pytest.mark.parametrize("kind", ["manifest", "folders", "synthetic"])
def test_other_kinds_are_not_searched_for(kind):
    assert find_data(kind) is None


def test_audioset_is_not_downloaded():
    with pytest.raises(DatasetError, match=r"cannot be downloaded.*Set data\.path to your copy"):
        find_data("audioset")


@pytest.mark.parametrize("name", ["esc50", "ESC-50-master"])
def test_unpacked_data_needs_no_network(name, web, tmp_path):
    folder = tmp_path / "data" / name
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").touch()
    assert find_data("esc50") == folder
    assert web.requests == []


def test_provided_archive_is_unpacked_and_kept(web, tmp_path):
    archive = tmp_path / "data" / "ESC-50-master.zip"
    archive.parent.mkdir()
    archive.write_bytes(ESC50)
    assert (find_data("esc50") / "audio" / "1.wav").is_file()
    assert archive.is_file()
    assert web.requests == []


def test_offline_error_names_the_file_to_provide(web, tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DatasetError) as error:
        find_data("esc50", print)
    text = str(error.value)
    assert "\n" not in text
    assert "Connection refused" in text
    assert f"Put {ARCHIVES['esc50'].url} (" in text
    assert f" at {tmp_path}/data/ESC-50-master.zip, or its unpacked content at" in text
    assert "or set data.path" in text


def test_missing_file_error_names_the_status(web):
    web.files.clear()
    with pytest.raises(DatasetError, match=r"replies HTTP 404 Not Found\).*Put http"):
        find_data("esc50", print)


def test_damaged_download_is_rejected_and_downloaded_again(web, tmp_path):
    web.files["speech_commands_v0.02.tar.gz"] = tarred(["validation_list.txt"])
    with pytest.raises(DatasetError, match="is damaged: its SHA-256 is"):
        find_data("speech_commands", print)
    assert os.listdir(tmp_path / "data") == [".speech_commands.lock"]
    web.files["speech_commands_v0.02.tar.gz"] = WORDS
    assert (find_data("speech_commands", print) / "go" / "1.wav").is_file()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["meta/esc50.csv", "audio/1.wav"], "1 of 2 recordings audio/[*].wav"),
        (["audio/1.wav", "audio/2.wav", "README.md"], "2 of 2 recordings .*without meta/esc50.csv"),
        (["../planted", "audio/2.wav"], "has a file outside of its folder"),
    ],
)
def test_archive_of_other_data_is_rejected(names, message, web, tmp_path):
    web.files["ESC-50-master.zip"] = zipped(names, root="")
    with pytest.raises(DatasetError, match=message):
        find_data("esc50", print)
    assert os.listdir(tmp_path / "data") == [".esc50.lock"]


def test_folder_of_other_data_is_not_touched(web, tmp_path):
    note = tmp_path / "data" / "esc50" / "thesis.txt"
    note.parent.mkdir(parents=True)
    note.write_text("years of work")
    with pytest.raises(DatasetError, match="esc50 exists and is not ESC-50: move it elsewhere"):
        find_data("esc50", print)
    assert note.read_text() == "years of work"


def test_disk_space_is_checked_before_the_download(web, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=15_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DatasetError, match=r"are free: free some space, or set AST_KERAS_DATA_DIR"):
        find_data("esc50", print)
    assert web.requests == []


def test_error_names_a_folder_that_cannot_be_written(web, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AST_KERAS_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(DatasetError, match=f"Not a directory: '{tmp_path}/file/data'"):
        find_data("esc50", print)


def test_data_folder_is_set_by_the_user_or_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AST_KERAS_DATA_DIR", "~/sounds")
    assert data_folder() == pathlib.Path.home() / "sounds"
    monkeypatch.delenv("AST_KERAS_DATA_DIR")
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path))
    assert data_folder() == tmp_path / "data"


def test_of_two_processes_one_downloads(web):
    web.wait = threading.Event()
    folders, lines = [], []
    threads = [
        threading.Thread(target=lambda: folders.append(find_data("esc50", lines.append)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not any("waiting for it" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert any("waiting for it" in line for line in lines)
    web.wait.set()
    for thread in threads:
        thread.join(10)
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert len(web.requests) == 1


def test_killed_download_resumes(web, tmp_path):
    sounds = {f"audio/{index}.wav": os.urandom(1_500_000) for index in (1, 2)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {"meta/esc50.csv": b"", **sounds}.items():
            archive.writestr(name, content)
    web.files["ESC-50-master.zip"] = file.getvalue()
    web.wait = threading.Event()
    code = (
        "import dataclasses\nfrom ast_keras.data.downloads import public_data\n"
        "esc50 = public_data.ARCHIVES['esc50']\n"
        "public_data.ARCHIVES['esc50'] = dataclasses.replace("
        "esc50, num_recordings=2, num_bytes=4_000_000, unpacked_bytes=4_000_000)\n"
        "public_data.find_data('esc50', print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    part = tmp_path / "data" / "ESC-50-master.zip.part"
    deadline = time.monotonic() + 20
    while not (part.is_file() and part.stat().st_size > 10**6) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = part.stat().st_size
    assert 10**6 < arrived < len(file.getvalue())
    (tmp_path / "data" / ".esc50-left").mkdir()  # of a process killed while it unpacked
    web.wait.set()
    public_data.ARCHIVES["esc50"] = dataclasses.replace(
        public_data.ARCHIVES["esc50"], num_bytes=4_000_000, unpacked_bytes=4_000_000
    )
    folder = find_data("esc50", print)
    assert {name: (folder / name).read_bytes() for name in sounds} == sounds
    assert [requested for _, requested in web.requests] == [None, f"bytes={arrived}-"]
    assert sorted(os.listdir(tmp_path / "data")) == [".esc50.lock", "esc50"]

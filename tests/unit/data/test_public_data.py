"""Public data is found or fetched once, whole, from a server that may be as bad as it likes."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import pytest

from ast_keras.data.downloads import http as download_module
from ast_keras.data.downloads import public_data
from ast_keras.data.downloads.http import DownloadError, download
from ast_keras.data.downloads.public_data import ARCHIVES, data_folder, find_data
from ast_keras.errors import DatasetError

NOISE = os.urandom(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves files from memory: `files` by name; the rest is what goes wrong."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.tag = '"version-1"'
        self.break_after = []  # bytes of the body after which each of the next replies breaks off
        self.tells_length = True
        self.knows_ranges = True
        self.moved = {}
        self.wait = None  # an event in the middle of the body
        self.before_reply = {}  # what is called before the reply to a request, by its number
        self.requests = []

    def handle_error(self, *_):
        """Says nothing: a client that hangs up is part of the tests."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name = self.server, self.path.strip("/")
        server.requests.append((name, self.headers.get("Range")))
        server.before_reply.get(len(server.requests), lambda: None)()
        if name in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[name])
            self.end_headers()
        elif name not in server.files:
            self.send_error(404)
        else:
            self.send_file(server, server.files[name])

    def send_file(self, server, data):
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and server.knows_ranges and self.headers.get("If-Range") == server.tag:
            start = int(asked[1])
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(data) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        body = data[start:]
        if server.break_after:
            body = body[: server.break_after.pop(0)]
        half = len(body) // 2
        self.wfile.write(body[:half])
        if server.wait is not None:
            self.wfile.flush()
            server.wait.wait(20)
        with contextlib.suppress(OSError):
            self.wfile.write(body[half:])


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        if server.wait is not None:
            server.wait.set()
        server.shutdown()
        thread.join()


def fetch(server, path, **settings):
    settings = {"max_bytes": 10**8, "pause_seconds": 0, **settings}
    return download(f"{server.url}/noise", path, **settings)


# --- One file ---


def test_download_appears_whole_and_leaves_nothing_else(server, tmp_path):
    server.files["noise"] = NOISE
    assert fetch(server, tmp_path / "noise") == tmp_path / "noise"
    assert (tmp_path / "noise").read_bytes() == NOISE
    assert os.listdir(tmp_path) == ["noise"]


def test_download_follows_redirections(server, tmp_path):
    server.files["elsewhere"] = NOISE
    server.moved["noise"] = f"{server.url}/elsewhere"
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE


def test_download_takes_a_broken_connection_up_again(server, tmp_path):
    server.files["noise"] = NOISE
    server.break_after = [1_000_000, 500_000]
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_download_of_a_later_run_asks_for_the_rest_alone(server, tmp_path, monkeypatch):
    server.files["noise"] = NOISE
    server.break_after = [2_000_000]
    monkeypatch.setattr(download_module, "_TRIES", 1)
    with pytest.raises(DownloadError, match="broke off: 2000000 of 3000000 bytes arrived"):
        fetch(server, tmp_path / "noise")
    assert not (tmp_path / "noise").exists()
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE
    assert server.requests[-1][1] == "bytes=2000000-"


@pytest.mark.parametrize("change", ["tag", "no tag", "no ranges", "weak tag"])
def test_download_starts_anew_where_the_parts_might_not_fit(change, server, tmp_path):
    server.files["noise"] = bytes(3_000_000)
    if change == "no tag":
        server.tag = None
    if change == "weak tag":
        server.tag = 'W/"version-1"'
    server.break_after = [2_000_000]

    def change_file():
        server.files["noise"] = NOISE
        server.knows_ranges = change != "no ranges"
        server.tag = '"version-2"' if change == "tag" else server.tag

    server.before_reply[2] = change_file
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE


def test_download_without_a_length_ends_where_the_server_ends(server, tmp_path):
    server.files["noise"] = NOISE
    server.tells_length = False
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE


def test_download_gives_up_where_nothing_arrives(server, tmp_path):
    server.files["noise"] = NOISE
    server.break_after = [0] * 100
    with pytest.raises(DownloadError, match="broke off: 0 of 3000000 bytes arrived"):
        fetch(server, tmp_path / "noise")
    assert len(server.requests) == 5


def test_download_of_a_part_that_is_longer_than_the_file_starts_anew(server, tmp_path):
    server.files["noise"] = NOISE
    (tmp_path / "noise.part").write_bytes(bytes(4_000_000))
    (tmp_path / "noise.part.tag").write_text(server.tag)
    assert fetch(server, tmp_path / "noise").read_bytes() == NOISE


@pytest.mark.parametrize("tells_length", [True, False])
def test_download_refuses_more_than_expected(tells_length, server, tmp_path):
    server.files["noise"] = NOISE
    server.tells_length = tells_length
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "noise", max_bytes=1_500_000)
    assert not (tmp_path / "noise").exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "noise", "http://127.0.0.1:9/noise", "http:"]
)
def test_download_rejects_an_address_without_a_server(url, tmp_path):
    with pytest.raises(DownloadError, match=re.escape(url)):
        download(url, tmp_path / "noise", max_bytes=10**6)
    assert os.listdir(tmp_path) == []


def test_download_says_how_far_it_is(server, tmp_path, monkeypatch):
    server.files["noise"] = NOISE
    monkeypatch.setattr(download_module, "_SECONDS_BETWEEN_LINES", 0)
    lines = []
    fetch(server, tmp_path / "noise", say=lines.append)
    assert lines[-1] == "3 of 3 MB"


# --- A data set ---


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
SMALL = {"num_sounds": 2, "num_bytes": 10_000, "unpacked_bytes": 10_000}


@pytest.fixture
def web(server, tmp_path, monkeypatch):
    """A mirror with small archives of the real layout, and an empty data folder."""
    server.files["ESC-50-master.zip"] = ESC50
    server.files["speech_commands_v0.02.tar.gz"] = WORDS
    monkeypatch.setenv("AST_KERAS_MIRROR", f"{server.url}/")
    monkeypatch.setenv("AST_KERAS_DATA_DIR", str(tmp_path / "data"))
    small = {kind: dataclasses.replace(archive, **SMALL) for kind, archive in ARCHIVES.items()}
    digest = hashlib.sha256(WORDS).hexdigest()
    small["speech_commands"] = dataclasses.replace(small["speech_commands"], sha256=digest)
    monkeypatch.setattr(public_data, "ARCHIVES", small)
    return server


@pytest.mark.parametrize("kind", ["esc50", "speech_commands"])
def test_data_is_announced_fetched_and_unpacked_once(kind, web, tmp_path):
    lines = []
    folder = find_data(kind, lines.append)
    assert folder == tmp_path / "data" / kind
    for sign in ARCHIVES[kind].signs:
        assert (folder / sign).exists()
    assert len(list(folder.glob(ARCHIVES[kind].sounds))) == 2
    assert lines[0].startswith(f"Fetching {ARCHIVES[kind].title}: 0 MB of {web.url}/")
    assert str(folder) in lines[0]
    assert sorted(os.listdir(tmp_path / "data")) == [f".{kind}.lock", kind]
    assert find_data(kind, lines.append) == folder
    assert len(web.requests) == 1


def test_real_archives_are_described_by_their_sizes():
    esc50, words = ARCHIVES["esc50"], ARCHIVES["speech_commands"]
    # 2,000 clips of 5 s at 44.1 kHz, and 105,829 of at most 1 s at 16 kHz, 16 bits each.
    assert 2_000 * 5 * 44_100 * 2 < esc50.unpacked_bytes < 1.1 * 2_000 * 5 * 44_100 * 2
    assert 105_829 * 16_000 * 2 < words.unpacked_bytes < 1.1 * 105_829 * 16_000 * 2 + 10**8
    assert words.num_sounds == 84_843 + 9_981 + 11_005


@pytest.mark.parametrize("kind", ["manifest", "folders", "synthetic"])
def test_data_of_ones_own_is_not_looked_for(kind):
    assert find_data(kind) is None


def test_audioset_is_not_fetched():
    with pytest.raises(DatasetError, match=r"cannot be fetched.*Set data\.path to your copy"):
        find_data("audioset")


@pytest.mark.parametrize("name", ["esc50", "ESC-50-master"])
def test_data_that_is_there_needs_no_network(name, web, tmp_path):
    folder = tmp_path / "data" / name
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").touch()
    assert find_data("esc50") == folder
    assert web.requests == []


def test_archive_that_is_there_is_unpacked_and_kept(web, tmp_path):
    archive = tmp_path / "data" / "ESC-50-master.zip"
    archive.parent.mkdir()
    archive.write_bytes(ESC50)
    assert (find_data("esc50") / "audio" / "1.wav").is_file()
    assert archive.is_file()
    assert web.requests == []


def test_offline_error_says_which_file_to_put_where(web, tmp_path, monkeypatch):
    monkeypatch.setenv("AST_KERAS_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DatasetError) as error:
        find_data("esc50", print)
    text = str(error.value)
    assert "\n" not in text
    assert "Connection refused" in text
    assert f"Put {ARCHIVES['esc50'].url} (" in text
    assert f" at {tmp_path}/data/ESC-50-master.zip, or what it unpacks to at" in text
    assert "or set data.path" in text


def test_missing_file_error_names_the_status(web):
    web.files.clear()
    with pytest.raises(DatasetError, match=r"gives HTTP 404 Not Found\).*Put http"):
        find_data("esc50", print)


def test_damaged_download_is_refused_and_fetched_anew(web, tmp_path):
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
        (["../planted", "audio/2.wav"], "would write outside of its folder"),
    ],
)
def test_archive_of_something_else_is_refused(names, message, web, tmp_path):
    web.files["ESC-50-master.zip"] = zipped(names, root="")
    with pytest.raises(DatasetError, match=message):
        find_data("esc50", print)
    assert os.listdir(tmp_path / "data") == [".esc50.lock"]


def test_folder_of_something_else_is_not_touched(web, tmp_path):
    note = tmp_path / "data" / "esc50" / "thesis.txt"
    note.parent.mkdir(parents=True)
    note.write_text("years of work")
    with pytest.raises(DatasetError, match="esc50 holds something else: move it away"):
        find_data("esc50", print)
    assert note.read_text() == "years of work"


def test_room_is_asked_for_before_anything_is_fetched(web, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=15_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DatasetError, match=r"are free: make room, or set AST_KERAS_DATA_DIR"):
        find_data("esc50", print)
    assert web.requests == []


def test_folder_that_cannot_be_written_is_named(web, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AST_KERAS_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(DatasetError, match=f"Not a directory: '{tmp_path}/file/data'"):
        find_data("esc50", print)


def test_data_folder_is_the_users_choice_or_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("AST_KERAS_DATA_DIR", "~/sounds")
    assert data_folder() == pathlib.Path.home() / "sounds"
    monkeypatch.delenv("AST_KERAS_DATA_DIR")
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path))
    assert data_folder() == tmp_path / "data"


def test_two_processes_fetch_once(web):
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


def test_killed_fetch_goes_on_where_it_was(web, tmp_path):
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
        "esc50, num_sounds=2, num_bytes=4_000_000, unpacked_bytes=4_000_000)\n"
        "public_data.find_data('esc50', print)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[3])
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
    assert [asked for _, asked in web.requests] == [None, f"bytes={arrived}-"]
    assert sorted(os.listdir(tmp_path / "data")) == [".esc50.lock", "esc50"]

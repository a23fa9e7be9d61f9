"""Downloads: complete, resumed, and safe from a server that misbehaves."""

import io
import os
import re

import pytest

from ast_keras.data.downloads.http import DownloadError, download
from tests.helpers.http_server import serve_files

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def server():
    with serve_files() as server:
        yield server


def fetch(server, path, **settings):
    return download(
        f"{server.url}/file", path, **{"max_bytes": 10**8, "pause_seconds": 0, **settings}
    )


def test_download_writes_the_complete_file_and_nothing_else(server, tmp_path):
    server.files["file"] = CONTENT
    assert fetch(server, tmp_path / "file") == tmp_path / "file"
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]


def test_download_follows_redirections(server, tmp_path):
    server.files["elsewhere"] = CONTENT
    server.moved["file"] = f"{server.url}/elsewhere"
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_download_resumes_a_broken_connection(server, tmp_path):
    server.files["file"] = CONTENT
    server.break_after = [1_000_000, 500_000]
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT
    ranges = [requested for _, requested in server.requests]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_download_of_a_later_run_requests_only_the_rest(server, tmp_path):
    server.files["file"] = CONTENT
    server.break_after = [2_000_000, *[0] * 5]
    with pytest.raises(DownloadError, match="was interrupted: 2000000 of 3000000 bytes arrived"):
        fetch(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=2000000-"


@pytest.mark.parametrize("change", ["tag", "no tag", "no ranges", "weak tag"])
def test_download_starts_over_when_the_file_may_have_changed(change, server, tmp_path):
    server.files["file"] = bytes(3_000_000)
    if change == "no tag":
        server.tag = None
    if change == "weak tag":
        server.tag = 'W/"version-1"'
    server.break_after = [2_000_000]

    def change_file():
        server.files["file"] = CONTENT
        server.supports_ranges = change != "no ranges"
        server.tag = '"version-2"' if change == "tag" else server.tag

    server.before_reply[2] = change_file
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_download_without_a_length_ends_with_the_reply(server, tmp_path):
    server.files["file"] = CONTENT
    server.sends_length = False
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


def test_download_gives_up_when_nothing_arrives(server, tmp_path):
    server.files["file"] = CONTENT
    server.break_after = [0] * 100
    with pytest.raises(DownloadError, match="was interrupted: 0 of 3000000 bytes arrived"):
        fetch(server, tmp_path / "file")
    assert len(server.requests) == 5


def test_download_starts_over_when_the_part_is_longer_than_the_file(server, tmp_path):
    server.files["file"] = CONTENT
    (tmp_path / "file.part").write_bytes(bytes(4_000_000))
    (tmp_path / "file.part.tag").write_text(server.tag)
    assert fetch(server, tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("sends_length", [True, False])
def test_download_rejects_more_bytes_than_allowed(sends_length, server, tmp_path):
    server.files["file"] = CONTENT
    server.sends_length = sends_length
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "file", max_bytes=1_500_000)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "file", "http://127.0.0.1:9/file", "http:"])
def test_download_rejects_a_url_without_a_server(url, tmp_path):
    with pytest.raises(DownloadError, match=re.escape(url)):
        download(url, tmp_path / "file", max_bytes=10**6)
    assert os.listdir(tmp_path) == []


def test_download_shows_a_progress_bar_on_a_terminal_only(server, tmp_path, monkeypatch):
    server.files["file"] = CONTENT
    for terminal in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr("sys.stderr", stream)
        fetch(server, tmp_path / "file")
        assert ("3.00M/3.00M" in stream.getvalue()) == terminal
        assert bool(stream.getvalue()) == terminal


def test_long_download_writes_lines_to_a_log(server, tmp_path, monkeypatch, capsys):
    server.files["file"] = CONTENT
    monkeypatch.setattr("ast_keras.progress.LOG_SECONDS", 0.0)
    fetch(server, tmp_path / "file")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4  # at the start and after each MiB
    assert lines[-1].startswith("100% 3.00M/3.00M [")

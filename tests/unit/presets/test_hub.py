"""Weights are found, fetched and checked, against a stand-in for the hub on this machine."""

import concurrent.futures
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import pathlib
import re
import sys
import threading
import time

import pytest

from ast_keras import files
from ast_keras.presets import hub
from ast_keras.presets.released import PUBLISHED

PRESET = PUBLISHED["ast_base_audioset"]
WEIGHTS = bytes(range(256)) * 40
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens


class StandIn:
    """A hub with files by repository and name: large files are redirected to storage, as there."""

    def __init__(self):
        self.files = {}
        self.claimed_digest = None  # instead of the weights' own
        self.cut = False  # whether weights end in the middle
        self.stall = threading.Event()
        self.stall.set()  # cleared: requests wait
        self.requests = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # clients leave early in some tests
        port = self.server.server_address[1]
        self.url, self.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}/storage"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, preset, weights=WEIGHTS, filename="model.safetensors"):
        self.files |= {
            (preset.hub_id, filename): weights,
            (preset.hub_id, "config.json"): b'{"model_type": "audio-spectrogram-transformer"}',
            (preset.hub_id, "preprocessor_config.json"): b'{"num_mel_bins": 128}',
            (preset.hub_id, "README.md"): b"never asked for",
        }

    def fetched(self):
        """Returns the names of the files whose content was asked for."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET"]

    def close(self):
        self.stall.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.hub.requests.append((self.command, self.path))
        self.hub.stall.wait(30)
        path, in_storage = re.subn("^/storage", "", self.path)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", path)
        content = self.hub.files.get(match.groups()) if match else None
        if content is None:
            known = match and any(match[1] == repository for repository, _ in self.hub.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            return self.respond(404, {"X-Error-Code": code, "X-Repo-Commit": "c" * 40}, b"", True)
        headers = {"X-Repo-Commit": "c" * 40, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if match[2].endswith(".json"):
            return self.respond(200, headers, content, with_body)
        if in_storage:
            return self.respond(200, {}, content, with_body, cut=self.hub.cut)
        digest = self.hub.claimed_digest or hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        headers["Location"] = self.hub.storage + path
        self.respond(302, headers, b"", with_body)

    def respond(self, status, headers, content, with_body, cut=False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """Keeps every test away from the network and from the user's own caches."""
    for name in ("AST_KERAS_PRESETS", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    hub._warn_unwritable.cache_clear()


@pytest.fixture
def constants(environment, tmp_path, monkeypatch):
    """The settings of huggingface_hub, which reads the environment only when it is imported."""
    constants = pytest.importorskip("huggingface_hub.constants")
    template = CLOSED + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {
        "ENDPOINT": CLOSED,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    return constants


@pytest.fixture
def stand_in(constants, monkeypatch):
    server = StandIn()
    server.add(PRESET)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


def use(preset, *args, **kwargs):
    """Fetches a preset's file and finds it usable."""
    path = hub.fetch(preset, *args, **kwargs)
    hub.remember(preset, path)
    return path


def refused(*args, **kwargs):
    """Returns the one line with which a fetch is refused."""
    with pytest.raises(hub.WeightsError) as caught:
        hub.fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path, content=WEIGHTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def record_path(preset=PRESET, kind="safetensors"):
    return files.cache_folder() / "checksums" / f"{preset.name}.{kind}.json"


# From the hub.


def test_fetch_downloads_once_and_only_what_is_needed(stand_in, tmp_path):
    lines = []
    path = hub.fetch(PRESET, say=lines.append)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(tmp_path / "hub")
    names = sorted(item.name for item in path.parent.iterdir())
    assert names == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert stand_in.fetched() == ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert lines == [
        f"Fetching ast_base_audioset: model.safetensors of {stand_in.url}/{PRESET.hub_id} "
        f"(1 MB) to {tmp_path / 'hub'}"
    ]
    before = len(stand_in.requests)
    assert hub.fetch(PRESET, say=lines.append) == path
    assert len(stand_in.requests) == before  # not even a question
    assert len(lines) == 1


def test_fetch_announces_a_download_on_stderr(stand_in, capsys):
    hub.fetch(PRESET)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Fetching ast_base_audioset: ")


@pytest.mark.parametrize("how", ["unreachable", "offline"])
def test_fetch_works_without_network_once_cached(how, stand_in, constants, monkeypatch):
    path = hub.fetch(PRESET)
    stand_in.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    assert hub.fetch(PRESET) == path


def test_fetch_says_what_to_put_where_when_the_hub_is_out_of_reach(constants, tmp_path):
    started = time.monotonic()
    line = refused(PRESET)
    assert time.monotonic() - started < 5
    folder = tmp_path / "cache" / "presets"
    assert line.startswith(
        "The weights of ast_base_audioset are not on this machine, and they cannot be fetched "
        "from http://127.0.0.1:9 (ConnectError: "
    )
    assert line.endswith(
        f"). Put model.safetensors of http://127.0.0.1:9/{PRESET.hub_id} (346 MB) "
        f"at {folder}/ast_base_audioset/model.safetensors, or audioset_10_10_0.4593.pth "
        f"of https://github.com/YuanGongND/ast at {folder}/audioset_10_10_0.4593.pth"
    )


@pytest.mark.parametrize("target", ["ast_base_audioset/model.safetensors", PRESET.authors_file])
def test_fetch_finds_what_was_put_where_the_message_said(target, constants):
    line = refused(PRESET)
    path = put(pathlib.Path(re.search(rf" at (\S+/{re.escape(target)})", line)[1]))
    assert hub.fetch(PRESET) == path


def test_fetch_respects_offline_mode(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in refused(PRESET)
    assert stand_in.requests == []


def test_fetch_does_not_wait_long_for_a_hub_that_is_silent(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    stand_in.stall.clear()
    started = time.monotonic()
    assert "ReadTimeout" in refused(PRESET)
    assert time.monotonic() - started < 3  # one try
    assert len(stand_in.requests) == 1


def test_fetch_does_not_wait_long_for_a_hub_that_falls_silent(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    started = time.monotonic()
    assert "ReadTimeout" in refused(PRESET, say=lambda line: stand_in.stall.clear())
    assert time.monotonic() - started < 3
    assert stand_in.fetched() == []


@pytest.mark.parametrize("lacking", ["a repository", "its weights"])
def test_fetch_says_what_to_do_when_the_hub_does_not_have_it(lacking, stand_in):
    if lacking == "a repository":
        stand_in.files.clear()
    else:
        del stand_in.files[PRESET.hub_id, "model.safetensors"]
    line = refused(PRESET)
    assert "404" in line
    assert f"Put model.safetensors of {stand_in.url}/{PRESET.hub_id}" in line
    assert stand_in.fetched() == []


def test_fetch_takes_a_pytorch_file_from_a_repository_without_safetensors(stand_in):
    preset = PUBLISHED["deit_tiny"]
    stand_in.add(preset, filename="pytorch_model.bin")
    del stand_in.files[preset.hub_id, "preprocessor_config.json"]
    path = hub.fetch(preset)
    assert path.name == "pytorch_model.bin"
    assert hub.fetch(preset) == path
    assert stand_in.fetched() == ["config.json", "pytorch_model.bin"]


def test_fetch_leaves_nothing_of_a_download_that_breaks(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the hub's own tries
    stand_in.cut = True
    assert "RemoteProtocolError" in refused(PRESET)
    assert 1 < stand_in.fetched().count("model.safetensors") < 10
    assert not list((tmp_path / "hub").rglob("model.safetensors"))
    stand_in.cut = False
    assert hub.fetch(PRESET).read_bytes() == WEIGHTS
    assert stand_in.fetched().count("config.json") == 1  # kept from the first time


def test_fetch_refuses_content_that_is_not_the_hubs(stand_in):
    stand_in.claimed_digest = "ab" * 32
    for _ in range(2):  # when downloaded and when cached
        line = refused(PRESET)
        assert (
            f"its SHA-256 is {hashlib.sha256(WEIGHTS).hexdigest()}, the hub's {'ab' * 32}" in line
        )
    assert stand_in.fetched().count("model.safetensors") == 1
    stand_in.claimed_digest = None
    damaged = pathlib.Path(line.split("Delete ")[1].split(" and ")[0])
    damaged.unlink()
    assert hub.fetch(PRESET).read_bytes() == WEIGHTS


def test_fetch_notices_damage_in_the_hubs_cache(stand_in):
    path = hub.fetch(PRESET)
    content = bytearray(WEIGHTS)
    content[100] ^= 1
    path.resolve().write_bytes(content)
    os.utime(path, ns=(1, 1))  # some file systems count time in seconds
    assert f"Delete {path.resolve()} and fetch again" in refused(PRESET)


def test_fetch_checks_a_cache_without_links_against_the_hub(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda _: False)
    stand_in.claimed_digest = "ab" * 32
    assert "is damaged" in refused(PRESET)


def test_fetch_works_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(PRESET)
    assert "huggingface_hub cannot be imported" in line
    assert "pip install" in line
    assert "Put model.safetensors of http://127.0.0.1:9/MIT/" in line
    path = put(tmp_path / "ast_base_audioset.pth")
    assert hub.fetch(PRESET, tmp_path) == path


# From a folder.


@pytest.mark.parametrize(
    "name",
    [
        "ast_base_audioset/model.safetensors",
        "ast_base_audioset.safetensors",
        "ast_base_audioset.pth",
        "audioset_10_10_0.4593.pth",
        "ast-finetuned-audioset-10-10-0.4593/model.safetensors",
        "ast-finetuned-audioset-10-10-0.4593/pytorch_model.bin",
    ],
)
@pytest.mark.parametrize("how", ["argument", "variable", "cache"])
def test_fetch_looks_in_the_folder_first(how, name, stand_in, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "presets" if how == "cache" else tmp_path / "mine"
    path = put(folder / name)
    if how == "variable":
        monkeypatch.setenv("AST_KERAS_PRESETS", str(folder))
    assert hub.fetch(PRESET, folder if how == "argument" else None) == path
    assert stand_in.requests == []


def test_fetch_goes_on_to_the_hub_when_the_folder_lacks_the_preset(stand_in, tmp_path):
    put(tmp_path / "mine" / "ast_base_audioset_run1.pth")
    assert hub.fetch(PRESET, tmp_path / "mine").is_relative_to(tmp_path / "hub")


def test_fetch_prefers_the_folder_to_what_the_hub_left_here(stand_in, tmp_path):
    hub.fetch(PRESET)
    mine = put(tmp_path / "mine" / "ast_base_audioset.safetensors")
    assert hub.fetch(PRESET, mine.parent) == mine


@pytest.mark.parametrize("how", ["folder", "AST_KERAS_PRESETS"])
def test_fetch_rejects_a_folder_that_does_not_exist(how, stand_in, tmp_path, monkeypatch):
    missing = str(tmp_path / "typo")
    if how == "AST_KERAS_PRESETS":
        monkeypatch.setenv(how, missing)
    line = refused(PRESET, missing if how == "folder" else None)
    assert line == f"The presets folder must exist. Received: {how}={missing!r}"
    assert stand_in.requests == []


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("AST_KERAS_CACHE", "/somewhere", "/somewhere"),
        ("XDG_CACHE_HOME", "/xdg", "/xdg/ast-keras"),
        ("HOME", "/home/ann", "/home/ann/.cache/ast-keras"),
    ],
)
def test_cache_folder_follows_the_environment(variable, value, folder, monkeypatch):
    monkeypatch.delenv("AST_KERAS_CACHE")
    monkeypatch.setenv(variable, value)
    assert files.cache_folder() == pathlib.Path(folder)


# The checksum of the first use.


def test_first_use_records_the_checksum(tmp_path):
    path = put(tmp_path / "ast_base_audioset.safetensors")
    use(PRESET, tmp_path)
    record = json.loads(record_path().read_text())
    assert record["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert record["files"] == {str(path): [len(WEIGHTS), path.stat().st_mtime_ns]}


def test_file_that_was_not_usable_is_not_remembered(tmp_path):
    path = put(tmp_path / "ast_base_audioset.safetensors", WEIGHTS[:10])
    hub.fetch(PRESET, tmp_path)  # whoever reads it finds it cut short
    assert not record_path().exists()
    put(path)
    assert use(PRESET, tmp_path) == path


def test_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    path = put(tmp_path / "ast_base_audioset.safetensors")
    digests = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: digests.append(1) or real(*args))
    for _ in range(3):
        use(PRESET, tmp_path)
    assert len(digests) == 1
    os.utime(path, ns=(5, 5))
    for _ in range(2):
        use(PRESET, tmp_path)
    assert len(digests) == 2
    copy = put(tmp_path / "elsewhere" / path.name)
    for folder in (copy.parent, tmp_path) * 2:  # both are known by now
        use(PRESET, folder)
    assert len(digests) == 3


@pytest.mark.parametrize("where", ["same", "other"])
def test_other_content_under_the_same_name_is_refused(where, tmp_path):
    first = put(tmp_path / "ast_base_audioset.safetensors")
    use(PRESET, tmp_path)
    folder = tmp_path if where == "same" else tmp_path / "other"
    second = put(folder / first.name, WEIGHTS + b"more")
    line = refused(PRESET, folder)
    assert line == (
        "The file of ast_base_audioset is not the one used before under this name: its SHA-256 "
        f"is {hashlib.sha256(WEIGHTS + b'more').hexdigest()}, "
        f"recorded was {hashlib.sha256(WEIGHTS).hexdigest()}. Received: {second}. "
        f"If the change is meant, delete {record_path()}"
    )
    assert refused(PRESET, folder) == line  # the refusal recorded nothing
    record_path().unlink()
    assert use(PRESET, folder) == second


def test_another_kind_of_file_and_another_preset_have_records_of_their_own(tmp_path):
    put(tmp_path / "a" / "ast_base_audioset.safetensors")
    put(tmp_path / "b" / "ast_base_audioset.pth", b"same weights, other bytes")
    put(tmp_path / "b" / "deit_tiny.safetensors", b"other weights")
    use(PRESET, tmp_path / "a")
    use(PRESET, tmp_path / "b")
    use(PUBLISHED["deit_tiny"], tmp_path / "b")
    assert record_path(kind="pth").is_file()
    assert record_path(PUBLISHED["deit_tiny"]).is_file()


def test_record_forgets_files_that_are_gone(tmp_path):
    old = put(tmp_path / "old" / "ast_base_audioset.safetensors")
    use(PRESET, old.parent)
    old.unlink()
    new = put(tmp_path / "new" / old.name)
    use(PRESET, new.parent)
    assert list(json.loads(record_path().read_text())["files"]) == [str(new)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 1}', '{"sha256": "a", "files": 3}'])
def test_damaged_record_is_made_anew_with_a_warning(text, tmp_path, caplog):
    put(tmp_path / "ast_base_audioset.safetensors")
    put(record_path(), text.encode())
    use(PRESET, tmp_path)
    assert f"is damaged and is made anew: {record_path()}" in caplog.text
    assert json.loads(record_path().read_text())["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_cache_folder_that_cannot_be_written_warns_once(tmp_path, monkeypatch, caplog):
    # Below a file no folder can be made, not even by root.
    blocker = put(tmp_path / "file")
    monkeypatch.setenv("AST_KERAS_CACHE", str(blocker / "cache"))
    path = put(tmp_path / "ast_base_audioset.safetensors")
    for _ in range(3):
        assert use(PRESET, tmp_path) == path
    assert caplog.text.count("Checksums of presets cannot be kept in") == 1


def test_two_processes_at_once_leave_a_whole_record(tmp_path):
    folders = [tmp_path / str(number) for number in range(8)]
    paths = [put(folder / "ast_base_audioset.safetensors") for folder in folders]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        found = list(pool.map(functools.partial(use, PRESET), folders * 10))
    assert found == paths * 10
    record = json.loads(record_path().read_text())
    assert record["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert set(record["files"]) <= {str(path) for path in paths}
    assert [item.name for item in record_path().parent.iterdir()] == [record_path().name]

"""Released weights are found, downloaded and checked, with a local server in place of the hub."""

import dataclasses
import hashlib
import http.server
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
    """A local hub with files by repository and name. Large files are redirected to a storage."""

    def __init__(self):
        self.files = {}
        self.claimed_digest = None  # a false digest of the weights
        self.cut = False  # whether the connection ends in the middle of the weights
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
            (preset.hub_id, "README.md"): b"never requested",
        }

    def fetched(self):
        """Returns the names of the files whose content was requested."""
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
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(?:main|c{40})/(.+)", path)
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
    """Keeps the tests away from the network and from the user's caches."""
    for name in ("AST_KERAS_PRESETS", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AST_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture
def constants(environment, tmp_path, monkeypatch):
    """Settings of huggingface_hub, which reads the environment only on import."""
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


def refused(*args, **kwargs):
    """Returns the error of a fetch, which must be one line."""
    with pytest.raises(hub.WeightsError) as caught:
        hub.fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path, content=WEIGHTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- From the hub ---


def test_fetch_downloads_once_and_only_what_is_needed(stand_in, tmp_path):
    lines = []
    path = hub.fetch(PRESET, log=lines.append)
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
    assert hub.fetch(PRESET, log=lines.append) == path
    assert len(stand_in.requests) == before  # no request
    assert len(lines) == 1


def test_fetch_announces_a_download_in_the_log(stand_in, caplog, capsys):
    hub.fetch(PRESET)
    assert caplog.messages[0].startswith("Fetching ast_base_audioset: ")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("how", ["unreachable", "offline"])
def test_fetch_works_without_network_once_cached(how, stand_in, constants, monkeypatch):
    path = hub.fetch(PRESET)
    stand_in.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
    assert hub.fetch(PRESET) == path


def test_fetch_names_file_and_place_if_the_hub_is_unreachable(constants, tmp_path):
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
def test_fetch_finds_the_file_where_its_message_asked_for_it(target, constants):
    line = refused(PRESET)
    path = put(pathlib.Path(re.search(rf" at (\S+/{re.escape(target)})", line)[1]))
    assert hub.fetch(PRESET) == path


def test_fetch_respects_offline_mode(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in refused(PRESET)
    assert stand_in.requests == []


def test_fetch_does_not_wait_long_for_a_hub_that_does_not_answer(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    stand_in.stall.clear()
    started = time.monotonic()
    assert "ReadTimeout" in refused(PRESET)
    assert time.monotonic() - started < 3  # one try
    assert len(stand_in.requests) == 1


def test_fetch_does_not_wait_long_for_a_hub_that_stops_answering(stand_in, constants, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    started = time.monotonic()
    assert "ReadTimeout" in refused(PRESET, log=lambda line: stand_in.stall.clear())
    assert time.monotonic() - started < 3
    assert stand_in.fetched() == []


@pytest.mark.parametrize("lacking", ["a repository", "its weights"])
def test_fetch_names_file_and_place_if_the_hub_lacks_it(lacking, stand_in):
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


def test_fetch_leaves_no_partial_download(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between retries of huggingface_hub
    stand_in.cut = True
    assert "RemoteProtocolError" in refused(PRESET)
    assert 1 < stand_in.fetched().count("model.safetensors") < 10
    assert not list((tmp_path / "hub").rglob("model.safetensors"))
    stand_in.cut = False
    assert hub.fetch(PRESET).read_bytes() == WEIGHTS
    assert stand_in.fetched().count("config.json") == 1  # kept from the first time


@pytest.mark.parametrize("links", [True, False])
def test_fetch_deletes_a_download_that_is_not_the_hubs(
    links, stand_in, constants, monkeypatch, tmp_path
):
    if not links:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda _: False)
    stand_in.claimed_digest = "ab" * 32
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    for attempt in (1, 2):
        assert refused(PRESET) == (
            "The download of ast_base_audioset was damaged and has been deleted: fetch it again. "
            f"Received: SHA-256 {digest}, the hub states {'ab' * 32}"
        )
        assert stand_in.fetched().count("model.safetensors") == attempt
        assert not list((tmp_path / "hub").rglob("model.safetensors"))
    stand_in.claimed_digest = None
    assert hub.fetch(PRESET).read_bytes() == WEIGHTS


def test_fetch_asks_for_the_revision_of_the_table(stand_in, tmp_path):
    preset = dataclasses.replace(PRESET, revision="c" * 40)
    path = hub.fetch(preset)
    assert path.read_bytes() == WEIGHTS
    assert all(f"/resolve/{'c' * 40}/" in asked for _, asked in stand_in.requests)
    before = len(stand_in.requests)
    assert hub.fetch(preset) == path  # cached under the same revision
    assert len(stand_in.requests) == before


def test_fetch_works_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(PRESET)
    assert "huggingface_hub cannot be imported" in line
    assert "pip install" in line
    assert "Put model.safetensors of http://127.0.0.1:9/MIT/" in line
    path = put(tmp_path / "ast_base_audioset.pth")
    assert hub.fetch(PRESET, tmp_path) == path


# --- From a folder ---


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


def test_fetch_uses_the_hub_if_the_folder_lacks_the_preset(stand_in, tmp_path):
    put(tmp_path / "mine" / "ast_base_audioset_run1.pth")
    assert hub.fetch(PRESET, tmp_path / "mine").is_relative_to(tmp_path / "hub")


def test_fetch_prefers_the_folder_to_the_cache_of_the_hub(stand_in, tmp_path):
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

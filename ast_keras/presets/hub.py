"""Published weights on this machine: from a folder, from the hub's cache, or downloaded.

A file is given out only when its content is what the hub says it is, and what was used under the
same name before. Light to import: `huggingface_hub` loads when a folder does not settle it, and
may be missing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import logging

from ast_keras import files
from ast_keras.errors import WeightsError
from ast_keras.files import cache_folder
from ast_keras.presets.released import ReleasedWeights

_ENDPOINT = "https://huggingface.co"
_OLDER_FILENAME = "pytorch_model.bin"  # for a repository without safetensors
_BESIDE = ("config.json", "preprocessor_config.json")


def fetch(
    preset: ReleasedWeights,
    folder: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] | None = None,
) -> pathlib.Path:
    """Returns the file with a preset's weights, downloading it only when it is not here yet.

    Looked for in the presets folder, then in the cache of `huggingface_hub` (without a network),
    then on the hub; HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they mean there.
    From the hub, `config.json` and `preprocessor_config.json` come to lie beside it.

    The SHA-256 of the file first used (`remember`) is kept in the cache folder (`cache_folder`).
    Other content under the same name is refused later; a file that has not changed is not read
    again for that.

    Args:
      preset: An entry of `PUBLISHED`.
      folder: The presets folder; left out, the environment variable AST_KERAS_PRESETS or else
        `presets` in the cache folder. A preset lies there as NAME/model.safetensors,
        NAME.safetensors, NAME.pth, under its authors' file name, or in a folder called like its
        repository on the hub.
      log: Takes the line that announces a download; left out, it is printed on stderr.

    Returns:
      The path of a safetensors file or of a PyTorch file.

    Raises:
      WeightsError: If the weights are nowhere to be had (the message says which file to put where),
        the folder does not exist, or the content is not the right one.

    Example:

    >>> import tempfile, unittest.mock
    >>> from ast_keras.presets.released import PUBLISHED
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "deit_tiny.safetensors").write_bytes(b"weights")
    >>> with unittest.mock.patch.dict(os.environ, AST_KERAS_CACHE=str(folder / "cache")):
    ...     fetch(PUBLISHED["deit_tiny"], folder).name
    'deit_tiny.safetensors'
    """
    presets = _presets_folder(folder)
    etag = None
    path = _find_in_folder(preset, presets) or _find_in_hub_cache(preset)
    if path is None:
        path, etag = _download(preset, presets, log or _print)
    _require_right_content(preset, path, _digest_in_hub_cache(path) or etag)
    return path


def _presets_folder(folder: str | os.PathLike[str] | None) -> pathlib.Path:
    chosen = folder or os.environ.get("AST_KERAS_PRESETS")
    if not chosen:
        return cache_folder() / "presets"  # need not exist
    path = pathlib.Path(chosen).expanduser()
    if not path.is_dir():
        source = "folder" if folder else "AST_KERAS_PRESETS"
        raise WeightsError(f"The presets folder must exist. Received: {source}={str(path)!r}")
    return path


def _find_in_folder(preset: ReleasedWeights, folder: pathlib.Path) -> pathlib.Path | None:
    repository = preset.hub_id.rpartition("/")[2]
    candidates = (
        f"{preset.name}/{preset.filename}",
        f"{preset.name}.safetensors",
        f"{preset.name}.pth",
        preset.authors_file,
        f"{repository}/{preset.filename}",
        f"{preset.name}/{_OLDER_FILENAME}",
        f"{repository}/{_OLDER_FILENAME}",
    )
    paths = (folder / candidate for candidate in candidates)
    return next((path for path in paths if path.is_file()), None)


def _find_in_hub_cache(preset: ReleasedWeights) -> pathlib.Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for filename in (preset.filename, _OLDER_FILENAME):
        cached = try_to_load_from_cache(preset.hub_id, filename)
        if isinstance(cached, str):  # a marker stands for "known not to exist"
            return pathlib.Path(cached)
    return None


def _download(
    preset: ReleasedWeights, folder: pathlib.Path, log: Callable[[str], None]
) -> tuple[pathlib.Path, str | None]:
    """Returns the downloaded file and its SHA-256 according to the hub, where the hub says it."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _ENDPOINT
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        reason = f"huggingface_hub cannot be imported ({_line(error)}); pip install it"
        raise WeightsError(_advice(preset, folder, endpoint, reason)) from None
    # What goes wrong has another type in every version of huggingface_hub: all are caught.
    try:
        try:
            filename, found = preset.filename, _ask(hub, preset.hub_id, preset.filename, endpoint)
        except EntryNotFoundError:
            filename, found = _OLDER_FILENAME, _ask(hub, preset.hub_id, _OLDER_FILENAME, endpoint)
        log(
            f"Fetching {preset.name}: {filename} of {endpoint}/{preset.hub_id} "
            f"({_megabytes(found.size) or preset.megabytes} MB) to {constants.HF_HUB_CACHE}"
        )
        for beside in _BESIDE:  # before the weights, so that these are never without
            try:  # one try, where hf_hub_download goes on for minutes
                _ask(hub, preset.hub_id, beside, endpoint)
            except EntryNotFoundError:
                continue
            hub.hf_hub_download(preset.hub_id, beside, endpoint=endpoint)
        path = hub.hf_hub_download(preset.hub_id, filename, endpoint=endpoint)
    except Exception as error:
        reason = f"they cannot be fetched from {endpoint} ({type(error).__name__}: {_line(error)})"
        raise WeightsError(_advice(preset, folder, endpoint, reason)) from error
    etag = found.etag or ""
    return pathlib.Path(path), etag if _is_digest(etag) else None


def _ask(hub: Any, hub_id: str, filename: str, endpoint: str) -> Any:
    """Returns the hub's metadata of a file: one request, without further tries."""
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    url = hub.hf_hub_url(hub_id, filename, endpoint=endpoint)
    return hub.get_hf_file_metadata(url, timeout=HF_HUB_ETAG_TIMEOUT)


def _advice(preset: ReleasedWeights, folder: pathlib.Path, endpoint: str, reason: str) -> str:
    return (
        f"The weights of {preset.name} are not on this machine, and {reason}. "
        f"Put {preset.filename} of {endpoint}/{preset.hub_id} ({preset.megabytes} MB) "
        f"at {folder / preset.name / preset.filename}, or {preset.authors_file} "
        f"of {preset.authors_url} at {folder / preset.authors_file}"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ")


def _megabytes(size: int | None) -> int | None:
    return None if size is None else max(1, round(size / 1e6))


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_digest(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _digest_in_hub_cache(path: pathlib.Path) -> str | None:
    """Returns the SHA-256 that the hub's cache has as the name of the file a link points to."""
    if not path.is_symlink():
        return None
    blob = pathlib.Path(os.readlink(path))  # one step: what follows may be another kind of store
    return blob.name if blob.parent.name == "blobs" and _is_digest(blob.name) else None


def remember(preset: ReleasedWeights, path: pathlib.Path) -> None:
    """Records the content of a preset's file as that of the first use, once it has proved usable.

    A file that is cut short or another model's must not stand in the way of the right one.

    Args:
      preset: An entry of `PUBLISHED`.
      path: What `fetch` returned.
    """
    record_path = _record_path(preset, path)
    recorded, _ = _read_record(record_path)
    if recorded is None:
        _write_record(record_path, _digest(path), {os.path.abspath(path): _state(path)})


def _record_path(preset: ReleasedWeights, path: pathlib.Path) -> pathlib.Path:
    return cache_folder() / "checksums" / f"{preset.name}{path.suffix}.json"


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: pathlib.Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _require_right_content(
    preset: ReleasedWeights, path: pathlib.Path, hub_digest: str | None
) -> None:
    """Compares the content with the hub's and with that of the first use, where there are any."""
    record_path = _record_path(preset, path)
    recorded, seen = _read_record(record_path)
    key = os.path.abspath(path)
    state = _state(path)
    if seen.get(key) == state or (recorded is None and hub_digest is None):
        return
    digest = _digest(path)
    if hub_digest not in (None, digest):
        raise WeightsError(
            f"The file of {preset.name} is damaged: its SHA-256 is {digest}, the hub's "
            f"{hub_digest}. Delete {path.resolve()} and fetch again"
        )
    if recorded not in (None, digest):
        raise WeightsError(
            f"The file of {preset.name} is not the one used before under this name: its SHA-256 "
            f"is {digest}, recorded was {recorded}. Received: {key}. "
            f"If the change is meant, delete {record_path}"
        )
    seen = {other: value for other, value in seen.items() if os.path.exists(other)}
    _write_record(record_path, digest, {**seen, key: state})


def _write_record(record_path: pathlib.Path, digest: str, seen: dict[str, Any]) -> None:
    try:
        files.write_json(record_path, {"sha256": digest, "files": seen})
    except OSError as error:
        _warn_unwritable(record_path.parent, error.strerror or str(error))


def _read_record(path: pathlib.Path) -> tuple[str | None, dict[str, Any]]:
    """Returns the recorded SHA-256 and, by path, size and time of files known to have it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record["sha256"]), dict(record["files"])
    except OSError:
        return None, {}
    except (ValueError, KeyError, TypeError):
        logging.warning("This record of checksums is damaged and is made anew: %s", path)
        return None, {}


@functools.cache
def _warn_unwritable(folder: pathlib.Path, reason: str) -> None:
    """Warns once that later changes of a file cannot be noticed."""
    logging.warning("Checksums of presets cannot be kept in %s: %s", folder, reason)

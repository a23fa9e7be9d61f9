"""Released weights on this machine: from a folder, from the Hugging Face cache, or downloaded.

`huggingface_hub` is imported only if the folder does not hold the weights, and may be missing.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from absl import logging

from ast_keras.errors import WeightsError
from ast_keras.files import cache_folder, megabytes, one_line
from ast_keras.presets.released import ReleasedWeights

_ENDPOINT = "https://huggingface.co"
_OLDER_FILENAME = "pytorch_model.bin"  # in a repository without safetensors
_CONFIGURATION = ("config.json", "preprocessor_config.json")


def fetch(
    preset: ReleasedWeights,
    folder: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] | None = None,
) -> pathlib.Path:
    """Returns the weights file of a preset, downloading it if it is not on this machine.

    The file is looked for in the presets folder, then in the cache of `huggingface_hub` without
    using the network, then on the hub. The environment variables HF_ENDPOINT, HF_HOME, HF_TOKEN and
    HF_HUB_OFFLINE have their usual effect. `config.json` and `preprocessor_config.json` are
    downloaded with the weights. The SHA-256 of a download is compared with the one that the hub
    states.

    Args:
        preset: An entry of `PUBLISHED`.
        folder: The presets folder; None for the environment variable AST_KERAS_PRESETS, or
            `presets` in the cache folder if that is not set. The weights of a preset are found
            there as NAME/model.safetensors, NAME.safetensors, NAME.pth, under the authors' file
            name, or in a folder named after the repository on the hub.
        log: Called with the line that announces a download; None for a warning of `absl.logging`.

    Returns:
        The path of a safetensors file or of a PyTorch file.

    Raises:
        WeightsError: If the weights are not on this machine and cannot be downloaded (the message
            names the file to download by hand and where to put it), if the folder does not exist,
            or if the download is damaged.

    Example:

    >>> import tempfile
    >>> from ast_keras.presets.released import PUBLISHED
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "deit_tiny.safetensors").write_bytes(b"weights")
    >>> fetch(PUBLISHED["deit_tiny"], folder).name
    'deit_tiny.safetensors'
    """
    presets = _presets_folder(folder)
    found = _find_in_folder(preset, presets) or _find_in_hub_cache(preset)
    # At warning level, because a download of hundreds of megabytes must not start silently.
    return found or _download(preset, presets, log or logging.warning)


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
        cached = try_to_load_from_cache(preset.hub_id, filename, revision=preset.revision)
        # The result is None if the file is not in the cache, and a marker object if the cache knows
        # that the repository does not have it.
        if isinstance(cached, str):
            return pathlib.Path(cached)
    return None


def _download(
    preset: ReleasedWeights, folder: pathlib.Path, log: Callable[[str], None]
) -> pathlib.Path:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _ENDPOINT
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        reason = f"huggingface_hub cannot be imported ({one_line(error)}); pip install it"
        raise WeightsError(_advice(preset, folder, endpoint, reason)) from None
    # All errors are caught, because their types differ between versions of huggingface_hub.
    try:
        try:
            filename, found = preset.filename, _metadata(preset, preset.filename, endpoint)
        except EntryNotFoundError:
            filename, found = _OLDER_FILENAME, _metadata(preset, _OLDER_FILENAME, endpoint)
        size = preset.megabytes if found.size is None else megabytes(found.size)
        log(
            f"Fetching {preset.name}: {filename} of {endpoint}/{preset.hub_id} "
            f"({size} MB) to {constants.HF_HUB_CACHE}"
        )

        def download(name: str) -> pathlib.Path:
            return pathlib.Path(
                hub.hf_hub_download(
                    preset.hub_id, name, revision=preset.revision, endpoint=endpoint
                )
            )

        # Before the weights, which would be misread without these files.
        for name in _CONFIGURATION:
            try:  # a single request, because hf_hub_download retries for minutes
                _metadata(preset, name, endpoint)
            except EntryNotFoundError:
                continue
            download(name)
        path = download(filename)
    except Exception as error:
        reason = (
            f"they cannot be fetched from {endpoint} ({type(error).__name__}: {one_line(error)})"
        )
        raise WeightsError(_advice(preset, folder, endpoint, reason)) from error
    _require_digest(preset, path, found.etag or "")
    return path


def _metadata(preset: ReleasedWeights, filename: str, endpoint: str) -> Any:
    """Returns the hub's metadata of a file, with a single request."""
    import huggingface_hub as hub
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

    url = hub.hf_hub_url(preset.hub_id, filename, revision=preset.revision, endpoint=endpoint)
    return hub.get_hf_file_metadata(url, timeout=HF_HUB_ETAG_TIMEOUT)


def _advice(preset: ReleasedWeights, folder: pathlib.Path, endpoint: str, reason: str) -> str:
    return (
        f"The weights of {preset.name} are not on this machine, and {reason}. "
        f"Put {preset.filename} of {endpoint}/{preset.hub_id} ({preset.megabytes} MB) "
        f"at {folder / preset.name / preset.filename}, or {preset.authors_file} "
        f"of {preset.authors_url} at {folder / preset.authors_file}"
    )


def _require_digest(preset: ReleasedWeights, path: pathlib.Path, etag: str) -> None:
    """Compares a download with the hub's SHA-256, which is the ETag of a large file."""
    if not re.fullmatch("[0-9a-f]{64}", etag):
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        path.resolve().unlink()  # so that the next attempt downloads it again
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"The download of {preset.name} was damaged and has been deleted: fetch it again. "
            f"Received: SHA-256 {digest}, the hub states {etag}"
        )

"""Readers of weights files: `read_tensors` detects the format from the content.

| module | format |
|---|---|
| `safetensors` | safetensors, reading and writing |
| `torch` | both formats of `torch.save` |
| `torch_pickle` | the pickle inside a PyTorch file |
| `torch_zip` | the zip file around it |
| `tf_checkpoint` | TensorFlow checkpoints |
| `tf_checkpoint_index` | the index of a TensorFlow checkpoint |

Weights files come from the internet. A damaged or hostile file ends in a `WeightsError`: it runs no
code, and it takes little time and memory. Only `tf_checkpoint` imports TensorFlow, when it is used.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any

from ast_keras.errors import WeightsError
from ast_keras.weights.readers.safetensors import Array, map_file, read_safetensors
from ast_keras.weights.readers.torch import LEGACY_MAGIC, read_torch_file
from ast_keras.weights.readers.torch_zip import ZIP_MAGIC

# The files that transformers looks for, in its order.
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
KERAS = (
    "is a Keras file: from_preset takes files of model.save named .keras, and whole folders of "
    "saved models; load those of save_weights with model.load_weights"
)
# Files that are often found in place of weights, by their first characters (in lower case).
FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself with git lfs pull",
    b"<!doctype": "is a web page, such as a download error: fetch the file again",
    b"<html": "is a web page, such as a download error: fetch the file again",
    b"<?xml": "is an XML response, such as a download error: fetch the file again",
    b"\x89hdf\r\n": KERAS,
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
}
CHECKPOINT_SUFFIX = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
MAX_INDEX_BYTES = 4 << 20


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Reads every tensor of a weights file, or of the weights file in a folder.

    The format is detected from the content, not from the suffix: safetensors, both formats of
    `torch.save`, and TensorFlow checkpoints. A checkpoint is named by the common prefix of its
    files (`ckpt-1`) or by its folder. In a folder, the files of transformers (`model.safetensors`
    or `pytorch_model.bin`, complete or in several parts with an index) come first, then the only
    file with one of `SUFFIXES`, then a TensorFlow checkpoint.

    Args:
        path: A file, a folder, or the prefix of a checkpoint.

    Returns:
        The arrays by name.

    Raises:
        WeightsError: If there is no weights file, more than one, or one that cannot be read.

    Example:

    >>> import numpy as np, tempfile
    >>> from ast_keras.weights.readers.safetensors import write_safetensors
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> write_safetensors(folder / "model.safetensors", {"norm.bias": np.zeros(3, "float32")})
    >>> read_tensors(folder)
    {'norm.bias': array([0., 0., 0.], dtype=float32)}
    """
    if os.path.isdir(path):
        return _read_folder(pathlib.Path(path))
    prefix = CHECKPOINT_SUFFIX.sub("", os.fspath(path))
    is_part = prefix != os.fspath(path) or not os.path.exists(path)
    if is_part and os.path.isfile(f"{prefix}.index"):
        return _read_checkpoint(path)
    if not os.path.exists(path):
        raise WeightsError(f"There is no weights file here. Received: {path}")
    if os.fspath(path).endswith(".index.json"):
        return _read_parts(pathlib.Path(path))
    return _read_file(path)


def _read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Array]:
    from ast_keras.weights.readers.tf_checkpoint import read_checkpoint  # needs TensorFlow

    return read_checkpoint(path)


def _read_folder(folder: pathlib.Path) -> dict[str, Array]:
    for name in NAMES:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise WeightsError(
            f"The folder cannot be read: {error.strerror}. Received: {folder}"
        ) from None
    found = [file for file in files if file.suffix in SUFFIXES]
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise WeightsError(
            f"The folder holds {len(found)} weights files ({names}): name one of them. "
            f"Received: {folder}"
        )
    if found:
        return _read_file(found[0])
    if any(file.suffix == ".index" for file in files):
        return _read_checkpoint(folder)
    if any(file.name.endswith((".weights.h5", ".keras")) for file in files):
        raise WeightsError(f"The folder holds a file that {KERAS}. Received: {folder}")
    raise WeightsError(
        f"The folder holds no weights: neither {NAMES[0]}, nor {NAMES[2]}, nor a file with the "
        f"suffix {', '.join(SUFFIXES)}, nor a TensorFlow checkpoint. Received: {folder}"
    )


def _read_file(path: str | os.PathLike[str]) -> dict[str, Array]:
    with map_file(path) as data:
        head = data[:512]
    name = head[30:60]  # of a zip file's first member
    text = head.lstrip().lower()
    reason = next((why for mark, why in FOREIGN.items() if text.startswith(mark)), None)
    if head.startswith(ZIP_MAGIC) and name.startswith((b"metadata.json", b"config.json")):
        reason = KERAS
    if reason:
        raise WeightsError(f"This file {reason}. Received: {path}")
    if head.startswith(ZIP_MAGIC) or LEGACY_MAGIC.to_bytes(10, "little") in head[:64]:
        return read_torch_file(path)
    if head[8:9] == b"{":
        return read_safetensors(path)
    raise WeightsError(
        f"The file is neither safetensors, nor a PyTorch file, nor a TensorFlow checkpoint: it "
        f"begins with {head[:12]!r}. Received: {path}"
    )


def _read_parts(index: pathlib.Path) -> dict[str, Array]:
    """Reads tensors from several files in one folder, which an index lists."""
    with map_file(index) as data:
        text = data[: MAX_INDEX_BYTES + 1]
    try:
        files = _parts(json.loads(text.decode()))
    except (ValueError, RecursionError):
        raise WeightsError(
            "The index of a weights file in parts must be JSON with a weight_map from tensors to "
            f"files in the same folder, of up to {MAX_INDEX_BYTES} bytes. Received: {index}"
        ) from None
    tensors: dict[str, Array] = {}
    for name, expected in files.items():
        part = _read_file(index.with_name(name))
        if wrong := expected ^ part.keys():
            raise WeightsError(
                f"Part {name} and the index disagree on {len(wrong)} tensors, such as "
                f"{min(wrong)!a}: check that all files belong to one model. Received: {index}"
            )
        tensors |= part
    return tensors


def _parts(index: Any) -> dict[str, set[str]]:
    """Returns the tensors of each file; raises ValueError if the index is malformed."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError
    files: dict[str, set[str]] = {}
    for tensor, file in places.items():
        # Only files in the folder of the index, whatever path it states.
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise ValueError
        files.setdefault(file, set()).add(tensor)
    return files

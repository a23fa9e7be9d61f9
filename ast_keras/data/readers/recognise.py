"""Recognises the kind of a data set by its files: what `kind="auto"` stands for."""

from __future__ import annotations

import os
import re

from ast_keras.data.readers.annotations import is_annotated_folder, is_annotation_file
from ast_keras.data.readers.audio_folder import is_audio, subfolders
from ast_keras.errors import DatasetError


def recognise(path: str) -> str:
    """Returns the kind of data set at a path, a key of `READERS`, judged by its files.

    Args:
        path: Path of a CSV manifest or of a folder; `~` is expanded.

    Raises:
        DatasetError: If there is no file or folder at the path, or it is a single sound.

    Example:

    >>> recognise("sounds.csv")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: There is no such file or folder. Received: sounds.csv
    """
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise DatasetError(f"There is no such file or folder. Received: {path}")
    if not os.path.isdir(path):
        if is_audio(os.path.basename(path)):
            raise DatasetError(
                "Data is a folder with a folder for each class, or a CSV with the columns "
                f"path,labels, and not one sound. Received: {path}"
            )
        if is_annotation_file(path):
            return "annotations"
        return "audioset" if _is_clip_list(path) else "manifest"
    names = set(os.listdir(path))
    if os.path.isfile(os.path.join(path, "meta", "esc50.csv")):
        return "esc50"
    if {"validation_list.txt", "testing_list.txt"} <= names:
        return "speech_commands"
    if any(name.endswith("_segments.csv") for name in names):
        return "audioset"
    if _is_built(path):
        return "built"
    return "annotations" if is_annotated_folder(path) else "folders"


def _is_clip_list(path: str) -> bool:
    """Returns whether a file is a list of AudioSet's clips, and not a manifest of that name."""
    if path.lower().endswith(".json"):
        return True
    if not path.lower().endswith("_segments.csv"):
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        header = next((line for line in lines if line.strip()), "").lower()
    first = re.split(r"[,;\t]", header)[0].strip('" \n')
    return bool(first.startswith("#") or "ytid" in first or re.fullmatch(r"[\w-]{11}", first))


def _is_built(path: str) -> bool:
    """Returns whether tensorflow-datasets wrote the folder or one up to two levels below it."""
    roots = [path]
    for folder in (path, *(os.path.join(path, name) for name in subfolders(path))):
        roots += [os.path.join(folder, name) for name in subfolders(folder)]
    return any(os.path.isfile(os.path.join(root, "dataset_info.json")) for root in roots)

"""Decoding of what libsndfile cannot read, such as AAC and video files, by the `ffmpeg` command.

The environment variable `AST_KERAS_FFMPEG` names another command, or is `off`.
"""

from __future__ import annotations

import functools
import os
import shutil

from ast_keras.errors import ArgumentError

# Suffixes of formats that only ffmpeg reads. The content of a file decides how it is read.
# fmt: off
FFMPEG_SUFFIXES: tuple[str, ...] = (
    ".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2",
    ".aac", ".adts", ".ac3", ".eac3", ".dts", ".amr", ".awb", ".wma", ".asf", ".wmv",
    ".webm", ".weba", ".mka", ".mkv", ".avi", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".mts",
    ".m2ts", ".ogv", ".spx", ".ape", ".wv", ".tta", ".dsf",
)
# fmt: on
_SETTING = "AST_KERAS_FFMPEG"


def ffmpeg_command() -> str | None:
    """Returns the path of the ffmpeg command, or None if there is none or it is switched off.

    Raises:
        ArgumentError: If `AST_KERAS_FFMPEG` names a command that does not exist.
    """
    return _find_command(os.environ.get(_SETTING, "ffmpeg"))


@functools.cache
def _find_command(setting: str) -> str | None:
    if setting.lower() in ("off", "0"):
        return None
    command = shutil.which(setting)
    if command is None and setting != "ffmpeg":
        raise ArgumentError(
            "The variable must be the path of an ffmpeg command, or off. "
            f"Received: {_SETTING}={setting}"
        )
    return command

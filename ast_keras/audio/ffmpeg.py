"""Sounds that libsndfile cannot read and the `ffmpeg` command can."""

from __future__ import annotations

import os
import shutil

FFMPEG_SUFFIXES: tuple[str, ...] = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mov", ".amr")


def ffmpeg_command() -> str | None:
    """Returns the path of the `ffmpeg` command, or None if there is none or it is switched off."""
    return None if os.environ.get("AST_KERAS_FFMPEG") == "off" else shutil.which("ffmpeg")

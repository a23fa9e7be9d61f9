"""What command lines that are given sounds share."""

from __future__ import annotations

import pathlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from ast_keras.data.readers.audio_folder import is_audio
from ast_keras.errors import AudioWarning, CommandError


def sound_files(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the files that a command line names, those in folders too.

    Raises:
      CommandError: If there is no sound in a folder.
    """
    for argument in arguments:
        path = pathlib.Path(argument)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if is_audio(p.name) and p.is_file())
            if not inside:
                raise CommandError(f"There are no sounds in this folder. Received: {argument}")
            yield from inside
        else:
            yield argument


def show_audio_warnings() -> None:
    """Prints warnings about sounds as one line each on standard error."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, AudioWarning):
            print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show

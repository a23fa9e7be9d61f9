"""Inputs of commands: sound files and the model."""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ast_keras.data.left_out import left_out_notes
from ast_keras.data.readers.audio_folder import SoundTree
from ast_keras.errors import ArgumentError, AudioError, CommandError
from ast_keras.progress import print_line

STDIN = "-"  # as the path of a file: standard input


def sound_files(arguments: Iterable[str]) -> Iterator[str]:
    """Yields the sound files that a command line names; a folder stands for the files in it.

    Files in a folder that look like sounds and cannot be read are counted on standard error.

    Args:
        arguments: Paths of files and folders. Other arguments pass through unchanged.

    Raises:
        CommandError: If a folder contains no sound file that can be read.
        DatasetError: If a folder cannot be listed.
    """
    for argument in arguments:
        path = pathlib.Path(argument)
        if not path.is_dir():
            yield argument
            continue
        tree = SoundTree.scan(argument)
        notes = [*left_out_notes(tree.left_out)]
        if not tree.sounds:
            raise CommandError(
                "The folder contains no sound files that can be read. "
                f"Received: {'; '.join([argument, *notes])}"
            )
        for note in notes:
            print_line(f"warning: {argument}: {note}")
        yield from sorted(str(path / sound) for sound in tree.sounds)


def open_input(read: Callable[[str], Iterator[Any]]) -> Callable[[str], Iterator[Any]]:
    """Returns a function like `read` that also accepts `STDIN` as the path.

    Args:
        read: Function that yields the content of a sound file, given its path.
    """

    def read_any(path: str) -> Iterator[Any]:
        if path != STDIN:
            yield from read(path)
            return
        # Decoders seek, and memory must stay bounded: standard input is copied to a file.
        with tempfile.NamedTemporaryFile(suffix=".sound") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            try:
                yield from read(copy.name)
            except AudioError as error:
                message = str(error).replace(repr(copy.name), "standard input")
                raise type(error)(message) from None

    return read_any


def load_model(name: str, padding: str | None = None) -> Any:
    """Loads the model of `--model` and `--padding`. Imports TensorFlow.

    Args:
        name: A name or path that `from_preset` accepts.
        padding: "original" or "masked"; None for the mode of the saved model.

    Returns:
        An `ASTClassifier` with a frontend.

    Raises:
        WeightsError: If the model cannot be loaded.
        ArgumentError: If the model takes spectrograms.
    """
    from ast_keras.presets.loading import from_preset

    model: Any = from_preset(name) if padding is None else from_preset(name, padding=padding)
    try:
        model.require_frontend()
    except ArgumentError as error:
        raise ArgumentError(f"{error} of {name}") from None
    return model


def stored_thresholds(model: Any, threshold: float | None) -> list[float] | None:
    """Returns the thresholds stored with a model, and says on standard error that they are used.

    Args:
        model: An `ASTClassifier`.
        threshold: Value of `--threshold`, which takes precedence over them.

    Returns:
        One threshold for each class; None if there are none, or others are used.
    """
    if model.thresholds is None or threshold is not None:
        return None
    print_line(
        "The thresholds stored with the model decide what is listed; --threshold=0 lists all."
    )
    return list(model.thresholds)

"""Resume log of a batch command: the results of the items that are finished."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from ast_keras.errors import CommandError
from ast_keras.presets.saved_paths import TASK_WEIGHTS, saved_model_path

Row = dict[str, Any]


class ResumeLog:
    """Stores the results of finished items, so that an interrupted command can resume.

    The log is the file `OUTPUT.journal` next to the output. Its first line holds the settings, each
    further line the result of one item, as JSON.

    Args:
        output: Path of the final output.
        settings: Everything except the items that the results depend on, as JSON values.

    Attributes:
        done: The logged results, by item.
        path: Path of the log.

    Raises:
        CommandError: If there is a log with other settings.

    Example:

    >>> import tempfile
    >>> output = pathlib.Path(tempfile.mkdtemp(), "result.json")
    >>> log = ResumeLog(output, {"model": "a"})
    >>> log.add("x.wav", {"score": 0.5})
    >>> ResumeLog(output, {"model": "a"}).done
    {'x.wav': {'score': 0.5}}
    """

    def __init__(self, output: str | os.PathLike[str], settings: Row) -> None:
        target = pathlib.Path(output)
        self.path = target.with_name(f"{target.name}.journal")
        self.done: dict[str, Row] = {}
        lines = self._read()
        if lines and lines[0] != settings:
            raise CommandError(
                "The resume log holds results of a command with other flags: repeat those flags "
                f"to resume it, or delete the log. Received: {self.path}"
            )
        self.done = {line["item"]: line["result"] for line in lines[1:]}
        target.parent.mkdir(parents=True, exist_ok=True)
        # The log is rewritten: appending to a line that a kill cut short would corrupt the next.
        whole = [settings, *({"item": i, "result": r} for i, r in self.done.items())]
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        os.replace(part, self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def add(self, item: str, result: Row) -> None:
        """Logs the result of one item."""
        self.done[item] = result
        self._file.write(json.dumps({"item": item, "result": result}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Deletes the log; call it after the output is written."""
        self._file.close()
        self.path.unlink()

    def _read(self) -> list[Row]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break  # cut short by a kill; only the last line can be
        return lines


def file_key(path: str) -> str:
    """Returns the key of a file in a resume log. A file that changes gets another key.

    Args:
        path: Path of the file.
    """
    with contextlib.suppress(OSError):
        status = pathlib.Path(path).stat()
        return f"{path} {status.st_size} {status.st_mtime_ns}"
    return path


def weights_key(model: str) -> list[int]:
    """Returns the size and time of a saved model's weights, which change when it is trained again.

    Args:
        model: Path of a saved model, or the name of a preset, for which the key is empty.
    """
    path = pathlib.Path(saved_model_path(model))
    with contextlib.suppress(OSError):
        status = (path if path.is_file() else path / TASK_WEIGHTS).stat()
        return [status.st_size, status.st_mtime_ns]
    return []

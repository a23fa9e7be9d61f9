"""Results of a long command, kept as they come, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from ast_keras.errors import CommandError

Row = dict[str, Any]


class ResumeLog:
    """A file beside the result to come, with one line of JSON for each item that is done.

    Args:
      output: The result's path; the journal is `OUTPUT.journal`, which `close` removes.
      settings: All that the results depend on but the items themselves; plain values.

    Attributes:
      done: The results so far by item.

    Raises:
      CommandError: If there is a journal of other settings.

    Example:

    >>> import tempfile
    >>> output = pathlib.Path(tempfile.mkdtemp(), "result.json")
    >>> journal = ResumeLog(output, {"model": "a"})
    >>> journal.add("x.wav", {"score": 0.5})
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
                "A journal holds results of another command: give the same flags to go on with "
                f"it, or remove it. Received: {self.path}"
            )
        self.done = {line["item"]: line["result"] for line in lines[1:]}
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written anew: a line that a kill left half written would spoil the next.
        whole = [settings, *({"item": i, "result": r} for i, r in self.done.items())]
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        os.replace(part, self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def add(self, item: str, result: Row) -> None:
        """Keeps the result of one item."""
        self.done[item] = result
        self._file.write(json.dumps({"item": item, "result": result}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Removes the journal, when the result is written."""
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
                break  # the last one, half written
        return lines

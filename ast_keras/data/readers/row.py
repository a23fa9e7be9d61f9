"""`Row`: one example of a table or annotation file."""

from __future__ import annotations

from dataclasses import dataclass

from ast_keras.data.segment import Segment


@dataclass(frozen=True)
class Row:
    """One example of a table or annotation file.

    Args:
        file: The table or annotation file.
        line: Number of its line.
        path: Path of the recording.
        labels: Names of its labels.
        start_seconds: Start of its span; None if the example is the whole recording.
        end_seconds: End of its span; None is the end of the recording.
        split: Name of its split; empty if the file names none.
        fold: Number of its fold; None if the file names none.
        group: Group that must not be in two splits; empty if the file names none.
    """

    file: str
    line: int
    path: str
    labels: tuple[str, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None
    split: str = ""
    fold: int | None = None
    group: str = ""

    @property
    def place(self) -> str:
        """File and line, for errors."""
        return f"{self.file} line {self.line}"

    @property
    def source(self) -> str | Segment:
        """What the example decodes."""
        if self.start_seconds is None:
            return self.path
        return Segment(self.path, self.start_seconds, self.end_seconds)

"""The loop over many files: what it writes on standard error, in a log and on a terminal."""

import io
import re

import pytest

from ast_keras.commands import progress
from ast_keras.commands.batch import process_files
from ast_keras.errors import AudioError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def read(path):
    if path == "bad":
        raise AudioError("The audio cannot be decoded.\nReceived: bad")
    yield 0, [0.0] * 8


def run(paths, process=lambda path, segments: len(list(segments))):
    return dict(process_files(paths, read, process, sample_rate=8, jobs=1))


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_short_run_prints_only_the_errors(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    assert run(["a", "bad", "c"]) == {"a": 1, "c": 1}
    assert stream.getvalue() == "error: The audio cannot be decoded. Received: bad\n"


def test_error_is_a_line_of_its_own_beside_a_bar_and_the_file_counts(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    counts = []
    update = progress.ProgressBar.update
    monkeypatch.setattr(
        progress.ProgressBar,
        "update",
        lambda bar, count=1, text="": (counts.append(count), update(bar, count, text))[1],
    )
    run(["a", "bad", "c"])
    text = stream.getvalue()
    assert re.search(r"\rerror: The audio cannot be decoded\. Received: bad\n", text)
    assert "0/3" in text
    assert sum(counts) == 3
    assert text.endswith("\r")  # the bar is removed


def test_bar_is_removed_when_an_exception_leaves_the_loop(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)

    def fail(path, segments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(["a"], fail)
    assert stream.getvalue().endswith("\r")

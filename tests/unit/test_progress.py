"""Progress of a long task: a bar on a terminal, a line every ten seconds in a log."""

import io

import pytest

from ast_keras import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def run(clock, monkeypatch, stream, **settings):
    """Processes 25 units in 25 seconds."""
    monkeypatch.setattr("sys.stderr", stream)
    with progress.ProgressBar(25, " files", **settings) as bar:
        for number in range(25):
            clock.now += 1
            bar.update(text=f"{number}.wav")
    return stream.getvalue()


def test_log_has_a_line_every_ten_seconds(clock, monkeypatch):
    first, second = run(clock, monkeypatch, io.StringIO()).splitlines()
    assert first.startswith("40% 10/25 [00:10<00:15,  1.00 files/s, 9.wav]")
    assert second.startswith("80% 20/25 [00:20<00:05,")


def test_terminal_shows_a_bar_after_the_delay(clock, monkeypatch):
    text = run(clock, monkeypatch, Terminal(), delay_seconds=20)
    assert "\r" in text
    assert "\n" not in text
    assert "20/25" in text
    assert "19/25" not in text
    assert run(clock, monkeypatch, Terminal(), delay_seconds=30) == ""


def test_quiet_progress_writes_nothing(clock, monkeypatch):
    assert run(clock, monkeypatch, Terminal(), quiet=True) == ""
    assert run(clock, monkeypatch, io.StringIO(), quiet=True) == ""

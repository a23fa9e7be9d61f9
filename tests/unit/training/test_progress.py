"""Progress lines in a log and on a terminal."""

import io
import re

from ast_keras.training.progress import Progress

ROW = {"epoch": 1, "train_loss": 0.5, "learning_rate": 1e-3, "accuracy": 0.75}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train_two_steps(stream, quiet=False):
    progress = Progress(stream, quiet)
    progress.start("esc10", num_epochs=2, steps_per_epoch=2, batch_size=8)
    for step in (1, 2):
        progress.update(step, loss=0.5, learning_rate=1e-3)
    progress.epoch(ROW, metric="accuracy", is_best=True)
    progress.stop()
    return stream.getvalue()


def test_log_has_one_line_in_ten_seconds():
    lines = train_two_steps(io.StringIO()).splitlines()
    assert lines[0] == "esc10"
    pattern = (
        r"epoch   1/2  step 1/2  loss 0\.5000  rate 1\.00e-03  [\d.]+ examples/s  \d\d:\d\d left"
    )
    assert re.fullmatch(pattern, lines[1])
    assert lines[2] == "epoch   1/2  loss 0.5000  rate 1.00e-03  accuracy 0.7500  *best"
    assert len(lines) == 3


def test_terminal_shows_a_bar_and_keeps_the_lines():
    text = train_two_steps(Terminal())
    assert "\r" in text
    assert "epoch   1/2  step 2/2" in text
    assert re.search(r"epoch   1/2  loss 0\.5000 .*\*best\n", text)


def test_quiet_progress_writes_nothing():
    assert train_two_steps(io.StringIO(), quiet=True) == ""
    assert train_two_steps(Terminal(), quiet=True) == ""

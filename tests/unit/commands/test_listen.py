"""`ast_keras.listen`: a line per result, from a file or from the microphone."""

import io
import os
import signal
import subprocess
import sys
import threading

import pytest
import soundfile

from ast_keras.commands.flags import parse_options
from ast_keras.listen import Options, main
from tests.helpers.audio import RATE, noise
from tests.helpers.models import saved_classifier
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def saved():
    return str(saved_classifier(num_frames=310))


def test_command_prints_a_line_per_result(saved, tmp_path, capsys):
    soundfile.write(tmp_path / "sound.wav", 0.1 * noise(3 * RATE + 1000), RATE)
    line = ["--model", saved, "--file", str(tmp_path / "sound.wav"), "--hop_seconds", "0.5"]
    assert main(parse_options(Options, [*line, "--fast"])) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:2] == ["0.0", "0.5"]
    assert lines[-1].split()[1] == "3.1"
    assert printed.err.splitlines()[-1] == "Processed 3.1 s."


class Microphone:
    """Replaces `sounddevice`: noise from a thread of its own, as PortAudio gives it."""

    def InputStream(self, samplerate, blocksize, channels, dtype, callback):
        assert (samplerate, blocksize, channels, dtype) == (RATE, 1600, 1, "float32")
        self.callback, self.stopped = callback, threading.Event()
        return self

    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()

    def __exit__(self, *error):
        self.stopped.set()

    def play(self):
        while not self.stopped.wait(0.02):
            self.callback(0.1 * noise((1600, 1)).astype("float32"), 1600, None, None)


class CtrlCAfterThreeLines(io.StringIO):
    """A standard output that interrupts the process after three lines."""

    def write(self, text):
        super().write(text)
        if "\n" in text and self.getvalue().count("\n") == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_command_classifies_the_microphone_until_it_is_stopped(saved, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone())
    output = CtrlCAfterThreeLines()
    monkeypatch.setattr("sys.stdout", output)
    assert main(parse_options(Options, ["--model", saved, "--threshold", "0.99"])) == 0
    lines = output.getvalue().splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["0.0", "1.0"], ["0.0", "2.0"]]
    assert "(" in lines[0]  # the best class, below the threshold
    assert "Processed " in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_a_process_that_reads_a_file(saved, tmp_path):
    soundfile.write(tmp_path / "sound.wav", 0.1 * noise(60 * RATE), RATE)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ast_keras.listen", "--model", saved),
            *("--file", str(tmp_path / "sound.wav")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert line.split()[:2] == ["0.0", "1.0"], (line, errors)
    assert errors.splitlines()[-1].startswith("Processed "), errors
    assert process.returncode == 0

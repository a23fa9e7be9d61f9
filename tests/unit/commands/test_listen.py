"""`ast_keras.listen`: a line per result, from a file or from the microphone."""

import os
import signal
import subprocess
import sys

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


def test_command_classifies_the_microphone_until_it_is_stopped(saved, tmp_path):
    # A replacement of sounddevice: noise from a thread of its own, as PortAudio gives it.
    (tmp_path / "sounddevice.py").write_text(
        """
import threading, time
import numpy as np

class InputStream:
    def __init__(self, samplerate, blocksize, channels, dtype, callback):
        assert (samplerate, blocksize, channels, dtype) == (16000, 1600, 1, "float32")
        self.callback = callback

    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()

    def __exit__(self, *error):
        pass

    def play(self):
        while True:
            self.callback(np.random.rand(1600, 1).astype("float32"), 1600, None, None)
            time.sleep(0.02)
"""
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "ast_keras.listen", "--model", saved, "--threshold", "0.99"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
    )
    for _ in range(5):
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert line.split()[:2] == ["2.0", "5.0"], (line, errors)
    assert "(" in line  # the best class, below the threshold
    assert errors.splitlines()[-1].startswith("Processed "), errors
    assert process.returncode == 0

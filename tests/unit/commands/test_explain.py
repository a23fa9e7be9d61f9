"""`ast_keras.explain`: pictures and a page in one file."""

import re
import subprocess
import sys

import pytest
import soundfile

from ast_keras.commands.flags import parse_options
from ast_keras.commands.runner import run_command
from ast_keras.explain import Options, main
from tests.helpers.audio import RATE, noise
from tests.helpers.models import saved_classifier
from tests.helpers.paths import ROOT


@pytest.fixture
def line(tmp_path):
    soundfile.write(tmp_path / "my sound.wav", 0.1 * noise(RATE), RATE)
    return [
        *("--model", str(saved_classifier()), "--method", "rollout", "--class", "1"),
        *("--output", str(tmp_path / "out"), str(tmp_path / "my sound.wav")),
    ]


def test_command_writes_pictures_and_a_page_without_links(line, tmp_path, capsys):
    assert main(parse_options(Options, line)) == 0
    output = tmp_path / "out"
    names = sorted(path.name for path in output.iterdir())
    assert names == ["my sound-class_1.png", "my sound.html"]
    html = (output / "my sound.html").read_text()
    assert html.count("data:image/png;base64,") == 1
    assert html.count("data:audio/flac;base64,") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert capsys.readouterr().out.splitlines() == [str(output / name) for name in names]


def test_missing_file_is_reported_in_one_line(line, tmp_path, capsys):
    line[-1] = str(tmp_path / "gone.wav")
    assert run_command(main, parse_options(Options, line)) == 1
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]*gone\.wav[^\n]*\n", errors), errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_installed_command_runs(line, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ast_keras.explain", *line],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "out" / "my sound.html").exists()

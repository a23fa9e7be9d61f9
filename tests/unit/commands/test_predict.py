"""`ast_keras.predict`: folders, standard input, formats, resuming, memory."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import soundfile
from absl import flags

from ast_keras import predict
from ast_keras.commands.flags import parse_options
from ast_keras.commands.resume import ResumeLog
from ast_keras.commands.runner import run_command
from ast_keras.inference.formats import as_csv
from ast_keras.inference.predictor import Predictor, Windows
from tests.helpers.audio import RATE, noise
from tests.helpers.models import saved_classifier, tiny_classifier
from tests.helpers.paths import ROOT

WINDOWS = ("--window_seconds", "1", "--hop_seconds", "0.5")
SETTINGS = {"score_activation": "sigmoid"}


@pytest.fixture(scope="module")
def saved():
    return str(saved_classifier(**SETTINGS))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "a.wav"
    soundfile.write(path, 0.3 * noise(round(5.6 * RATE)), RATE)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four sound files, one that is not audio, one with NaN, one that is truncated."""
    path = tmp_path_factory.mktemp("sounds")
    for number in range(4):
        soundfile.write(path / f"{number}.wav", 0.3 * noise((2 + number) * RATE), RATE)
    (path / "bad.wav").write_text("no sound")
    samples = noise(3 * RATE)
    samples[30_000] = np.nan
    soundfile.write(path / "nan.wav", samples, RATE, subtype="FLOAT")
    whole = (path / "3.wav").read_bytes()
    (path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return str(path)


@pytest.fixture
def command(saved, capsys, recwarn):
    """Runs the command in this process; returns its status, output and errors."""

    def run(*line):
        options = parse_options(predict.Options, ["--model", saved, *map(str, line)])
        status = run_command(predict.main, options)
        printed = capsys.readouterr()
        return status, printed.out, printed.err + "".join(f"{w.message}\n" for w in recwarn)

    return run


def test_folder_is_processed_and_unreadable_files_are_skipped(command, folder, tmp_path):
    output = tmp_path / "out.json"
    status, _, errors = command(folder, *WINDOWS, "--format", "json", "--output", output)
    assert status == 1
    assert "error: The audio cannot be decoded" in errors
    assert "error: The samples must be finite" in errors
    assert "The file is cut short" in errors
    rows = json.loads(output.read_text())
    assert [pathlib.Path(row["file"]).name for row in rows] == [
        *("0.wav", "1.wav", "2.wav", "3.wav", "cut.wav")
    ]
    assert [row["seconds"] for row in rows] == [2.0, 3.0, 4.0, 5.0, 2.499]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_interrupted_command_resumes_with_the_same_flags_only(
    command, folder, tmp_path, monkeypatch
):
    arguments = (folder, *WINDOWS, "--format", "csv", "--output", tmp_path / "out.csv")
    _, expected, _ = command(*arguments[:-2])
    add, added = ResumeLog.add, []

    def interrupt_after_two(log, item, result):
        add(log, item, result)
        added.append(item)
        if len(added) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumeLog, "add", interrupt_after_two)
        status, _, _ = command(*arguments)
    assert status == 128 + signal.SIGINT
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.journal"]
    _, _, errors = command(*arguments, "--top", "2")
    assert "error: The resume log holds results of a command with other flags" in errors
    _, _, errors = command(*arguments)
    assert "2 files are in the resume log" in errors
    assert (tmp_path / "out.csv").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.slow
def test_killed_command_resumes(saved, folder, tmp_path):
    line = [sys.executable, "-m", "ast_keras.predict", "--model", saved, folder, *WINDOWS]
    line += ["--format", "csv"]
    expected = subprocess.run(line, capture_output=True, text=True, cwd=ROOT).stdout
    line += ["--output", str(tmp_path / "out.csv")]
    journal = tmp_path / "out.csv.journal"
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    was_killed = process.returncode == -signal.SIGKILL  # otherwise it finished before the signal
    assert (tmp_path / "out.csv").exists() != was_killed
    again = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert ("files are in the resume log" in again.stderr) == was_killed
    assert (tmp_path / "out.csv").read_text() == expected
    assert not journal.exists()


def test_standard_input_gives_the_result_of_the_file(command, recording, monkeypatch):
    with open(recording, "rb") as file:
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=file))
        status, output, errors = command("-", *WINDOWS, "--format", "csv", "--top", "3")
    assert status == 0, errors
    row = Predictor(tiny_classifier(**SETTINGS), Windows(1.0, 0.5)).predict(recording)
    assert output == as_csv([{**row, "file": "-"}])
    assert output.count("\n") == 1 + 11 * 3


def test_unreadable_standard_input_is_named(command, monkeypatch):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"no sound")))
    status, _, errors = command("-")
    assert status == 1
    assert "error: The audio cannot be decoded" in errors
    assert "source=standard input" in errors


def test_events_are_written_as_audacity_label_tracks(command, recording, folder, tmp_path):
    arguments = (*WINDOWS, "--events", "--threshold", "0.1", "--format", "audacity")
    _, track, _ = command(recording, *arguments)
    assert track
    for line in track.splitlines():
        onset, offset, label = line.split("\t")
        assert 0 <= float(onset) < float(offset) <= 5.6
        assert label.startswith("class ")
    assert "one label track per file" in command(folder, *arguments)[2]
    command(folder, *arguments, "--output", tmp_path / "tracks")
    names = sorted(path.name for path in (tmp_path / "tracks").iterdir())
    assert names == ["0.txt", "1.txt", "2.txt", "3.txt", "cut.txt"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--events",), "--events needs --window_seconds"),
        (("--hop_seconds", "1"), "--hop_seconds needs --window_seconds"),
        (("--format", "audacity"), "add --events"),
        (("--window_seconds", "1", "--threshold", "2", "--events"), "threshold <= 1"),
    ],
)
def test_flags_that_contradict_each_other_are_rejected(line, words):
    with pytest.raises(flags.Error, match=words):
        parse_options(predict.Options, ["--model", "m", "a.wav", *line])


def test_errors_of_files_and_windows_are_one_line(command, recording):
    for line, words in [
        ((recording, "-"), "must be the only file"),
        ((recording, "--window_seconds", "3"), "--padding masked"),
    ]:
        status, _, errors = command(*line)
        assert status == 1
        assert words in errors.strip()
        assert errors.count("\n") == 1


# --- Memory ---


def write_long(path, rate, seconds):
    rng = np.random.default_rng(0)
    minute = (rng.standard_normal(60 * rate) * 8).astype("int16")
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(round(seconds / 60)):
            file.write(minute)


PEAK = """
import re, sys
from ast_keras import predict
sys.argv = ["predict", *sys.argv[1:]]
try:
    predict.run()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "rate"), [("wav", 16000), ("flac", 44100)])
def test_three_hours_need_no_more_memory_than_a_minute(saved, tmp_path, ending, rate):
    peaks = []
    for seconds in (60, 3 * 3600):
        path = tmp_path / f"sound.{ending}"
        write_long(path, rate, seconds)
        arguments = [path, "--model", saved, "--window_seconds", "1", "--hop_seconds", "1"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments), "--output", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]))
        path.unlink()
    print(f"{ending} at {rate} Hz: {peaks[0] / 1e3:.0f} and {peaks[1] / 1e3:.0f} MB")
    assert peaks[1] < 1.1 * peaks[0], peaks

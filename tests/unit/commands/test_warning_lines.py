"""Warnings of every command are single lines without source, from decoding threads too."""

import concurrent.futures
import sys
import warnings

import numpy as np
import pytest
import soundfile
from absl import logging

from ast_keras import load_audio
from ast_keras.commands.runner import run_command
from ast_keras.errors import AudioWarning
from tests.helpers.commands import run_in_process


@pytest.fixture(autouse=True)
def no_options_of_python(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])


def printed_by(main, capsys):
    assert run_command(main, None) == 0
    return capsys.readouterr().err.splitlines()


def test_warning_and_log_message_are_one_line_each(capsys):
    def main(options):
        warnings.warn("dog.wav\n is cut short", AudioWarning, stacklevel=1)
        warnings.warn("in the next version", FutureWarning, stacklevel=1)
        warnings.warn("of Keras", UserWarning, stacklevel=1)
        logging.warning("unreadable file skipped, %d so far:\n%s", 1, "hen.wav")
        return 0

    assert printed_by(main, capsys) == [
        "warning: dog.wav is cut short",
        "warning: of Keras",
        "unreadable file skipped, 1 so far: hen.wav",
    ]


def test_warnings_of_threads_are_printed_once_for_each_file(capsys, tmp_path):
    paths = [tmp_path / f"{name}.wav" for name in "ab"]
    for path in paths:
        soundfile.write(path, np.full(100, 0.1), 16000)

    def main(options):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for _ in range(3):  # epochs
                list(pool.map(load_audio, paths))
        return 0

    lines = sorted(printed_by(main, capsys))
    assert [line.startswith("warning: The audio is shorter than 25 ms") for line in lines] == [1, 1]
    assert [path.name in line for path, line in zip(paths, lines, strict=True)] == [True, True]


def test_settings_of_the_process_are_restored(capsys):
    before = warnings.showwarning, list(warnings.filters), logging.get_absl_logger().propagate
    run_command(lambda options: 0, None)
    after = warnings.showwarning, list(warnings.filters), logging.get_absl_logger().propagate
    assert after == before
    assert not logging.get_absl_logger().handlers


def test_options_of_python_are_respected(capsys, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])

    def main(options):
        warnings.simplefilter("default")
        warnings.warn("in the next version", FutureWarning, stacklevel=1)
        return 0

    assert printed_by(main, capsys) == ["warning: in the next version"]


@pytest.mark.slow
def test_training_prints_no_line_of_source(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / "data" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        # 20 ms, which loads with a warning
        soundfile.write(path, rng.normal(size=320) / 10, 16000)
    settings = [
        "data.kind=folders", f"data.path={tmp_path / 'data'}", "data.clip_seconds=0.5",
        "data.test_fraction=0.5", "frontend.num_frames=32", "frontend.mean=-5", "frontend.std=4",
        "model.size=ast_test", "model.num_layers=1", "train.num_epochs=1", "train.batch_size=2",
    ]  # fmt: skip
    flags = [flag for setting in settings for flag in ("--set", setting)]
    status, _, errors = run_in_process(
        "train", "--recipe", "own_sounds", "--workdir", tmp_path / "run", *flags
    )
    assert status == 0, errors
    lines = errors.splitlines()
    assert len(lines) == 4, errors
    assert all(line.startswith("warning: The audio is shorter than 25 ms") for line in lines)

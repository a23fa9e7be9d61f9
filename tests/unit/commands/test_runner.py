"""Errors that the user can fix end in one line and status 1; defects keep their traceback."""

import subprocess
import sys

import numpy as np
import pytest

from ast_keras.audio import mel
from ast_keras.commands.runner import run_command
from ast_keras.errors import RecipeError
from tests.helpers.paths import ROOT


def raising(error):
    def main(options):
        raise error

    return main


@pytest.mark.parametrize("error", [RecipeError("a rule\nin two lines"), FileNotFoundError("gone")])
def test_error_of_the_user_is_one_line_and_status_one(error, capsys):
    assert run_command(raising(error), None) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_argument_error_of_the_package_is_an_error_of_the_user(capsys):
    assert run_command(lambda options: mel.window("bartlett", 4), None) == 1
    assert "window must be one of" in capsys.readouterr().err


def test_error_of_another_library_is_a_defect():
    with pytest.raises(ValueError, match="broadcast"):
        run_command(lambda options: np.zeros(3) + np.zeros(4), None)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda options: 1 // 0, None)


def test_status_of_the_command_is_returned():
    assert run_command(len, ["a", "b"]) == 2


@pytest.mark.parametrize("name", ["predict", "embed", "explain", "listen"])
def test_missing_model_is_one_line_with_the_usage_before_tensorflow_loads(name):
    code = (
        "import sys\n"
        f"from ast_keras import {name} as command\n"
        "sys.argv = ['command', 'a.wav']\n"
        "try:\n"
        "    command.run()\n"
        "finally:\n"
        "    print('tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == "False\n"
    error, usage = done.stderr.splitlines()
    assert error == "error: --model is required"
    assert usage.startswith(f"usage: python -m ast_keras.{name} ")

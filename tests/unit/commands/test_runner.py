"""Errors that the user can fix end in one line and status 1; defects keep their traceback."""

import numpy as np
import pytest

from ast_keras.audio import mel
from ast_keras.commands.runner import run_command
from ast_keras.errors import RecipeError


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize("error", [RecipeError("a rule\nin two lines"), FileNotFoundError("gone")])
def test_a_users_mistake_is_one_line_and_status_one(error, capsys):
    assert run_command(raising(error), []) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_plain_value_error_of_ours_is_the_users(capsys):
    assert run_command(lambda argv: mel.window("bartlett", 4), []) == 1
    assert "window must be one of" in capsys.readouterr().err


def test_an_error_of_another_library_is_a_defect():
    with pytest.raises(ValueError, match="broadcast"):
        run_command(lambda argv: np.zeros(3) + np.zeros(4), [])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 // 0, [])


def test_the_status_of_the_command_is_passed_on():
    assert run_command(lambda argv: len(argv), ["a", "b"]) == 2

"""Options of a command are the fields of a dataclass; its flags and rules are absl's."""

import dataclasses
import functools

import pytest
from absl import flags

from ast_keras import list_recipes, train
from ast_keras.commands.flags import (
    CommandOptions,
    arguments,
    flag,
    model_flag,
    padding_flag,
    parse_options,
    requires,
    settings_flag,
)
from ast_keras.errors import CommandError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    usage = "python -m command --model DIR FILE..."
    rules = (
        requires("events", "window_seconds"),
        functools.partial(flags.mark_flags_as_mutual_exclusive, ["workdir", "output"]),
    )
    files: tuple[str, ...] = arguments(minimum=1, maximum=2)
    model: str = model_flag()
    padding: str | None = padding_flag()
    settings: tuple[str, ...] = settings_flag()
    top: int = flag(flags.DEFINE_integer, 5, "Number of classes.", lower_bound=1)
    events: bool = flag(flags.DEFINE_bool, False, "Print events.")
    window_seconds: float | None = flag(flags.DEFINE_float, None, "Window.", alias="window")
    workdir: str | None = flag(flags.DEFINE_string, None, "Folder.")
    output: str | None = flag(flags.DEFINE_string, None, "File.")


LINE = ["--model", "m", "a.wav"]


def test_options_are_the_values_of_flags_and_arguments():
    line = [*LINE, "--set", "a.b=1", "--set=c.d=2", "--window", "2", "--events"]
    expected = Options(
        files=("a.wav",),
        model="m",
        settings=("a.b=1", "c.d=2"),
        window_seconds=2.0,
        events=True,
    )
    assert parse_options(Options, line) == expected


def test_options_that_are_not_given_have_the_defaults_of_the_dataclass():
    assert parse_options(Options, LINE) == Options(files=("a.wav",), model="m")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["a.wav"], "--model is required"),
        ([*LINE, "--padding", "none"], "original|masked"),
        ([*LINE, "--top", "0"], "top"),
        ([*LINE, "--events"], "--events needs --window_seconds"),
        ([*LINE, "--workdir", "a", "--output", "b"], "workdir"),
        ([*LINE, "--nothing"], "nothing"),
    ],
)
def test_flags_that_are_missing_or_wrong_are_rejected(line, message):
    with pytest.raises(flags.Error) as error:
        parse_options(Options, line)
    assert message in str(error.value)


def test_the_number_of_arguments_is_checked():
    with pytest.raises(CommandError, match="needs 1 argument"):
        parse_options(Options, ["--model", "m"])
    with pytest.raises(CommandError, match=r"Unexpected argument. Received: 'c'"):
        parse_options(Options, [*LINE, "b", "c"])


def test_train_names_the_recipes_if_none_is_given():
    with pytest.raises(flags.Error) as error:
        parse_options(train.Options, [])
    assert (
        str(error.value) == f"--recipe is required: one of {', '.join(list_recipes())}, or a file"
    )

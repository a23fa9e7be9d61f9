"""Command-line options: absl flags, declared as the fields of a dataclass.

A command declares its flags once, and its `main` takes an object with their values:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(CommandOptions):
        usage = "python -m ast_keras.predict --model DIR FILE..."
        files: tuple[str, ...] = arguments(minimum=1)
        model: str = model_flag()
        top: int = flag(flags.DEFINE_integer, 5, "Number of classes to print.", lower_bound=1)

    def main(options: Options) -> int: ...

    def run() -> None:
        run_app(main, Options)

A test calls `main(Options(model="m", files=("a.wav",)))`, or
`main(parse_options(Options, ["--model", "m", "a.wav"]))` where the rules between flags matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from absl import flags

from ast_keras.errors import CommandError

# `--help` of a command lists the flags that its own module defines. Flags that this module defines
# on behalf of a command count as the command's.
flags.disclaim_key_flags()

PADDINGS = ("original", "masked")

Rule = Callable[..., Any]
_Options = TypeVar("_Options", bound="CommandOptions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Base class of the options of a command.

    A subclass declares each flag as a field with `flag` or one of the shared flags below, and the
    arguments that are not flags with `arguments`.

    Attributes:
        usage: Class attribute. The command line in short; printed after an error in it.
        rules: Class attribute. Rules about flags: functions that take `flag_values=`, such as
            `functools.partial(absl.flags.mark_flags_as_mutual_exclusive, [...])` and `requires`.
    """

    usage: ClassVar[str] = ""
    rules: ClassVar[tuple[Rule, ...]] = ()


def flag(
    define: Callable[..., Any],
    default: Any,
    help: str,
    *,
    name: str | None = None,
    alias: str | None = None,
    required: bool = False,
    hint: str = "",
    **settings: Any,
) -> Any:
    """Declares a field of `CommandOptions` as a flag.

    Args:
        define: A function of absl, such as `absl.flags.DEFINE_integer`.
        default: Value of a flag that is not given. A tuple for flags with several values.
        help: Text for `--help`.
        name: Name of the flag if it is not the field's, for example "class".
        alias: Second name of the flag.
        required: Whether the flag must be given; its default is then None.
        hint: Text that the error about a missing required flag adds, such as the possible values.
        **settings: Further arguments of `define`, such as `lower_bound` or `enum_values`.

    Returns:
        A dataclass field.
    """
    metadata = {
        "define": define, "help": help, "name": name, "alias": alias, "required": required,
        "hint": hint, "settings": settings,
    }  # fmt: skip
    if required:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def arguments(minimum: int = 0, maximum: int | None = None) -> Any:
    """Declares the field of `CommandOptions` that holds the arguments that are not flags.

    Args:
        minimum: Smallest number of arguments.
        maximum: Largest number of arguments; None for no limit.

    Returns:
        A dataclass field; its value is a tuple of strings.
    """
    metadata = {"arguments": (minimum, maximum)}
    if minimum:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=(), metadata=metadata)


def model_flag() -> Any:
    """Returns the required flag `--model`, a saved model or a preset."""
    return flag(
        flags.DEFINE_string, None,
        "Work directory of a run, folder or .keras file of a saved model, or name of a preset.",
        required=True,
    )  # fmt: skip


def padding_flag() -> Any:
    """Returns the flag `--padding`, which overrides the padding mode of a model."""
    return flag(
        flags.DEFINE_enum, None,
        "Padding mode: original pads and truncates clips to the length of training; masked "
        "processes shorter and longer clips whole. Default: the mode of the saved model.",
        enum_values=PADDINGS,
    )  # fmt: skip


def channel_flag() -> Any:
    """Returns the flag `--channel`, for `parse_channel`."""
    return flag(
        flags.DEFINE_string, "mix",
        "Channel of the files to use, counted from 0, or mix for the mean of all. The model's "
        "data.channel is not used.",
    )  # fmt: skip


def window_flag() -> Any:
    """Returns the flag `--window_seconds`, for files that are longer than the input of a model."""
    return flag(flags.DEFINE_float, None, "Process files in windows of this length, in seconds.")


def jobs_flag() -> Any:
    """Returns the flag `--jobs`, the number of threads that decode files."""
    return flag(flags.DEFINE_integer, 2, "Number of files decoded in parallel.", lower_bound=1)


def settings_flag() -> Any:
    """Returns the repeatable flag `--set`, which changes fields of a recipe."""
    return flag(
        flags.DEFINE_multi_string, (), "Recipe field to change, as group.field=value; repeatable.",
        name="set",
    )  # fmt: skip


def requires(name: str, *needed: str) -> Rule:
    """Returns the rule that a flag which is given needs other flags.

    Args:
        name: Name of a flag. It counts as given if its value is neither None, False nor empty.
        *needed: Names of the flags that must then be given.

    Returns:
        A rule for `CommandOptions.rules`.
    """
    missing = " and ".join(f"--{other}" for other in needed)

    def satisfied(values: dict[str, Any]) -> bool:
        return not _is_given(values[name]) or all(_is_given(values[other]) for other in needed)

    def register(flag_values: flags.FlagValues) -> None:
        flags.register_multi_flags_validator(
            [name, *needed], satisfied, f"--{name} needs {missing}.", flag_values
        )

    return register


def define_flags(kind: type[CommandOptions], values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of a command and the rules between them.

    Args:
        kind: A subclass of `CommandOptions`.
        values: Where to define them.
    """
    for field in _flag_fields(kind):
        name, define = _name(field), field.metadata["define"]
        default = None if field.default is dataclasses.MISSING else field.default
        define(
            name=name, default=default, help=field.metadata["help"], flag_values=values,
            **field.metadata["settings"],
        )  # fmt: skip
        if field.metadata["alias"]:
            flags.DEFINE_alias(field.metadata["alias"], name, flag_values=values)
    for rule in kind.rules:
        rule(flag_values=values)


def options_from_flags(
    kind: type[_Options], rest: Sequence[str], values: flags.FlagValues = flags.FLAGS
) -> _Options:
    """Returns the options of a command whose flags are parsed.

    Args:
        kind: A subclass of `CommandOptions`.
        rest: The arguments that are not flags.
        values: The parsed flags.

    Returns:
        An instance of `kind`.

    Raises:
        CommandError: If there are too few or too many arguments.
        absl.flags.Error: If a required flag is missing.
    """
    for field in _flag_fields(kind):
        # Not absl's own check, whose message is "Flag --x must have a value other than None".
        if field.metadata["required"] and values[_name(field)].value is None:
            hint = field.metadata["hint"]
            raise flags.Error(f"--{_name(field)} is required{hint and f': {hint}'}")
    found = {field.name: values[_name(field)].value for field in _flag_fields(kind)}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    positional = next((f for f in dataclasses.fields(kind) if "arguments" in f.metadata), None)
    minimum, maximum = positional.metadata["arguments"] if positional else (0, 0)
    if len(rest) < minimum:
        raise CommandError(
            f"The command needs {minimum} argument{'s' if minimum > 1 else ''} besides its flags. "
            f"Received: {len(rest)}"
        )
    if maximum is not None and len(rest) > maximum:
        raise CommandError(f"Unexpected argument. Received: {rest[maximum]!r}")
    if positional:
        found[positional.name] = tuple(rest)
    return kind(**found)


def parse_options(kind: type[_Options], line: Iterable[str]) -> _Options:
    """Returns the options for a command line, without changing `absl.flags.FLAGS`.

    Args:
        kind: A subclass of `CommandOptions`.
        line: The command line after the name of the program.

    Returns:
        An instance of `kind`.

    Raises:
        CommandError: If there are too few or too many arguments.
        absl.flags.Error: If a flag is unknown, missing or wrong, or breaks a rule.

    Example:

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Options(CommandOptions):
    ...     files: tuple[str, ...] = arguments(minimum=1)
    ...     model: str = model_flag()
    >>> parse_options(Options, ["--model", "runs/a/model", "dog.wav"])
    Options(files=('dog.wav',), model='runs/a/model')
    """
    values = flags.FlagValues()
    define_flags(kind, values)
    return options_from_flags(kind, values(["command", *line])[1:], values)


def _flag_fields(kind: type[CommandOptions]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if "define" in field.metadata]


def _name(field: dataclasses.Field[Any]) -> str:
    name: str = field.metadata["name"] or field.name
    return name


def _is_given(value: Any) -> bool:
    # 0 is a value.
    return value is not None and value is not False and value != [] and value != ""

"""Declaration of a recipe's fields: default, description and allowed values in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ast_keras.errors import RecipeError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a field may have.

    Attributes:
        rule: The rule in words, completing the sentence "the field must ...".
        contains: Returns whether a single value of the field's type is allowed.
    """

    rule: str
    contains: Callable[[Any], bool]


POSITIVE = Range("be positive", lambda value: value > 0)
NOT_NEGATIVE = Range("not be negative", lambda value: value >= 0)
FRACTION = Range("lie between 0 and 1", lambda value: 0 <= value <= 1)
RATE = Range("lie between 0 and 1, and be below 1", lambda value: 0 <= value < 1)
SAMPLE_RATE = Range(
    "lie between 1000 and 1000000, the rates that audio files are read at",
    lambda value: 1000 <= value <= 1_000_000,
)
POSITIVE_OR_AUTO = Range(
    "be positive, or auto", lambda v: v == "auto" if isinstance(v, str) else v > 0
)
LAYER_DECAY = Range(
    "be above 0 and at most 1, or auto",
    lambda v: v == "auto" if isinstance(v, str) else 0 < v <= 1,
)
FREEZE = Range(
    "be none, backbone or a number of blocks",
    lambda v: v in ("none", "backbone") if isinstance(v, str) else v >= 0,
)
SEED = Range("lie between 0 and 2**31 - 1", lambda value: 0 <= value < 2**31)


def setting(
    default: T, description: str, *, range: Range | None = None, choices: tuple[str, ...] = ()
) -> T:
    """Declares a field of a recipe's dataclass.

    Args:
        default: Default value of the field.
        description: What the field means, with its unit. Shown to users.
        range: Allowed numbers. In a tuple every element must be allowed; None is always allowed.
        choices: Allowed strings. Empty for no restriction.
    """
    metadata = {"description": description, "range": range, "choices": choices}
    declared: T = dataclasses.field(default=default, metadata=metadata)
    return declared


def describe_settings(recipe: Any) -> str:
    """Returns every setting of a recipe with its value and description, for a terminal.

    Example:

    >>> from ast_keras.recipe import Recipe
    >>> print(describe_settings(Recipe(name="mine")).splitlines()[0])
    seed=1
    """
    lines: list[str] = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            lines += [f"{field.name}.{line}" for line in _described(value)]
    return "\n".join([*_described(recipe), *lines])


def _described(group: Any) -> list[str]:
    return [
        f"{field.name}={getattr(group, field.name)}\n    {field.metadata['description']}"
        for field in dataclasses.fields(group)
        if "description" in field.metadata
    ]


def check_values(group: Any, prefix: str = "") -> None:
    """Checks every declared field of a dataclass instance against its range and choices.

    Args:
        group: An instance of a dataclass whose fields were declared by `setting`.
        prefix: Start of the field names in error messages, such as "train.".

    Raises:
        RecipeError: If a value is not allowed. The message names the field and the rule.
    """
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        allowed: Range | None = field.metadata.get("range")
        choices: tuple[str, ...] = field.metadata.get("choices", ())
        rule = ""
        if choices and value not in choices:
            rule = f"be one of {', '.join(choices)}"
        elif allowed is not None and not all(map(allowed.contains, _numbers(value))):
            rule = allowed.rule
        if rule:
            name = f"{prefix}{field.name}"
            raise RecipeError(f"{name} must {rule}. Received: {name}={value!r}")


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        yield from value
    elif value is not None:
        yield value

"""Text and JSON to the types of a recipe's fields, strictly. Standard library only."""

from __future__ import annotations

import math
import types
import typing
from typing import Any

from ast_keras.errors import RecipeError


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Returns a value of the command line as the field's type.

    Args:
      text: What stands after the equals sign.
      hint: The field's type annotation.
      name: Of the field, for the error.

    Raises:
      RecipeError: If the text does not read as that type.

    Example:

    >>> parse_value("16,10", tuple[int, int], "model.strides")
    (16, 10)
    """
    text = text.strip()
    options = _options(hint)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    kind = next(o for o in options if o is not type(None))
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
            element = typing.get_args(kind)[0]
            return _tuple([element(item) for item in items], kind, name)
        return convert_value(kind(text), kind, name)
    except (KeyError, ValueError):
        raise _type_error(name, hint, text) from None


def convert_value(value: Any, hint: Any, name: str) -> Any:
    """Returns a JSON value as the field's type: lists become tuples, 1 a float.

    Raises:
      RecipeError: If the value is of another type, NaN or infinite.

    Example:

    >>> convert_value([16, 10], tuple[int, int], "model.strides")
    (16, 10)
    """
    options = _options(hint)
    if value is None and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return _tuple(value, kind, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is not tuple and type(value) is kind and _is_usable(value):
        return value
    raise _type_error(name, hint, value)


def _is_usable(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _tuple(items: list[Any], kind: Any, name: str) -> tuple[Any, ...]:
    args = typing.get_args(kind)
    fits = Ellipsis in args or len(items) == len(args)
    if not fits or any(type(item) is not args[0] for item in items):
        raise _type_error(name, kind, ",".join(map(str, items)))
    return tuple(items)


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _type_error(name: str, hint: Any, value: Any) -> RecipeError:
    kind = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return RecipeError(f"{name} must be of type {kind}. Received: {name}={value!r}")

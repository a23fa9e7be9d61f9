"""Loading recipes by name or from files, and changing single fields from text.

Values are converted strictly: a text or a JSON value that is not of the field's type is an error.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import runpy
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from ast_keras.errors import RecipeError, did_you_mean
from ast_keras.recipe.schema import Recipe

PACKAGE_DIR = pathlib.Path(__file__).resolve().parents[1]
# Former names of fields, which recipe.json files of earlier runs and users' scripts contain.
_KINDS_OF_OWN_DATA = ("annotations", "folders", "manifest")
_EARLIER_NAMES = {
    ("model", "rgb"): "rgb_reduction",
    ("model", "position"): "position_resize",
    ("train", "choose"): "final_model",
}
# Fields that no longer exist. recipe.json files of earlier runs contain them, always as null.
_REMOVED = {("model", "attention_window")}

# --- Recipes by name and from files ---


def recipes_dir() -> pathlib.Path:
    """Returns the folder of the recipes: inside an installed package, next to it in a checkout."""
    installed = PACKAGE_DIR / "recipes"
    return installed if installed.is_dir() else PACKAGE_DIR.parent / "recipes"


def list_recipes() -> list[str]:
    """Returns the names that `load_recipe` accepts, sorted.

    Example:

    >>> "quickstart" in list_recipes()
    True
    """
    return sorted(p.stem for p in recipes_dir().glob("*.py") if not p.stem.startswith("_"))


def load_recipe(source: str | os.PathLike[str]) -> Recipe:
    """Loads a recipe by name, from a Python file or from a saved JSON file.

    Args:
        source: A name (`list_recipes`), the path of a Python file that defines `get_recipe()`, or
            the path of a `recipe.json`.

    Raises:
        RecipeError: If there is no such recipe, or the file is not a recipe. The message suggests
            the nearest name.

    Example:

    >>> load_recipe("quickstart").train.loss
    'categorical'
    """
    text = os.fspath(source)
    if not text.endswith((".py", ".json")):
        names = list_recipes()
        if text not in names:
            raise RecipeError(
                f"There is no recipe of this name. {did_you_mean(text, names)} All: "
                f"{', '.join(names)}; a path must end in .py or .json. Received: recipe={text!r}"
            )
        text = str(recipes_dir() / f"{text}.py")
    path = pathlib.Path(text)
    if not path.is_file():
        raise RecipeError(f"There is no recipe file at this path. Received: recipe={text!r}")
    return _from_json(path) if path.suffix == ".json" else _from_python(path)


def _from_python(path: pathlib.Path) -> Recipe:
    try:
        get_recipe = runpy.run_path(str(path)).get("get_recipe")
        recipe = get_recipe() if callable(get_recipe) else None
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"This recipe file does not run: {type(error).__name__}: {error}. Received: {path}"
        ) from error
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"A recipe file must define get_recipe() that returns a Recipe. Received: {path}"
        )
    return recipe


def _from_json(path: pathlib.Path) -> Recipe:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"This recipe is not valid JSON: {error}. Received: {path}") from None
    if not isinstance(values, dict) or "name" not in values:
        raise RecipeError(f"A recipe's JSON must be an object with a name. Received: {path}")
    recipe = Recipe(name=str(values.pop("name")))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        group = _group(recipe, key)
        if not dataclasses.is_dataclass(group):
            changes[key] = convert_value(value, _hints(recipe)[key], key)
            continue
        if not isinstance(value, dict):
            raise RecipeError(f"{key} must be an object. Received: {key}={value!r} in {path}")
        hints, fields = _hints(group), {}
        for name, field_value in value.items():
            if (key, name) in _REMOVED and field_value is None:
                continue
            field = _field_name(key, name, hints)
            fields[field] = convert_value(field_value, hints[field], f"{key}.{field}")
        changes[key] = dataclasses.replace(group, **fields)  # type: ignore[type-var]
    return dataclasses.replace(recipe, **changes)


# --- Changing single fields ---


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Returns the recipe with fields changed, as `--set` does.

    All assignments are applied before the result is checked, so that two fields that depend on
    each other can change together.

    Your own data (a manifest or a folder of classes) is recognised again if `data.path` is set and
    `data.kind` is not.

    Args:
        recipe: The recipe to start from; it is not modified.
        assignments: Strings "group.field=value" or "field=value". Tuples are written "16,16";
            "none" clears an optional field.

    Raises:
        RecipeError: If a field does not exist, a value is not of the field's type, or the changed
            recipe is not valid. The message suggests the nearest name.

    Example:

    >>> override(load_recipe("quickstart"), ["train.batch_size=8", "seed=3"]).train.batch_size
    8
    """
    groups: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise RecipeError(
                f"A setting must read group.field=value. Received: --set {assignment!r}"
            )
        head, dot, field = name.partition(".")
        group = _group(recipe, head)
        if dataclasses.is_dataclass(group):
            if not dot:
                raise RecipeError(f"{head} is a group: set {head}.FIELD. Received: --set {name}")
            hints = _hints(group)
            field = _field_name(head, field, hints)
            groups.setdefault(head, {})[field] = parse_value(text, hints[field], name)
        elif dot:
            raise RecipeError(f"{head} has no fields of its own. Received: --set {name}")
        else:
            groups.setdefault("", {})[head] = parse_value(text, _hints(recipe)[head], name)
    if "path" in groups.get("data", {}) and recipe.data.kind in _KINDS_OF_OWN_DATA:
        groups["data"].setdefault("kind", "auto")  # at another path there may be another kind
    changes: dict[str, Any] = groups.pop("", {})
    for head, fields in groups.items():
        changes[head] = dataclasses.replace(getattr(recipe, head), **fields)
    return dataclasses.replace(recipe, **changes)


def _group(recipe: Recipe, name: str) -> Any:
    _require_known(name, _hints(recipe), "A recipe has no group or field of this name")
    return getattr(recipe, name)


def _field_name(group: str, name: str, hints: dict[str, Any]) -> str:
    """Returns the current name of a field, which may be given by a former name."""
    name = _EARLIER_NAMES.get((group, name), name)
    _require_known(name, hints, f"{group} has no field of this name")
    return name


def _hints(group: Any) -> dict[str, Any]:
    return typing.get_type_hints(type(group))


def _require_known(name: str, known: Iterable[str], rule: str) -> None:
    if name not in known:
        raise RecipeError(f"{rule}. {did_you_mean(name, known)} Received: {name!r}")


# --- Values ---


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Returns a value of the command line as the field's type.

    Args:
        text: The text after the equals sign.
        hint: Type annotation of the field.
        name: Name of the field, for the error message.

    Raises:
        RecipeError: If the text cannot be converted to that type.

    Example:

    >>> parse_value("16,10", tuple[int, int], "model.strides")
    (16, 10)
    """
    text = text.strip()
    options = _options(hint)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    kind, *others = (option for option in options if option is not type(None))
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
            element = typing.get_args(kind)[0]
            return _tuple([element(item) for item in items], kind, name)
        return convert_value(kind(text), kind, name)
    except (KeyError, ValueError):
        if str in others:  # a number or a word, such as auto
            return text.lower()
        raise _type_error(name, hint, text) from None


def convert_value(value: Any, hint: Any, name: str) -> Any:
    """Returns a JSON value as the field's type: lists become tuples, and 1 becomes 1.0.

    Args:
        value: The value, as the `json` module decodes it.
        hint: Type annotation of the field.
        name: Name of the field, for the error message.

    Raises:
        RecipeError: If the value is of another type, NaN or infinite.

    Example:

    >>> convert_value([16, 10], tuple[int, int], "model.strides")
    (16, 10)
    """
    options = _options(hint)
    if value is None and type(None) in options:
        return None
    kind, *others = (option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return _tuple(value, kind, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is not tuple and type(value) is kind and _is_finite(value):
        return value
    if isinstance(value, str) and str in others:
        return value
    raise _type_error(name, hint, value)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _tuple(items: list[Any], kind: Any, name: str) -> tuple[Any, ...]:
    elements = typing.get_args(kind)
    fits = Ellipsis in elements or len(items) == len(elements)
    if not fits or any(type(item) is not elements[0] for item in items):
        raise _type_error(name, kind, ",".join(map(str, items)))
    return tuple(items)


def _options(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union type, or the type alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _type_error(name: str, hint: Any, value: Any) -> RecipeError:
    kind = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return RecipeError(f"{name} must be of type {kind}. Received: {name}={value!r}")

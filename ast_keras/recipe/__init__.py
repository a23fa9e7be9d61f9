"""Recipes: all settings of a training run. Standard library only.

A recipe is a Python file with a docstring (the command, the expected result, the cost) and a
function `get_recipe()` that returns a `Recipe`. `python -m ast_keras.train` loads one by name, path
or saved JSON, changes single fields with `--set group.field=value`, and writes the resolved recipe
into the work directory, from which the run can be repeated.

| module | holds |
|---|---|
| `schema`, `frontend`, `optimizer` | the dataclasses of a recipe, with descriptions and ranges |
| `fields` | how a field is declared, checked and described |
| `checks` | rules between fields |
| `parsing` | loading recipes, changing fields, strict conversion of text and JSON |
"""

from ast_keras.errors import RecipeError
from ast_keras.recipe.frontend import Frontend
from ast_keras.recipe.optimizer import Optimizer
from ast_keras.recipe.parsing import list_recipes, load_recipe, override, recipes_dir
from ast_keras.recipe.schema import Augment, Data, Model, Recipe, Train

__all__ = [
    "Augment",
    "Data",
    "Frontend",
    "Model",
    "Optimizer",
    "Recipe",
    "RecipeError",
    "Train",
    "list_recipes",
    "load_recipe",
    "override",
    "recipes_dir",
]

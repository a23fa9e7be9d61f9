"""Recipes: every setting that decides a training run. Standard library only.

| module | holds |
|---|---|
| `schema` | the frozen dataclasses of a recipe, each field with its allowed range |
| `parsing` | text and JSON to typed values; loading and overriding recipes |
| `checks` | rules between fields |
"""

from ast_keras.errors import RecipeError
from ast_keras.recipe.schema import (
    Augment,
    Data,
    Frontend,
    Model,
    Optimizer,
    Recipe,
    Train,
    list_recipes,
    load_recipe,
    override,
    recipes_dir,
)

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

"""placeholder"""
from ast_keras.recipe import Data, Recipe


def get_recipe():
    return Recipe(name="quickstart", data=Data(kind="synthetic"))

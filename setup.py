"""Lists the packages: those found, and `recipes/`, which is installed inside `ast_keras`.

Everything else is in pyproject.toml, which cannot combine discovery with a folder from outside the
package.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ast_keras", "ast_keras.*"]), "ast_keras.recipes"],
    package_dir={"ast_keras.recipes": "recipes"},
)

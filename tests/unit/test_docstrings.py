"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import pathlib

import pytest

import ast_keras

ERRORS = ("Error", "Warning")
PACKAGE = pathlib.Path(ast_keras.__file__).parent


def modules_with_examples():
    """Returns the names of the package's modules whose text holds an example."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if (path.parent / "__init__.py").is_file() and ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_module_run(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(module, optionflags=flags)
    assert results.attempted > 0
    assert results.failed == 0, "see the captured output"


@pytest.mark.parametrize("name", [n for n in ast_keras.__all__ if not n.endswith(ERRORS)])
def test_public_name_has_an_example(name):
    public = getattr(ast_keras, name)
    methods = vars(public).values() if inspect.isclass(public) else []
    texts = [inspect.getdoc(item) or "" for item in (public, *methods)]
    assert any(">>> " in text for text in texts)

"""What the README shows runs."""

import pathlib
import re

import pytest

from ast_keras.presets.loading import SIZES
from ast_keras.presets.released import PUBLISHED, preset_table

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = next(e for e in EXAMPLES if "model.fit" in e)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["probabilities"].shape == (16, 2)
    before, after = names["model"].get_weights(), names["again"].get_weights()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_compile_and_name_presets_that_there_are(example):
    compile(example, "README.md", "exec")
    for name in re.findall(r'from_preset\("(\w+)"', example):
        assert name in {*PUBLISHED, *SIZES, "my_model"}


def test_presets_of_the_readme_are_the_table():
    assert preset_table() in README


@pytest.mark.parametrize("page", ["README.md", "WORKSPACE.md", "recipes/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_workspace_stays_a_map():
    assert len((ROOT / "WORKSPACE.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_files_that_workspace_names_exist():
    text = (ROOT / "WORKSPACE.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:unit|parity|end_to_end)/[\w/]+\.py)`", text):
        assert (ROOT / "tests" / name).is_file(), name

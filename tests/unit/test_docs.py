"""What README.md, the guides and WORKSPACE.md show exists: examples, commands, settings, links."""

import importlib
import re

import numpy as np
import pytest
import soundfile
from absl import flags

from ast_keras.commands.flags import define_flags
from ast_keras.presets.loading import SIZES
from ast_keras.presets.released import ENSEMBLES, PUBLISHED, preset_table
from ast_keras.recipe import list_recipes, load_recipe, override
from tests.helpers.paths import ROOT

PAGES = ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]
OTHERS = ["WORKSPACE.md", "recipes/README.md", "benchmarks/README.md"]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in [*PAGES, *OTHERS]}
EXAMPLES = [
    pytest.param(example, id=f"{page}-{number}")
    for page in PAGES
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL))
]
COMMAND = re.compile(r"python -m ((?:ast_keras|export|benchmarks)[\w.]*)([^`|\n#]*)")
COMMANDS = sorted({match for text in TEXTS.values() for match in COMMAND.findall(text)})


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder of recordings of two classes in the working directory."""
    rng = np.random.default_rng(0)
    for label in ("kettle", "tram"):
        for number in range(12):
            path = tmp_path / "recordings" / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, rng.uniform(-0.3, 0.3, 8000), 16000)
    monkeypatch.chdir(tmp_path)


def run_example(marker, smaller):
    """Runs the one example that contains a text, with other values, and returns its names."""
    (example,) = (e.values[0] for e in EXAMPLES if marker in e.values[0])
    for value, small_value in smaller.items():
        assert value in example
        example = example.replace(value, small_value)
    names = {}
    exec(compile(example, "example", "exec"), names)
    return names


def test_fit_example_of_the_readme_runs(recordings):
    # The smallest size: the example's costs ten more seconds.
    names = run_example("train.fit_dataset()", {'"ast_nano"': '"ast_test"'})
    before, after = names["model"].get_weights(), names["again"].get_weights()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_fit_example_with_decode_audio_runs(recordings):
    smaller = {'"ast_nano"': '"ast_test"', "=498": "=48", "80_000": "8_000"}
    # To trace the step takes twenty seconds more.
    smaller["logits=True))\nhistory"] = "logits=True), run_eagerly=True)\nhistory"
    names = run_example("ast_keras.decode_audio", smaller)
    assert names["labels"] == ["kettle", "tram"]
    waveforms, targets = next(iter(names["dataset"]))
    assert waveforms.shape == (8, 8_000)
    assert set(targets.numpy().argmax(axis=1)) <= {0, 1}
    assert np.isfinite(names["history"].history["loss"][0])


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_compiles_and_names_known_presets(example):
    compile(example, "example", "exec")
    for name in re.findall(r'from_preset\(\s*"(\w+)"', example):
        assert name in {*PUBLISHED, *SIZES, "my_model"}


def flags_of(module, path):
    """Returns the names of the flags that a command defines."""
    if module.startswith("benchmarks"):  # argparse
        text = path.read_text(encoding="utf-8")
        return set(re.findall(r'add_argument\(\s*"--(\w+)"', text))
    values = flags.FlagValues()
    define_flags(importlib.import_module(module).Options, values)
    return set(values)


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_command_has_the_flags_that_the_text_gives_it(module, arguments):
    path = ROOT.joinpath(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.is_file()
    assert set(re.findall(r"(?<![\w-])--(\w+)", arguments)) <= flags_of(module, path)


@pytest.mark.parametrize("page", TEXTS)
def test_recipes_and_settings_of_the_text_exist(page):
    for line in TEXTS[page].replace("\\\n", "").splitlines():
        names = [n for n in re.findall(r"--recipe (\w+)(?![\w./])", line) if n.islower()]
        for name in names:
            assert name in list_recipes() or name == "my_audioset", line
        found = re.findall(r"--set (?!group\.)(\w+\.\w+=[\w.,]+)", line)
        recipe = load_recipe(names[0] if names and names[0] in list_recipes() else "esc10")
        # The settings of a command belong together; those of a sentence are alternatives.
        for settings in [found] if line.startswith("    ") else [[setting] for setting in found]:
            assert override(recipe, settings)


@pytest.mark.parametrize("page", TEXTS)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)", TEXTS[page]):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert heading in slugs, target


def test_presets_of_the_guide_are_the_table():
    assert preset_table() in TEXTS["docs/weights.md"]
    assert "ensemble_m" in ENSEMBLES


@pytest.mark.parametrize(("page", "lines"), [("README.md", 150), ("WORKSPACE.md", 150)])
def test_page_stays_short(page, lines):
    assert len(TEXTS[page].splitlines()) <= lines


def test_files_that_workspace_names_exist():
    for name in re.findall(r"`((?:unit|parity|end_to_end)/[\w/]+\.py)`", TEXTS["WORKSPACE.md"]):
        assert (ROOT / "tests" / name).is_file(), name
    for name in re.findall(
        r"`((?:layers|models|weights|data|training)/[\w/.]*)`", TEXTS["WORKSPACE.md"]
    ):
        assert (ROOT / "ast_keras" / name).exists(), name

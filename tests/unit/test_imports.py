"""Rooms import one way, and the cheap ones stay cheap."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import ast_keras

PACKAGE = pathlib.Path(ast_keras.__file__).parent

# A room imports the rooms of earlier stages and those to its left in its own branch.
STAGES = [
    ["errors files labels progress audio recipe"],
    ["data", "layers models weights presets"],
    ["evaluation reports"],
    ["auditing", "training", "inference"],
    ["export commands"],
]
# `AudioClassifier.from_preset` and `save_to_preset` reach for what is built on the classifier,
# `export` for the exporters.
LATE = {("layers", "presets"), ("models", "presets"), ("models", "export")}
# What loads without TensorFlow, Keras and matplotlib.
LIGHT = ["audio", "recipe", "data", "reports", "auditing", "commands", "weights.readers"]
HEAVY = ("tensorflow", "keras", "tensorflow_io", "orbit", "official", "matplotlib")


def allowed_imports():
    """Returns for every room the rooms that it may import."""
    allowed, earlier = {}, set()
    for stage in STAGES:
        for branch in stage:
            rooms = branch.split()
            for position, room in enumerate(rooms):
                allowed[room] = earlier | set(rooms[:position])
        earlier |= {room for branch in stage for room in branch.split()}
    return allowed


def module_files():
    """Returns the package's modules by name."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if (path.parent / "__init__.py").is_file():  # the recipes inside a wheel are no modules
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


def imported_modules(tree):
    """Returns the package's own modules that a syntax tree imports, at any level."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "ast_keras":
                found.add(name if name in FILES else name.rpartition(".")[0])
    return found


def room_of(name):
    return name.split(".")[1] if "." in name else ""


def heavy_after(code):
    """Runs code in a fresh interpreter and returns the heavy packages that it has loaded."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


FILES = module_files()
IMPORTS = {
    name: imported_modules(ast.parse(path.read_text(encoding="utf-8")))
    for name, path in FILES.items()
}
ALLOWED = allowed_imports()
COMMANDS = [n for n in FILES if n.count(".") == 1 and room_of(n) not in ALLOWED]


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_rooms_to_its_left(room):
    members = [name for name in FILES if room_of(name) == room]
    assert members
    imported = {room_of(i) for name in members for i in IMPORTS[name]} - {"", room}
    assert imported - {late for one, late in LATE if one == room} <= ALLOWED[room]


def test_no_cycle_in_a_room():
    for room in ALLOWED:
        inside = {n: IMPORTS[n] & FILES.keys() - {n} for n in FILES if room_of(n) == room}
        graphlib.TopologicalSorter(inside).prepare()  # raises CycleError


@pytest.mark.parametrize(
    "code", ["from ast_keras.training.run import Run", "import ast_keras.audio.mel"]
)
def test_import_is_seen_in_a_function(code):
    found = imported_modules(ast.parse(f"def f():\n    {code}"))
    assert {room_of(name) for name in found} <= ALLOWED.keys()
    assert found


def test_root_holds_the_commands_and_at_most_five_leaves():
    assert len(COMMANDS) == 10
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules - {name.split(".")[1] for name in COMMANDS} <= {
        "errors",
        "files",
        "labels",
        "progress",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_command_imports_heavy_modules_only_when_it_runs(name):
    # Alone in a fresh interpreter: the flags of two commands have the same names.
    assert heavy_after(f"import {name}") == []


def test_light_rooms_leave_heavy_packages_out():
    light = tuple(f"ast_keras.{room}" for room in LIGHT)
    names = [n for n in FILES if n.startswith(light) and ".builders" not in n]
    assert heavy_after("\n".join(f"import {name}" for name in ["ast_keras", *names])) == []


def test_recipes_load_without_heavy_packages():
    code = "from ast_keras import list_recipes, load_recipe\nassert list_recipes()\n"
    assert heavy_after(code + "for name in list_recipes(): load_recipe(name)") == []


@pytest.mark.parametrize("name", ast_keras.__all__)
def test_public_name_resolves(name):
    public = getattr(ast_keras, name)
    assert public.__name__ == name
    assert public.__doc__


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ASTClasifier'"):
        ast_keras.ASTClasifier  # noqa: B018

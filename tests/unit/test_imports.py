"""Imports point one way, and the cheap modules stay cheap."""

import ast
import pathlib
import subprocess
import sys

import pytest

import ast_keras

PACKAGE = pathlib.Path(ast_keras.__file__).parent

# A module imports only modules above it.
ORDER = [
    "ast_keras",
    "ast_keras.files",
    "ast_keras.fetching",
    "ast_keras.fetching.archives",
    "ast_keras.fetching.download",
    "ast_keras.labels",
    "ast_keras.settings",
    "ast_keras.recipe_rules",
    "ast_keras.recipe",
    "ast_keras.published",
    "ast_keras.hub",
    "ast_keras.mel",
    "ast_keras.decoding",
    "ast_keras.audio",
    "ast_keras.sound_blocks",
    "ast_keras.windows",
    "ast_keras.events",
    "ast_keras.read_ahead",
    "ast_keras.journal",
    "ast_keras.answers",
    "ast_keras.frontend",
    "ast_keras.augment",
    "ast_keras.initializers",
    "ast_keras.patches",
    "ast_keras.kernels",
    "ast_keras.thinning",
    "ast_keras.encoder",
    "ast_keras.model",
    "ast_keras.causal",
    "ast_keras.saved",
    # Other people's weights: files, names, positions, then our model.
    "ast_keras.weights",
    "ast_keras.weights.errors",
    "ast_keras.weights.safetensors_file",
    "ast_keras.weights.zip_file",
    "ast_keras.weights.torch_pickle",
    "ast_keras.weights.torch_file",
    "ast_keras.weights.checkpoint_file",
    "ast_keras.weights.files",
    "ast_keras.weights.names",
    "ast_keras.weights.model_garden",
    "ast_keras.weights.transfer",
    "ast_keras.weights.configuration",
    "ast_keras.weights.source",
    "ast_keras.weights.exchange",
    "ast_keras.weights.fitting",
    "ast_keras.weights.writers",
    "ast_keras.presets",
    # Data and scores: from here to report, nothing knows the model.
    "ast_keras.datasets.packed",
    "ast_keras.datasets.dataset",
    "ast_keras.datasets.tables",
    "ast_keras.datasets.audio_files",
    "ast_keras.datasets.clip_lists",
    "ast_keras.datasets.clip_folder",
    "ast_keras.datasets.audioset",
    "ast_keras.datasets.record_index",
    "ast_keras.datasets.built",
    "ast_keras.datasets.sounds",
    "ast_keras.datasets.class_folders",
    "ast_keras.datasets.esc50",
    "ast_keras.datasets.manifest",
    "ast_keras.datasets.speech_commands",
    "ast_keras.datasets.synthetic",
    "ast_keras.datasets",
    "ast_keras.fetching.public_data",
    "ast_keras.builders",
    "ast_keras.builders.building",
    "ast_keras.builders.clip_pipeline",
    "ast_keras.builders.audioset",
    "ast_keras.builders.esc50",
    "ast_keras.builders.speech_commands_v2",
    "ast_keras.clips",
    "ast_keras.sampling",
    "ast_keras.pipeline",
    "ast_keras.metrics",
    "ast_keras.schedules",
    "ast_keras.optimizers",
    "ast_keras.reporting",
    "ast_keras.reporting.figures",
    "ast_keras.reporting.tables",
    "ast_keras.reporting.mistakes",
    "ast_keras.reporting.page",
    "ast_keras.reporting.evidence",
    "ast_keras.reporting.html_report",
    "ast_keras.reporting.fold_scores",
    "ast_keras.auditing",
    "ast_keras.auditing.inspection",
    "ast_keras.auditing.label_report",
    "ast_keras.auditing.survey",
    "ast_keras.auditing.advice",
    "ast_keras.auditing.findings",
    "ast_keras.arguments",
    # Training: model and data meet.
    "ast_keras.command",
    "ast_keras.distribution",
    "ast_keras.trainer",
    "ast_keras.assembly",
    "ast_keras.progress",
    "ast_keras.workdir",
    "ast_keras.precision",
    "ast_keras.resolution",
    "ast_keras.kept",
    "ast_keras.ensemble",
    "ast_keras.average",  # a command line, too
    "ast_keras.finish",
    "ast_keras.run",
    "ast_keras.folds",
    "ast_keras.streaming",
    "ast_keras.prediction",
    "ast_keras.embedding",
    "ast_keras.explanation",
    # Out of here: one graph, and the files that hold it.
    "ast_keras.export",
    "ast_keras.export.errors",
    "ast_keras.export.graph",
    "ast_keras.export.measurement",
    "ast_keras.export.contract",
    "ast_keras.export.comparison",
    "ast_keras.export.metadata",
    "ast_keras.export.quantization",
    "ast_keras.export.tflite",
    "ast_keras.export.streaming_tflite",
    "ast_keras.export.warmup",
    "ast_keras.export.saved_model",
    # Command lines.
    "ast_keras.train",
    "ast_keras.audit",
    "ast_keras.evaluate",
    "ast_keras.convert",
    "ast_keras.predict",
    "ast_keras.listen",
    "ast_keras.embed",
    "ast_keras.explain",
    "ast_keras.quickstart",
]
MODEL_FREE = ORDER[ORDER.index("ast_keras.datasets.packed") : ORDER.index("ast_keras.trainer")]
# `ASTClassifier.from_preset` and `save_to_preset` reach for what is built on the classifier.
LATE = {"ast_keras.model": {"ast_keras.presets", "ast_keras.saved"}}
KNOWS_THE_MODEL = {
    f"ast_keras.{name}"
    for name in (
        *("patches", "encoder", "model", "causal", "saved", "presets"),
        *("weights.exchange", "weights.fitting", "weights.writers"),
    )
}
PURE = [
    name
    for name in ORDER
    if name.split(".")[1:2] in (["datasets"], ["auditing"], ["fetching"], ["reporting"])
    or name.removeprefix("ast_keras.")
    in (
        "recipe",
        "recipe_rules",
        "settings",
        "files",
        "labels",
        "published",
        "hub",
        "weights",
        "weights.errors",
        "mel",
        "audio",
        "sound_blocks",
        "windows",
        "events",
        "read_ahead",
        "journal",
        "answers",
        "arguments",
        "decoding",
        "clips",
        "sampling",
        "metrics",
    )
]
HEAVY = ("tensorflow", "keras", "tensorflow_io", "orbit", "official", "matplotlib")
COMMANDS = ["ast_keras.average", *ORDER[ORDER.index("ast_keras.train") :]]


def module_files():
    """Returns the package's modules by name."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if (path.parent / "__init__.py").is_file():  # the recipes inside a wheel are no modules
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            files[".".join(parts).removesuffix(".__init__")] = path
    return files


def imported_names(tree):
    """Returns what a syntax tree imports, as dotted names: both a and a.b for `from a import b`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(tree):
    """Returns the package's own modules that a syntax tree imports, at any level."""
    found = set()
    for name in imported_names(tree):
        if name.split(".")[0] == "ast_keras":
            found.add(name if name in FILES else name.rpartition(".")[0])
    return found


def heavy_after(code):
    """Runs code in a fresh interpreter and returns the heavy packages that it has loaded."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


FILES = module_files()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def test_order_lists_every_module_once():
    assert sorted(ORDER) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_module_imports_only_what_stands_before_it(name):
    allowed = set(ORDER[: ORDER.index(name)]) | LATE.get(name, set())
    assert imported_modules(TREES[name]) <= allowed


@pytest.mark.parametrize(
    "code",
    [
        "from ast_keras.run import Run",
        "def f():\n    from ast_keras import run",
        "import ast_keras.run",
    ],
)
def test_reverse_import_is_seen(code):
    assert imported_modules(ast.parse(code)) == {"ast_keras.run"}


@pytest.mark.parametrize("name", MODEL_FREE)
def test_data_and_scores_do_not_know_the_model(name):
    assert not imported_modules(TREES[name]) & KNOWS_THE_MODEL


@pytest.mark.parametrize("name", COMMANDS)
def test_command_imports_heavy_modules_only_when_it_runs(name):
    top_level = ast.Module([n for n in TREES[name].body if not isinstance(n, ast.FunctionDef)], [])
    light = {"ast_keras", "ast_keras.command", *PURE}
    assert imported_modules(top_level) <= light


# The commands one by one: their flags have the same names.
@pytest.mark.parametrize("modules", [["ast_keras"], PURE, *([name] for name in COMMANDS)])
def test_import_leaves_heavy_packages_out(modules):
    # In a fresh interpreter: what counts is what the imports pull in, however deep.
    assert heavy_after("\n".join(f"import {name}" for name in modules)) == []


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

"""The command that translates weights: what it writes, what it tells, what it refuses."""

import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from ast_keras import convert
from ast_keras.commands.runner import run_command
from ast_keras.labels import LabelSet
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.naming import to_canonical
from ast_keras.weights.pretrained import read_pretrained
from ast_keras.weights.readers.safetensors import read_safetensors

ROOT = pathlib.Path(__file__).parents[3]
GOLDENS = ROOT / "tests" / "goldens"
AST, DEIT, HF = "original_small.pth", "deit_small_224.safetensors", "hf_ast_small"
NAMES = "abcdefghijk"
DEFAULTS = {
    "to": "keras",
    **dict.fromkeys(("source", "output", "format", "num_heads", "num_classes", "labels")),
    **dict.fromkeys(
        ("strides", "num_frames", "num_mel_bins", "patch_size", "rgb_reduction", "position_resize")
    ),
}


@pytest.fixture
def converted(monkeypatch, tmp_path, capsys):
    """Runs the command in this process as `run` does; returns status, table, notes and errors."""

    def call(source=GOLDENS / AST, output=tmp_path / "output", **values):
        source, output = (path and str(path) for path in (source, output))
        values = {**DEFAULTS, "source": source, "output": output, **values}
        stand_in = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        monkeypatch.setattr(convert, "flags", stand_in)
        status = run_command(convert.main, ["convert"])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def row(table, name):
    """Returns what became of a weight, or of a tensor, of this name."""
    line = next(line for line in table.splitlines() if name in line.split())
    return line.rsplit("  ", 1)[1]


def write_labels(folder, names):
    path = folder / "labels.txt"
    path.write_text("\n".join(names))
    return str(path)


@pytest.mark.parametrize("to", ["keras", "authors", "transformers"])
@pytest.mark.parametrize("source", [AST, "original_small.safetensors", HF])
def test_weights_arrive_to_the_bit(source, to, converted, tmp_path):
    status, table, error = converted(GOLDENS / source, num_heads=3, num_frames=256, to=to)
    assert (status, error) == (0, "")
    assert "written and read again, equal to the bit" in table
    likely = Geometry(num_frames=256)
    expected = read_pretrained(GOLDENS / source, num_heads=3, likely=likely).tensors
    if to == "keras":
        found = canonical_tensors(from_preset(tmp_path / "output"))
    else:
        found = read_pretrained(tmp_path / "output", num_heads=3, likely=likely).tensors
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


@pytest.mark.parametrize("source", ["original_small.safetensors", DEIT, f"{HF}/model.safetensors"])
def test_table_lists_every_tensor_once(source, converted):
    _, table, _ = converted(GOLDENS / source, num_heads=3, num_frames=256, num_classes=5)
    words = table.replace(",", " ").split()
    for name in read_safetensors(GOLDENS / source):
        assert words.count(name.removeprefix("module.")) == 1, name
    for weight in ("patches/projection/kernel", "block_2/mlp_output/bias", "head/kernel"):
        assert words.count(weight) == 1


def test_table_says_what_became_of_each_tensor(converted):
    _, table, _ = converted(
        GOLDENS / DEIT, num_heads=3, num_frames=64, num_classes=5, rgb_reduction="mean"
    )
    assert "timm ViT or DeiT, 3 blocks of 48, 3 heads, 14 x 14 patches of 16 x 16, no hea" in table
    assert row(table, "patches/projection/kernel") == "3 channels to their mean"
    assert row(table, "positions/embedding") == "mel 14 cut to 12, time 14 cut to 5"
    assert row(table, "head/kernel") == row(table, "head_norm/gamma") == "fresh"
    assert row(table, "special_tokens/tokens") == "as it was"
    unused = to_canonical(read_safetensors(GOLDENS / DEIT)).unused
    for name, reason in unused.items():
        assert row(table, name) == f"not used: {reason}"


def test_table_says_what_became_of_the_head(converted, tmp_path):
    _, table, _ = converted(num_heads=3, num_frames=256)
    assert row(table, "head/kernel") == "as it was"
    for classes in (11, 5):
        output = tmp_path / str(classes)
        _, table, _ = converted(output=output, num_heads=3, num_frames=256, num_classes=classes)
        assert row(table, "head/kernel") == row(table, "head_norm/beta") == "fresh"
        assert row(table, "mlp_head.1.weight") == "not used: the head is fresh"
    labelled = {"labels": write_labels(tmp_path, NAMES)}
    _, table, _ = converted(output=tmp_path / "named", num_heads=3, num_frames=256, **labelled)
    assert row(table, "head/kernel") == "as it was"  # its classes get names
    model = from_preset(tmp_path / "named")
    assert model.labels == LabelSet(tuple(NAMES))
    tensors = read_safetensors(GOLDENS / "original_small.safetensors")
    np.testing.assert_array_equal(model.head.kernel.numpy().T, tensors["module.mlp_head.1.weight"])
    reverse = {"labels": write_labels(tmp_path, NAMES[::-1])}
    _, table, _ = converted(tmp_path / "named", tmp_path / "reverse", **reverse)
    assert row(table, "head/kernel") == "in the order of the labels"
    assert row(table, "head_norm/gamma") == "as it was"
    moved = from_preset(tmp_path / "reverse")
    np.testing.assert_array_equal(moved.head.kernel, model.head.kernel.numpy()[:, ::-1])
    other = {"labels": write_labels(tmp_path, NAMES.upper())}
    _, table, _ = converted(tmp_path / "named", tmp_path / "other", **other)
    assert row(table, "head/kernel") == "fresh"


def test_size_is_fitted(converted, tmp_path):
    status, _, _ = converted(
        GOLDENS / HF, strides=["12", "8"], patch_size=["32", "16"], num_frames=64, num_mel_bins=64
    )
    assert status == 0
    backbone = from_preset(tmp_path / "output").backbone
    assert (backbone.strides, backbone.patch_size, backbone.grid) == ((12, 8), (32, 16), (3, 7))


def test_differences_are_noted(converted):
    _, table, _ = converted(num_heads=3, num_frames=256, to="transformers")
    assert "note: the head's LayerNorm adds 1e-06 there, 1e-05 here\n" in table


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"source": None}, "--source FILE_OR_DIR --output DIR"),
        ({"output": None}, "--source FILE_OR_DIR --output DIR"),
        ({"source": GOLDENS / "original.pth"}, "There is no such file or folder"),
        ({"source": GOLDENS / "transfer.json"}, "neither safetensors"),
        ({"source": GOLDENS / DEIT, "num_heads": 3}, "give num_classes or labels"),
        ({}, "give num_heads"),
        ({"num_heads": 3}, "Received: 300 patches"),
        ({"num_heads": 5, "num_frames": 256}, "num_heads must divide"),
        ({"num_heads": 3, "num_frames": 256, "format": "timm"}, "say authors"),
        ({"num_heads": 3, "num_frames": 256, "strides": ["10"]}, "--strides takes MEL,TIME"),
        ({"num_heads": 3, "num_frames": 256, "patch_size": ["0", "4"]}, "--patch_size takes"),
        ({"num_heads": 3, "num_frames": 256, "labels": "gone.csv"}, "Cannot read the label file"),
        ({"source": "ast_base_audoset"}, "Did you mean 'ast_base_audioset'?"),
        (
            {"source": GOLDENS / HF, "patch_size": ["16", "8"], "to": "transformers"},
            "square patches",
        ),
    ],
)
def test_mistake_ends_in_one_line_and_writes_nothing(values, says, converted, tmp_path):
    status, _, error = converted(**values)
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert list(tmp_path.iterdir()) == []


def test_labels_and_classes_must_agree(converted, tmp_path):
    labels = write_labels(tmp_path, NAMES)
    _, _, error = converted(num_heads=3, num_frames=256, num_classes=5, labels=labels)
    assert "one label for each class" in error


def test_output_with_something_in_it_is_refused(converted, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for output in (tmp_path, tmp_path / "thesis.tex"):
        status, _, error = converted(output=output, num_heads=3, num_frames=256)
        assert status == 1
        assert f"must be a new folder. Received: --output {output}" in error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["years of work"]


def test_failure_to_write_leaves_nothing(converted, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("ast_keras.presets.saving._write_json", fail)
    status, _, error = converted(num_heads=3, num_frames=256)
    assert (status, error) == (1, "error: disk full\n")
    assert list(tmp_path.iterdir()) == []


def test_written_file_that_reads_otherwise_is_an_error(converted, monkeypatch):
    def save_other(model, folder):
        model.head.bias.assign(model.head.bias + 1)
        save_to_preset(model, folder)
        model.head.bias.assign(model.head.bias - 1)

    monkeypatch.setattr("ast_keras.presets.loading.save_to_preset", save_other)
    status, _, error = converted(GOLDENS / HF)
    assert status == 1
    assert "reads back otherwise: mlp_head.1.bias" in error


@pytest.mark.slow
def test_command_line_converts_and_names_its_flags(tmp_path):
    command = [sys.executable, "-m", "ast_keras.convert"]
    flags = [f"--source={GOLDENS / AST}", f"--output={tmp_path / 'out'}", "--to=transformers"]
    flags += ["--num_heads=3", "--num_frames=256", "--strides=10,10", "--format=authors"]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "read again, equal to the bit" in done.stdout
    assert from_preset(tmp_path / "out").backbone.num_frames == 256
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    for name in DEFAULTS:
        assert f"--{name}:" in helped.stdout or f"--[no]{name}:" in helped.stdout

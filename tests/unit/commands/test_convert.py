"""The command that converts weights: what it writes, prints and refuses."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from ast_keras import convert
from ast_keras.commands.flags import parse_options
from ast_keras.commands.runner import run_command
from ast_keras.errors import CommandError
from ast_keras.labels import LabelSet
from ast_keras.presets.loading import from_preset, save_to_preset
from ast_keras.weights.assign import canonical_tensors
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.naming import to_canonical
from ast_keras.weights.pretrained import read_pretrained
from ast_keras.weights.readers.safetensors import read_safetensors
from tests.helpers.arrays import assert_same
from tests.helpers.paths import GOLDENS, ROOT

AST, DEIT, HF = "original_small.pth", "deit_small_224.safetensors", "hf_ast_small"
NAMES = "abcdefghijk"


@pytest.fixture
def converted(tmp_path, capsys):
    """Runs the command in this process; returns status, standard output and standard error."""

    def call(source=GOLDENS / AST, output=tmp_path / "output", **values):
        options = convert.Options(source=str(source), output=str(output), **values)
        status = run_command(convert.main, options)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def row(table, name):
    """Returns the last column of the row of a weight, or of a tensor."""
    line = next(line for line in table.splitlines() if name in line.split())
    return line.rsplit("  ", 1)[1]


def write_labels(folder, names):
    path = folder / "labels.txt"
    path.write_text("\n".join(names))
    return str(path)


@pytest.mark.parametrize(
    ("source", "to"),
    [(AST, "keras"), ("original_small.safetensors", "authors"), (HF, "transformers")],
)
def test_weights_arrive_to_the_bit(source, to, converted, tmp_path):
    status, table, error = converted(GOLDENS / source, num_heads=3, num_frames=256, to=to)
    assert (status, error) == (0, "")
    assert "written, read back and equal to the bit" in table
    fallback_geometry = Geometry(num_frames=256)
    expected = read_pretrained(
        GOLDENS / source, num_heads=3, fallback_geometry=fallback_geometry
    ).tensors
    if to == "keras":
        found = canonical_tensors(from_preset(tmp_path / "output"))
    else:
        found = read_pretrained(
            tmp_path / "output", num_heads=3, fallback_geometry=fallback_geometry
        ).tensors
    assert_same(dict(sorted(found.items())), dict(sorted(expected.items())))


@pytest.mark.parametrize("source", [DEIT, f"{HF}/model.safetensors"])
def test_table_lists_every_tensor_once(source, converted):
    _, table, _ = converted(GOLDENS / source, num_heads=3, num_frames=256, num_classes=5)
    words = table.replace(",", " ").split()
    for name in read_safetensors(GOLDENS / source):
        assert words.count(name.removeprefix("module.")) == 1, name
    for weight in ("patches/projection/kernel", "block_2/mlp_output/bias", "head/kernel"):
        assert words.count(weight) == 1


def test_table_states_the_change_of_each_tensor(converted):
    _, table, _ = converted(
        GOLDENS / DEIT, num_heads=3, num_frames=64, num_classes=5, rgb_reduction="mean"
    )
    assert "timm ViT or DeiT, 3 blocks of 48, 3 heads, 14 x 14 patches of 16 x 16, no aud" in table
    assert row(table, "patches/projection/kernel") == "3 channels reduced to their mean"
    assert row(table, "positions/embedding") == "mel 14 cut to 12, time 14 cut to 5"
    assert row(table, "head/kernel") == row(table, "head_norm/gamma") == "fresh"
    assert row(table, "special_tokens/tokens") == "unchanged"
    unused = to_canonical(read_safetensors(GOLDENS / DEIT)).unused
    for name, reason in unused.items():
        assert row(table, name) == f"not used: {reason}"


def test_table_states_whether_the_head_is_kept(converted, tmp_path):
    _, table, _ = converted(num_heads=3, num_frames=256)
    assert row(table, "head/kernel") == "unchanged"
    output = tmp_path / "fresh"
    _, table, _ = converted(output=output, num_heads=3, num_frames=256, num_classes=11)
    assert row(table, "head/kernel") == row(table, "head_norm/beta") == "fresh"
    assert row(table, "mlp_head.1.weight") == "not used: the head is fresh"
    labelled = {"labels": write_labels(tmp_path, NAMES)}
    _, table, _ = converted(output=tmp_path / "named", num_heads=3, num_frames=256, **labelled)
    assert row(table, "head/kernel") == "unchanged"  # its classes, which had no names, are named
    model = from_preset(tmp_path / "named")
    assert model.labels == LabelSet(tuple(NAMES))
    tensors = read_safetensors(GOLDENS / "original_small.safetensors")
    np.testing.assert_array_equal(model.head.kernel.numpy().T, tensors["module.mlp_head.1.weight"])
    reverse = {"labels": write_labels(tmp_path, NAMES[::-1])}
    _, table, _ = converted(tmp_path / "named", tmp_path / "reverse", **reverse)
    assert row(table, "head/kernel") == "reordered as the labels"
    assert row(table, "head_norm/gamma") == "unchanged"
    moved = from_preset(tmp_path / "reverse")
    np.testing.assert_array_equal(moved.head.kernel, model.head.kernel.numpy()[:, ::-1])
    other = {"labels": write_labels(tmp_path, NAMES.upper())}
    _, table, _ = converted(tmp_path / "named", tmp_path / "other", **other)
    assert row(table, "head/kernel") == "fresh"


def test_weights_are_fitted_to_the_requested_spectrogram(converted, tmp_path):
    status, _, _ = converted(
        GOLDENS / HF, strides=("12", "8"), patch_size=("32", "16"), num_frames=64, num_mel_bins=64
    )
    assert status == 0
    backbone = from_preset(tmp_path / "output").backbone
    assert (backbone.strides, backbone.patch_size, backbone.grid) == ((12, 8), (32, 16), (3, 7))


def test_differences_to_the_other_implementation_are_printed(converted):
    _, table, _ = converted(num_heads=3, num_frames=256, to="transformers")
    assert "note: the head's LayerNorm adds 1e-06 there, 1e-05 here\n" in table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": GOLDENS / "original.pth"}, "There is no such file or folder"),
        ({"source": GOLDENS / "transfer.json"}, "neither safetensors"),
        ({"source": GOLDENS / DEIT, "num_heads": 3}, "give num_classes or labels"),
        ({}, "give num_heads"),
        ({"num_heads": 3}, "Received: 300 patches"),
        ({"num_heads": 5, "num_frames": 256}, "num_heads must divide"),
        ({"num_heads": 3, "num_frames": 256, "format": "timm"}, "set it to 'authors'"),
        ({"num_heads": 3, "num_frames": 256, "strides": ("10",)}, "--strides takes MEL,TIME"),
        ({"num_heads": 3, "num_frames": 256, "patch_size": ("0", "4")}, "--patch_size takes"),
        ({"num_heads": 3, "num_frames": 256, "labels": "gone.csv"}, "Cannot read the label file"),
        ({"source": "ast_base_audoset"}, "Did you mean 'ast_base_audioset'?"),
        (
            {"source": GOLDENS / HF, "patch_size": ("16", "8"), "to": "transformers"},
            "square patches",
        ),
    ],
)
def test_error_is_one_line_and_nothing_is_written(values, message, converted, tmp_path):
    status, _, error = converted(**values)
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [["--output=x"], ["--source=x"], ["--source=x", "--output=y", "z"]]
)
def test_incomplete_command_line_is_refused(line):
    with pytest.raises((flags.Error, CommandError)):
        parse_options(convert.Options, line)


def test_labels_and_classes_must_agree(converted, tmp_path):
    labels = write_labels(tmp_path, NAMES)
    _, _, error = converted(num_heads=3, num_frames=256, num_classes=5, labels=labels)
    assert "one label for each class" in error


def test_output_folder_must_be_empty(converted, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for output in (tmp_path, tmp_path / "thesis.tex"):
        status, _, error = converted(output=output, num_heads=3, num_frames=256)
        assert status == 1
        assert f"must be a new folder. Received: --output {output}" in error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["years of work"]


def test_failed_write_leaves_no_folder(converted, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("ast_keras.presets.saving._write_json", fail)
    status, table, error = converted(num_heads=3, num_frames=256)
    assert (status, error) == (1, "error: disk full\n")
    assert row(table, "head/kernel") == "unchanged"  # printed before the weights are written
    assert list(tmp_path.iterdir()) == []


def test_written_weights_that_read_back_differently_are_an_error(converted, monkeypatch):
    def save_other(model, folder):
        model.head.bias.assign(model.head.bias + 1)
        save_to_preset(model, folder)
        model.head.bias.assign(model.head.bias - 1)

    monkeypatch.setattr("ast_keras.presets.loading.save_to_preset", save_other)
    status, _, error = converted(GOLDENS / HF)
    assert status == 1
    assert "read back with other numbers. Received: mlp_head.1.bias" in error


@pytest.mark.slow
def test_command_line_converts_and_names_its_flags(tmp_path):
    command = [sys.executable, "-m", "ast_keras.convert"]
    line = [f"--source={GOLDENS / AST}", f"--output={tmp_path / 'out'}", "--to=transformers"]
    line += ["--num_heads=3", "--num_frames=256", "--strides=10,10", "--format=authors"]
    done = subprocess.run([*command, *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "read back and equal to the bit" in done.stdout
    assert from_preset(tmp_path / "out").backbone.num_frames == 256
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    for field in dataclasses.fields(convert.Options):
        assert f"--{field.name}:" in helped.stdout

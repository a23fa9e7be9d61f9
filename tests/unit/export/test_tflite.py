"""TFLite files: accuracy, size, operators, the search for float layers, and rejected arguments."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ast_keras import from_preset, save_to_preset
from ast_keras.errors import ArgumentError, CommandError, LabelError
from ast_keras.export import ExportError, export_tflite
from ast_keras.export.acceptance import Report, Tolerance
from ast_keras.export.isolated_run import operators
from ast_keras.export.quantization import quantizable_layers, signal_to_noise
from ast_keras.export.reference_clips import keras_scores
from ast_keras.export.serving_module import ServingModule, exportable
from ast_keras.export.tflite import TfliteCandidate, search_float_layers
from ast_keras.export.tflite_conversion import convert
from ast_keras.labels import LabelSet
from export.tflite import Options, main
from tests.helpers.paths import ROOT
from tests.unit.export.models import EXACT, LABELS, labelled_classifier

BUILTINS = {
    *("ADD", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "FULLY_CONNECTED", "GELU", "LOG"),
    *("MAXIMUM", "MEAN", "MUL", "NEG", "RESHAPE", "RSQRT", "SOFTMAX", "SPLIT", "SQUARE"),
    *("SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "TRANSPOSE", "PAD", "LOGISTIC", "DEQUANTIZE"),
}


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The folder of one file of every format, and their reports by format."""
    folder = tmp_path_factory.mktemp("files")
    reports = {
        name: export_tflite(model, folder / f"{name}.tflite", quantize=name, num_clips=10)
        for name in ("none", "float16", "int8", "int4")
    }
    return folder, reports


def read(path):
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def scores_of(path, clips):
    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    return np.stack([runner(waveform=clip[None])["scores"][0] for clip in clips])


def listed(folder):
    return sorted(os.listdir(folder))


def test_file_takes_a_waveform_and_gives_scores(files, model, clips):
    path = files[0] / "none.tflite"
    (graph,) = read(path).subgraphs
    (signature,) = Interpreter(model_path=str(path)).get_signature_list().values()
    assert signature == {"inputs": ["waveform"], "outputs": ["scores"]}
    assert [list(graph.tensors[i].shape) for i in graph.inputs] == [[1, 16000]]
    assert [list(graph.tensors[i].shape) for i in graph.outputs] == [[1, 5]]
    np.testing.assert_allclose(scores_of(path, clips), keras_scores(model, clips), atol=EXACT)


def test_all_operators_are_built_in(files):
    for path in files[0].glob("*.tflite"):
        assert set(operators(path.read_bytes())) <= BUILTINS, path


def test_formats_are_within_their_tolerance_and_shrink(files, model, clips):
    folder, reports = files
    expected = keras_scores(model, clips[:10])
    for name, report in reports.items():
        error = np.abs(scores_of(folder / f"{name}.tflite", clips[:10]) - expected)
        assert not report.violations
        assert report.agreement == 1.0
        # The same clips and file, run in this process.
        assert report.max_error == pytest.approx(error.max(), abs=1e-6)
        assert report.mean_error == pytest.approx(error.mean(), abs=1e-6)
        assert report.size_bytes == (folder / f"{name}.tflite").stat().st_size
        assert report.latency_seconds > 0
        # A process with the interpreter only; one with TensorFlow takes five times as much.
        assert 20e6 < report.peak_memory_bytes < 200e6
    sizes = [reports[name].size_bytes for name in ("none", "float16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", ["float16", "int8", "int4"])
def test_only_the_matrices_of_the_backbone_are_quantised(name, files):
    (graph,) = read(files[0] / f"{name}.tflite").subgraphs
    kinds = schema.TensorType
    floats = {kinds.FLOAT32, kinds.INT32}
    if name == "int4":
        floats.add(kinds.FLOAT16)  # the scales of blocks of 32 numbers
    small = [t for t in graph.tensors if t.type not in floats]
    # The patch projection and four matrices in each of two blocks.
    assert len(small) == 9
    assert sorted(int(np.prod(t.shape)) for t in small) == sorted(
        [48 * 256, *2 * [144 * 48, 48 * 48, 96 * 48, 48 * 96]]
    )


def test_report_is_next_to_the_file(files):
    folder, reports = files
    for name, report in reports.items():
        text = (folder / f"{name}.tflite.json").read_text()
        stored = json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} is not JSON"))
        assert stored["max_error"] == report.max_error
        assert stored["operators"] == report.operators
        assert stored["labels"] == list(LABELS.names)
        assert (stored["sample_rate"], stored["num_samples"]) == (16000, 16000)
        assert "same best class      1.0000" in report.table()


@pytest.fixture(scope="module")
def spoiled():
    """A model with one matrix that int8 cannot represent, because of a row of large weights."""
    model = labelled_classifier()
    block = model.backbone.get_layer("block_0")
    kernel = block.mlp_output.kernel.numpy()
    kernel[7] = 4000.0
    block.mlp_output.kernel.assign(kernel)
    # The hidden unit of this row is switched off, so that the model's scores do not change.
    hidden = block.mlp_hidden.kernel.numpy()
    hidden[:, 7] = 0.0
    block.mlp_hidden.kernel.assign(hidden)
    return model


def test_violated_tolerance_writes_nothing_and_names_the_worst_layers(
    spoiled, small_model, tmp_path
):
    message = r"agreement .* < 1.1.*--fallback.*Lowest .* block_0/mlp_output -?[\d.]+ dB"
    strict = Tolerance(agreement=1.1)
    with pytest.raises(ExportError, match=message):
        export_tflite(spoiled, tmp_path / "x.tflite", quantize="int8", num_clips=4, bounds=strict)
    with pytest.raises(ExportError, match="Nothing was written"):
        export_tflite(
            small_model, tmp_path / "x.tflite", num_clips=4, bounds=Tolerance(max_error=0.0)
        )
    assert not listed(tmp_path)


@pytest.mark.slow
def test_fallback_leaves_the_spoiled_layer_in_float(spoiled, tmp_path):
    lines = []
    report = export_tflite(
        spoiled,
        tmp_path / "x.tflite",
        quantize="int8",
        num_clips=20,
        bounds=Tolerance(agreement=0.99, mean_error=0.005),
        fallback=True,
        log=lines.append,
    )
    assert report.float_layers == ("block_0/mlp_output",)
    assert not report.violations
    assert lines[-1] == "1 layers in float32: within the tolerance"
    assert listed(tmp_path) == ["x.tflite", "x.tflite.json"]


def candidate(layers, all_layers):
    """Returns a file whose mean error is the fraction of quantized layers."""
    report = Report(
        "int8", "", Tolerance(mean_error=0.5), 1.0, 0.0, len(layers) / len(all_layers), 0, 0.0, 0,
        {}, tuple(x for x in all_layers if x not in layers),
    )  # fmt: skip
    return TfliteCandidate(b"", tuple(layers), report)


def test_search_returns_an_eighth_of_the_layers_per_round_the_noisiest_first():
    layers = [f"layer {index}" for index in range(16)]
    noisiest = layers[::-1]
    tried, lines = [], []

    def evaluate(quantized):
        tried.append(len(quantized))
        return candidate(quantized, layers)

    found = search_float_layers(candidate(layers, layers), noisiest, evaluate, lines.append)
    assert tried == [14, 12, 10, 8]
    assert found.layers == tuple(layers[:8])
    assert lines[0].startswith("2 layers in float32: mean error 8.75e-01 > 5.00e-01")
    assert lines[-1] == "8 layers in float32: within the tolerance"


def test_noise_is_measured_one_layer_at_a_time(spoiled, clips):
    content = convert(spoiled, 16000)
    layers = quantizable_layers(spoiled)
    ratios = signal_to_noise(content, "int8", spoiled, layers, clips[:2])
    assert set(ratios) == set(layers)
    worst, second = list(ratios.items())[:2]
    assert worst[0] == "block_0/mlp_output"
    assert worst[1] < second[1] - 10, "layers after the bad one are not bad themselves"


def test_half_precision_model_is_exported_in_float32(clips):
    half = labelled_classifier(dtype="mixed_bfloat16", num_layers=1)
    single = exportable(half)
    assert single.backbone.policy.name == "float32"
    for ours, theirs in zip(single.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found = ServingModule(half).scores(tf.constant(clips[:4]))
    # The same sums, in another order where the batch is split; scores are below 1.
    np.testing.assert_allclose(found, keras_scores(single, clips[:4]), rtol=0, atol=EXACT)


def test_token_merging_is_exported(tmp_path):
    """The file is compared with the model that merges tokens; all operators are built in."""
    merging = labelled_classifier(merge_tokens=8)
    report = export_tflite(merging, tmp_path / "model.tflite", quantize="int8", num_clips=4)
    assert report.agreement == 1.0
    assert not report.float_layers
    assert "UNSORTED_SEGMENT_SUM" in report.operators


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_samples": 0}, ExportError, "must be a positive integer"),
        ({"num_samples": -1}, ExportError, "must be a positive integer"),
        ({"num_samples": 1.5}, ExportError, "must be a positive integer"),
        ({"num_samples": 17000}, ExportError, r"at most 16079 samples \(1.00 s\)"),
        ({"labels": LabelSet(("a", "b"))}, LabelError, "2 labels, num_classes=5"),
        ({"method": "fft"}, ExportError, 'needs the filterbank method="conv"'),
        ({"quantize": "int2"}, ExportError, "quantize must be one of none, float16, int8, int4"),
    ],
)
def test_wrong_arguments_are_rejected(settings, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        export_tflite(model, tmp_path / "x.tflite", **settings)
    assert not listed(tmp_path)


def test_existing_file_needs_overwrite(small_model, tmp_path):
    target = tmp_path / "x.tflite"
    target.write_text("mine")
    with pytest.raises(ExportError, match="add --overwrite"):
        export_tflite(small_model, target)
    with pytest.raises(ExportError, match="must be a file, not a folder"):
        export_tflite(small_model, tmp_path, overwrite=True)
    assert target.read_text() == "mine"
    export_tflite(small_model, target, num_clips=2, overwrite=True)
    assert target.read_bytes()[4:8] == b"TFL3"


def test_model_without_frontend_is_rejected(tmp_path):
    without_frontend = from_preset("ast_test", num_classes=2, num_frames=98, frontend=None)
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        export_tflite(without_frontend, tmp_path / "x.tflite")


@pytest.mark.parametrize("package", ["litert_quantizer", "ai_edge_litert.interpreter"])
def test_missing_package_is_named(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r"pip install 'ast-keras\[export\]'"):
        export_tflite(model, tmp_path / "x.tflite", quantize="int8")
    assert not listed(tmp_path)


def test_operator_that_is_not_built_in_is_named(small_model, tmp_path, monkeypatch):
    scores = type(small_model).scores
    # TFLite has the error function inside its GELU only.
    monkeypatch.setattr(type(small_model), "scores", lambda self, x: tf.math.erf(scores(self, x)))
    with pytest.raises(ExportError, match=r"no built-in operator for a part.*Erf"):
        export_tflite(small_model, tmp_path / "x.tflite")
    assert not listed(tmp_path)


@pytest.fixture(scope="module")
def saved(small_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_to_preset(small_model, folder)
    return str(folder)


def test_command_prints_the_report(saved, tmp_path, capsys):
    options = Options(
        model=saved,
        output=str(tmp_path / "x.tflite"),
        quantize="int8",
        num_clips=4,
        seconds=0.25,
        agreement=0.9,
    )
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "same best class      1.0000  (at least 0.9)" in printed
    assert "mean score error" in printed
    assert "(at most 1e-02)" in printed, "limits that no flag changes are the default's"
    assert "4 rendered sounds" in printed
    stored = json.loads((tmp_path / "x.tflite.json").read_text())
    assert stored["num_samples"] == 4000
    with pytest.raises(ExportError, match="The file exists"):
        main(options)


def test_command_rejects_a_length_of_zero():
    with pytest.raises(CommandError, match="--seconds must be positive"):
        main(Options(model="m", output="x.tflite", seconds=0))


@pytest.mark.slow
def test_command_runs_from_a_shell(saved, tmp_path):
    command = [sys.executable, "-m", "export.tflite", "--model", saved]
    command += ["--output", str(tmp_path / "x.tflite"), "--num_clips", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "same best class      1.0000" in done.stdout

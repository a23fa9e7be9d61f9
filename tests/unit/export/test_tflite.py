"""A TFLite file is as good as its model, or is not there."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from ast_keras import from_preset, save_to_preset
from ast_keras.export import ExportError, export_tflite
from ast_keras.export import tflite as module
from ast_keras.export.acceptance import Tolerance
from ast_keras.export.isolated_run import operators
from ast_keras.export.quantization import quantisable_layers, signal_to_noise
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.export.serving_module import ServedGraph, default_num_samples, in_float32
from ast_keras.labels import LabelSet

ROOT = pathlib.Path(__file__).parents[3]
LABELS = LabelSet(("dog", "cow", "hen", "cat", "fox"))
BUILTINS = {
    *("ADD", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "FULLY_CONNECTED", "GELU", "LOG"),
    *("MAXIMUM", "MEAN", "MUL", "NEG", "RESHAPE", "RSQRT", "SOFTMAX", "SPLIT", "SQUARE"),
    *("SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "TRANSPOSE", "PAD", "LOGISTIC", "DEQUANTIZE"),
}


def make_model(**settings):
    keras.utils.set_random_seed(5)
    model = from_preset("ast_test", labels=LABELS, num_frames=98, **settings)
    # A random head says nearly the same of every sound.
    model.head.kernel.assign(60 * model.head.kernel)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """A file of every format, with its report."""
    folder = tmp_path_factory.mktemp("files")
    reports = {
        name: export_tflite(model, folder / f"{name}.tflite", quantize=name, num_clips=20)
        for name in ("none", "float16", "int8", "int4")
    }
    return folder, reports


@pytest.fixture(scope="module")
def clips(model):
    return comparison_clips(model, 16000, num_clips=20)[0]


def read(path):
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def scores_of(path, clips):
    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    return np.stack([runner(waveform=clip[None])["scores"][0] for clip in clips])


def leftovers(folder):
    return sorted(os.listdir(folder))


def test_file_takes_sound_and_gives_scores(files, model, clips):
    path = files[0] / "none.tflite"
    (graph,) = read(path).subgraphs
    (signature,) = Interpreter(model_path=str(path)).get_signature_list().values()
    assert signature == {"inputs": ["waveform"], "outputs": ["scores"]}
    assert [list(graph.tensors[i].shape) for i in graph.inputs] == [[1, 16000]]
    assert [list(graph.tensors[i].shape) for i in graph.outputs] == [[1, 5]]
    # float32 sums of some hundred terms in another order, filterbank included: seen 1e-6.
    np.testing.assert_allclose(scores_of(path, clips), keras_scores(model, clips), atol=1e-5)


def test_only_builtin_operators(files):
    for path in files[0].glob("*.tflite"):
        assert set(operators(path.read_bytes())) <= BUILTINS, path


def test_formats_keep_their_bounds_and_shrink(files, model, clips):
    folder, reports = files
    expected = keras_scores(model, clips)
    for name, report in reports.items():
        error = np.abs(scores_of(folder / f"{name}.tflite", clips) - expected)
        assert not report.missed
        assert report.agreement == 1.0
        # The same clips, run once more.
        assert report.max_error == pytest.approx(error.max(), abs=1e-6)
        assert report.mean_error == pytest.approx(error.mean(), abs=1e-6)
        assert report.size_bytes == (folder / f"{name}.tflite").stat().st_size
        assert report.latency_seconds > 0
        # A whole process with an interpreter; TensorFlow alone would be five times that.
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


def test_report_lies_beside_the_file(files):
    folder, reports = files
    for name, report in reports.items():
        text = (folder / f"{name}.tflite.json").read_text()
        stored = json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} is no JSON"))
        assert stored["max_error"] == report.max_error
        assert stored["operators"] == report.operators
        assert stored["labels"] == list(LABELS.names)
        assert (stored["sample_rate"], stored["num_samples"]) == (16000, 16000)
        assert "same best class      1.0000" in report.table()


def test_missed_bound_writes_nothing_and_names_layers(model, tmp_path):
    strict = Tolerance(mean_error=1e-9)
    with pytest.raises(ExportError, match=r"mean error .* > 1.00e-09.*--fallback.*[\d.]+ dB"):
        export_tflite(model, tmp_path / "x.tflite", quantize="int8", num_clips=4, bounds=strict)
    with pytest.raises(ExportError, match="Nothing was written"):
        export_tflite(model, tmp_path / "x.tflite", num_clips=4, bounds=Tolerance(max_error=0.0))
    assert not leftovers(tmp_path)


@pytest.fixture(scope="module")
def spoiled():
    """A model with one matrix that eight bits cannot hold: one number of it is far too large."""
    model = make_model()
    block = model.backbone.get_layer("block_0")
    kernel = block.mlp_output.kernel.numpy()
    # The hidden unit that it belongs to is switched off, so that the model hears as before.
    kernel[7] = 0.0
    kernel[7, :] = 4000.0
    block.mlp_output.kernel.assign(kernel)
    hidden = block.mlp_hidden.kernel.numpy()
    hidden[:, 7] = 0.0
    block.mlp_hidden.kernel.assign(hidden)
    return model


def test_fallback_leaves_the_spoiled_layer_in_float(spoiled, tmp_path):
    bounds = Tolerance(agreement=0.99, mean_error=0.005)
    with pytest.raises(ExportError, match="Worst signal to noise: block_0/mlp_output"):
        export_tflite(spoiled, tmp_path / "x.tflite", quantize="int8", num_clips=20, bounds=bounds)
    said = []
    report = export_tflite(
        spoiled, tmp_path / "x.tflite", quantize="int8", num_clips=20, bounds=bounds,
        fallback=True, say=said.append,
    )  # fmt: skip
    assert report.float_layers == ("block_0/mlp_output",)
    assert not report.missed
    assert said[-1] == "1 layers in float32: all bounds hold"
    assert leftovers(tmp_path) == ["x.tflite", "x.tflite.json"]


def test_layers_are_judged_one_by_one(spoiled, clips):
    content = module.convert(spoiled, 16000)
    layers = quantisable_layers(spoiled)
    ratios = signal_to_noise(content, "int8", spoiled, layers, clips[:2])
    assert set(ratios) == set(layers)
    worst, second = list(ratios.items())[:2]
    assert worst[0] == "block_0/mlp_output"
    assert worst[1] < second[1] - 10, "what comes behind the bad layer is not bad itself"


def test_half_precision_model_is_exported_in_float32(clips, tmp_path):
    half = make_model(dtype="mixed_bfloat16")
    single = in_float32(half)
    assert single.backbone.policy.name == "float32"
    for ours, theirs in zip(single.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found = ServedGraph(half).scores(tf.constant(clips))
    np.testing.assert_allclose(found, keras_scores(single, clips), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dial", [{"merge_tokens": 8}])
def test_models_with_dials_are_exported_as_they_are(dial, tmp_path):
    """The bounds compare with the model itself, merged or not; all operators are built in."""
    turned = make_model(**dial)
    report = export_tflite(turned, tmp_path / "model.tflite", quantize="int8", num_clips=10)
    assert report.agreement == 1.0
    assert not report.float_layers
    assert ("UNSORTED_SEGMENT_SUM" in report.operators) == ("merge_tokens" in dial)


@pytest.mark.parametrize(
    ("frames", "samples"),
    [(98, 16000), (97, 97 * 160 + 240), (128, 16000), (512, 80000), (1024, 160000), (10, 1840)],
)
def test_default_length_is_whole_seconds_if_all_are_heard(frames, samples):
    model = from_preset("ast_test", num_classes=2, num_frames=max(frames, 16))
    model.frontend.num_frames = frames
    assert default_num_samples(model) == samples


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "sounds of one length"),
        ({"num_samples": -1}, "sounds of one length"),
        ({"num_samples": 1.5}, "sounds of one length"),
        ({"num_samples": 17000}, r"hears 15920 samples \(0.99 s\) and no more"),
        ({"labels": LabelSet(("a", "b"))}, "2 labels, 5 classes"),
        ({"method": "fft"}, 'needs the filterbank method="conv"'),
        ({"quantize": "int2"}, "quantize must be one of none, float16, int8, int4"),
    ],
)
def test_wrong_arguments_are_refused(settings, message, model, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_tflite(model, tmp_path / "x.tflite", **settings)
    assert not leftovers(tmp_path)


def test_existing_file_needs_overwrite(model, tmp_path):
    target = tmp_path / "x.tflite"
    target.write_text("mine")
    with pytest.raises(ExportError, match="add --overwrite"):
        export_tflite(model, target)
    with pytest.raises(ExportError, match="Name a file, not a folder"):
        export_tflite(model, tmp_path, overwrite=True)
    assert target.read_text() == "mine"
    export_tflite(model, target, num_clips=2, overwrite=True)
    assert target.read_bytes()[4:8] == b"TFL3"


def test_spectrogram_model_is_refused(tmp_path):
    silent = from_preset("ast_test", num_classes=2, num_frames=98, frontend=None)
    with pytest.raises(ExportError, match="takes spectrograms"):
        export_tflite(silent, tmp_path / "x.tflite")


@pytest.mark.parametrize("package", ["litert_quantizer", "ai_edge_litert.interpreter"])
def test_missing_package_is_named(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=r"pip install 'ast-keras\[export\]'"):
        export_tflite(model, tmp_path / "x.tflite", quantize="int8")
    assert not leftovers(tmp_path)


def test_operator_that_is_not_builtin_is_named(model, tmp_path, monkeypatch):
    scores = type(model).scores
    # TFLite has no error function but inside the GELU.
    monkeypatch.setattr(type(model), "scores", lambda self, x: tf.math.erf(scores(self, x)))
    with pytest.raises(ExportError, match=r"no built-in operator for a part.*Erf"):
        export_tflite(model, tmp_path / "x.tflite")
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_command_says_what_it_wrote(model, tmp_path):
    save_to_preset(model, tmp_path / "model")
    command = [sys.executable, "-m", "export.tflite", "--model", tmp_path / "model"]
    command += ["--output", tmp_path / "x.tflite", "--quantize", "int8", "--num_clips", "4"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    run = [*map(str, command)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "same best class      1.0000  (at least 0.99)" in done.stdout
    assert "4 rendered sounds" in done.stdout
    again = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert again.returncode == 1
    assert again.stderr.strip().splitlines()[-1].startswith("error: The file exists")

"""Causal models as TFLite files whose state is passed from call to call."""

import json
import subprocess
import sys

import numpy as np
import pytest

import ast_keras
from ast_keras.errors import ExportError
from ast_keras.export.streaming_tflite import export_streaming_tflite
from tests.helpers.models import attentive_causal_classifier, block_logits

# float32 sums in another order; logits of up to 6.
SUMS = 1e-5


@pytest.fixture(scope="module")
def model():
    return attentive_causal_classifier()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Returns the exported file and the export's report by quantisation."""
    folder = tmp_path_factory.mktemp("exported")
    files = {name: folder / f"{name}.tflite" for name in ("none", "int8")}
    return {
        name: (file, export_streaming_tflite(model, file, quantize=name))
        for name, file in files.items()
    }


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_exported_stream_equals_the_model(exported, quantize):
    file, about = exported[quantize]
    # Compared by the export itself, over three times the blocks that attention reaches.
    assert about["compared_blocks"] == 18
    assert about["max_error"] < (1e-5 if quantize == "none" else 0.1)
    written = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert written["state"]["state_samples"] == [1, 1200]
    assert written["state"]["state_keys_1"] == [1, 3, 124, 16]
    assert written["num_samples"] == 8000


def test_quantised_stream_is_smaller(model, exported):
    sizes = [exported[quantize][1]["size_bytes"] for quantize in ("none", "int8")]
    matrices = sum(
        int(np.prod(weight.shape))
        for block in model.backbone.blocks
        for weight in block.weights
        if "kernel" in weight.path
    )
    assert sizes[0] - sizes[1] > 2.5 * matrices  # one of four bytes remains, and the scales


CLIENT = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
about = json.load(open(sys.argv[1] + ".json"))
runner = Interpreter(model_path=sys.argv[1]).get_signature_runner("stream")
details = runner.get_input_details()
state = {n: np.zeros(s, details[n]["dtype"]) for n, s in about["state"].items()}
waveform, size, scores = np.load(sys.argv[2]), about["num_samples"], []
for block in range(len(waveform) // size):
    outputs = runner(waveform=waveform[None, block * size:][:, :size], **state)
    scores.append(outputs.pop("scores")[0])
    state = outputs
np.save(sys.argv[3], scores)
"""


def test_client_without_this_package_streams_for_long(model, exported, tmp_path):
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 40), 4000)
    waveform = (rng.uniform(-1, 1, 160_000) * loudness).astype("float32")[None]
    np.save(tmp_path / "waveform.npy", waveform[0])
    paths = [exported["none"][0], tmp_path / "waveform.npy", tmp_path / "scores.npy"]
    command = [sys.executable, "-c", CLIENT, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # The stream starts with silence before its first sample.
    whole = np.concatenate([np.zeros((1, 1200), "float32"), waveform], axis=1)
    expected = model.scores(block_logits(model, model.spectrogram(whole)))[0]
    np.testing.assert_allclose(np.load(paths[2]), expected[:20], rtol=0, atol=SUMS)


def test_stream_export_rejects_what_it_cannot_write(model, tmp_path):
    plain = ast_keras.from_preset("ast_test", num_classes=2, num_frames=98)
    with pytest.raises(ExportError, match="Only a causal model"):
        export_streaming_tflite(plain, tmp_path / "a.tflite")
    with pytest.raises(ExportError, match="at least one past block"):
        export_streaming_tflite(attentive_causal_classifier(0), tmp_path / "a.tflite")
    with pytest.raises(ExportError, match="quantize must be one of"):
        export_streaming_tflite(model, tmp_path / "a.tflite", quantize="int2")
    (tmp_path / "a.tflite").write_text("mine")
    with pytest.raises(ExportError, match="add --overwrite"):
        export_streaming_tflite(model, tmp_path / "a.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]

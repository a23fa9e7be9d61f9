"""SavedModels: signatures, stored weights, warm-up requests, versions, and a client of a server."""

import base64
import concurrent.futures
import http.server
import json
import os
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from ast_keras import from_preset, save_to_preset
from ast_keras.audio import load_audio
from ast_keras.audio.encoding import wav_bytes
from ast_keras.errors import ArgumentError
from ast_keras.export import ExportError, export_saved_model
from ast_keras.export.acceptance import Tolerance
from ast_keras.export.serving_warmup import WARMUP_FILE
from export.saved_model import Options, main
from export.serving import client
from tests.helpers.audio import encode
from tests.helpers.paths import ROOT
from tests.unit.export.models import EXACT, LABELS, round_to_16_bits


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "sounds"
    return export_saved_model(model, base, num_clips=8)


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported[0]))


def keras_scores(model, waveform):
    return model.scores(model(waveform)).numpy()


def call_signature(served, signature, **inputs):
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    return {k: v.numpy() for k, v in served.signatures[signature](**tensors).items()}


@pytest.mark.parametrize(("batch", "samples"), [(3, 16000), (2, 4000), (1, 30000)])
def test_default_signature_takes_any_batch_and_length(batch, samples, model, served, clips):
    waveform = np.resize(clips[:batch], (batch, samples))
    found = call_signature(served, "serving_default", waveform=waveform)
    assert set(found) == {"scores"}
    np.testing.assert_allclose(found["scores"], keras_scores(model, waveform), rtol=0, atol=EXACT)


def test_wav_files_of_one_batch_do_not_affect_each_other(model, served, clips):
    waveforms = [clips[0], clips[1][:7000], clips[2][:300]]
    encoded = [wav_bytes(waveform, 16000) for waveform in waveforms]
    found = call_signature(served, "serving_bytes", audio_bytes=encoded)["scores"]
    for scores, waveform in zip(found, waveforms, strict=True):
        expected = keras_scores(model, round_to_16_bits(waveform)[None])[0]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)


def test_channels_are_averaged_and_another_rate_is_rejected(model, served, clips):
    # Even 16-bit numbers, whose halves are 16-bit numbers as well.
    mono = np.rint(clips[0] * 8192) / 16384
    stereo = np.stack([mono * 1.5, mono * 0.5], axis=1)
    found = call_signature(served, "serving_bytes", audio_bytes=[encode(stereo, 16000)])["scores"]
    expected = keras_scores(model, round_to_16_bits(stereo).mean(axis=1)[None])
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="sampled at 16000 Hz: resample it before"
    ):
        call_signature(served, "serving_bytes", audio_bytes=[encode(mono, 8000)])


def test_wav_files_with_extensible_headers_are_served(model, served, clips):
    stereo = round_to_16_bits(np.stack([clips[0], clips[1]], axis=1))
    files = [encode(stereo, container="WAVEX"), encode(stereo), encode(stereo, container="RF64")]
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={"audio_bytes": tf.train.Feature(bytes_list=tf.train.BytesList(value=[x]))}
            )
        ).SerializeToString()
        for x in files
    ]
    expected = [keras_scores(model, load_audio(file)[None])[0] for file in files]
    for found in (
        call_signature(served, "serving_bytes", audio_bytes=files)["scores"],
        call_signature(served, "classify", inputs=examples)["scores"],
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


def test_embed_gives_pooled_and_tokens(model, served, clips):
    found = call_signature(served, "embed", waveform=clips[:4])
    tokens = model.backbone(model.spectrogram(clips[:4])).numpy()
    # Normalised tokens have magnitude one; two blocks of sums in another order, seen 4e-6.
    np.testing.assert_allclose(found["tokens"], tokens, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["pooled"], tokens[:, :2].mean(axis=1), rtol=0, atol=2e-5)


def read_graph(folder):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def test_each_weight_is_stored_once_with_the_methods_of_a_server(exported, model):
    folder, report = exported
    graph = read_graph(folder)
    methods = {name: s.method_name for name, s in graph.signature_def.items() if name[:2] != "__"}
    predict, classify = (f"tensorflow/serving/{x}" for x in ("predict", "classify"))
    assert methods == {
        "serving_default": predict,
        "serving_lengths": predict,
        "serving_bytes": predict,
        "embed": predict,
        "classify": classify,
    }
    assert not [name for name in report.operators if name.startswith("IO>")]
    stored = dict(tf.train.list_variables(str(folder / "variables" / "variables")))
    shapes = [shape for name, shape in stored.items() if name.startswith("model_variables")]
    assert sorted(shapes) == sorted(list(weight.shape) for weight in model.variables)
    # TensorFlow adds a counter and the graph of objects.
    assert len(stored) <= len(shapes) + 2
    assert (folder / "assets" / "labels.txt").read_text().splitlines() == list(LABELS.names)
    assert json.loads((folder / "report.json").read_text())["agreement"] == 1.0


def test_warmup_requests_run(exported, served):
    folder, _ = exported
    seen = set()
    for raw in tf.data.TFRecordDataset(str(folder / WARMUP_FILE)):
        record = prediction_log_pb2.PredictionLog.FromString(raw.numpy())
        kind = record.WhichOneof("log_type")
        request = getattr(record, kind).request
        assert request.model_spec.name == "sounds"
        answer = answer_of(served, request, kind == "classify_log")
        assert all(np.isfinite(v).all() for v in answer.values() if v.dtype != object)
        seen.add(request.model_spec.signature_name)
    assert seen == {"serving_default", "serving_bytes", "classify", "embed"}


def answer_of(served, request, is_classify):
    """Runs a request of TensorFlow Serving's protocol through the reloaded model."""
    if is_classify:
        examples = [e.SerializeToString() for e in request.input.example_list.examples]
        return call_signature(served, "classify", inputs=examples)
    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    return call_signature(served, request.model_spec.signature_name, **inputs)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The Classify call of TensorFlow Serving, with the exported model."""

    def __init__(self, served):
        self.served = served

    def Classify(self, request, context):
        if request.model_spec.name != "sounds":
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        answer = answer_of(self.served, request, is_classify=True)
        response = classification_pb2.ClassificationResponse()
        for names, scores in zip(answer["classes"], answer["scores"], strict=True):
            found = response.result.classifications.add()
            for name, score in zip(names, scores, strict=True):
                found.classes.add(label=name.decode(), score=float(score))
        return response


@pytest.fixture(scope="module")
def grpc_address(served):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(served), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def rest_address(served):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/v1/models/sounds:classify"
            answer = self.classify(body) if known else {"error": "Servable not found"}
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def classify(self, body):
            assert body["signature_name"] == "classify"
            examples = []
            for given in body["examples"]:
                example = tf.train.Example()
                sound = base64.b64decode(given["audio_bytes"]["b64"])
                example.features.feature["audio_bytes"].bytes_list.value.append(sound)
                examples.append(example.SerializeToString())
            answer = call_signature(served, "classify", inputs=examples)
            pairs = zip(answer["classes"].tolist(), answer["scores"].tolist(), strict=True)
            rows = [zip(names, scores, strict=True) for names, scores in pairs]
            return {"results": [[[name.decode(), score] for name, score in row] for row in rows]}

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_client_gets_names_and_scores(protocol, model, clips, grpc_address, rest_address):
    classify, address = {
        "grpc": (client.classify_by_grpc, grpc_address),
        "rest": (client.classify_by_rest, rest_address),
    }[protocol]
    waveforms = [clips[0], clips[1][:9000]]
    answers = classify(address, "sounds", [wav_bytes(w, 16000) for w in waveforms])
    for answer, waveform in zip(answers, waveforms, strict=True):
        assert [label for label, _ in answer] == list(LABELS.names)
        expected = keras_scores(model, round_to_16_bits(waveform)[None])[0]
        np.testing.assert_allclose([score for _, score in answer], expected, rtol=0, atol=EXACT)
    with pytest.raises(ExportError, match="Servable not found"):
        classify(address, "other", [wav_bytes(clips[0], 16000)])


@pytest.mark.parametrize("classify", [client.classify_by_grpc, client.classify_by_rest])
def test_client_reports_a_server_that_does_not_answer(classify):
    with pytest.raises(ExportError, match=r"does not answer.*127\.0\.0\.1:9"):
        classify("127.0.0.1:9", "sounds", [b""], timeout=5)


def write_stereo_flac(path, waveform):
    """Writes a clip of 16,000 samples as one second of stereo at 44.1 kHz."""
    times = np.arange(44100) / 44100
    resampled = np.interp(times, np.arange(16000) / 16000, waveform)
    soundfile.write(path, np.repeat(resampled[:, None], 2, axis=1), 44100)


def test_client_command_decodes_any_file(clips, rest_address, tmp_path, capsys):
    write_stereo_flac(tmp_path / "tone.flac", clips[0])
    options = client.Options(
        files=(str(tmp_path / "tone.flac"),),
        rest=True,
        model_name="sounds",
        address=rest_address,
        top=2,
    )
    assert client.main(options) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("tone.flac")
    assert len(rest) == 2
    assert rest[0].split()[1] in LABELS.names


def test_client_does_not_import_tensorflow():
    code = "import sys, export.serving.client; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_configuration_of_the_server_is_valid():
    text = (ROOT / "export" / "serving" / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("ast", "/models/ast")
    assert model.model_version_policy.latest.num_versions == 2


def test_existing_version_is_replaced_only_if_asked(small_model, tmp_path, measure_in_process):
    for version in ("7", "8"):
        (tmp_path / "m" / version).mkdir(parents=True)
    with pytest.raises(ExportError, match="version exists: add --overwrite"):
        export_saved_model(small_model, tmp_path / "m", version=8)
    with pytest.raises(ExportError, match="version must be a positive number"):
        export_saved_model(small_model, tmp_path / "m", version=0)
    export_saved_model(small_model, tmp_path / "m", version=8, overwrite=True, num_clips=1)
    assert (tmp_path / "m" / "8" / "saved_model.pb").is_file()
    assert sorted(os.listdir(tmp_path / "m")) == ["7", "8"]
    assert not os.listdir(tmp_path / "m" / "7")


def test_violated_tolerance_writes_nothing(small_model, tmp_path, measure_in_process):
    with pytest.raises(ExportError, match=r"largest error .* > 0\.00e\+00.*Nothing was written"):
        export_saved_model(
            small_model, tmp_path / "m", num_clips=1, bounds=Tolerance(max_error=0.0)
        )
    assert not list((tmp_path / "m").iterdir())


def test_export_rejects_what_it_cannot_write(small_model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_serving.apis", None)
        with pytest.raises(ExportError, match=r"pip install 'ast-keras\[export\]'"):
            export_saved_model(small_model, tmp_path / "m", num_clips=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="must be a folder, not a file"):
        export_saved_model(small_model, tmp_path / "file")
    without_frontend = from_preset("ast_test", num_classes=2, num_frames=32, frontend=None)
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        export_saved_model(without_frontend, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_command_writes_the_next_version(small_model, tmp_path, capsys, measure_in_process):
    save_to_preset(small_model, tmp_path / "model")
    (tmp_path / "sounds" / "7").mkdir(parents=True)
    options = Options(
        model=str(tmp_path / "model"),
        output=str(tmp_path / "sounds"),
        num_clips=2,
        frontend="fft",
        max_error=1e-4,
    )
    assert main(options) == 0
    assert "tensorflow_model_server --model_name=sounds" in capsys.readouterr().out
    assert (tmp_path / "sounds" / "8" / "saved_model.pb").is_file()
    report = json.loads((tmp_path / "sounds" / "8" / "report.json").read_text())
    assert report["bounds"]["max_error"] == 1e-4


@pytest.mark.slow
def test_command_runs_from_a_shell(small_model, tmp_path):
    save_to_preset(small_model, tmp_path / "model")
    command = [sys.executable, "-m", "export.saved_model", "--model", tmp_path / "model"]
    command += ["--output", tmp_path / "sounds", "--num_clips", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sounds" / "1" / "saved_model.pb").is_file()

"""The SavedModel: four signatures, weights once, and a server that is asked over gRPC and HTTP."""

import base64
import concurrent.futures
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import threading

import grpc
import keras
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
from ast_keras.export import ExportError, export_saved_model, saved_model
from ast_keras.export.acceptance import Tolerance
from ast_keras.export.isolated_run import Measurement
from ast_keras.export.reference_clips import comparison_clips
from ast_keras.export.serving_warmup import WARMUP_FILE, wav_bytes
from ast_keras.labels import LabelSet
from export.serving import client

ROOT = pathlib.Path(__file__).parents[3]
LABELS = LabelSet(("dog", "cow", "hen", "cat", "fox"))
# float32 sums of some hundred terms in another order, filterbank included: seen 1e-6.
EXACT = 1e-5


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    made = from_preset("ast_test", labels=LABELS, num_frames=98)
    made.head.kernel.assign(60 * made.head.kernel)
    return made


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "sounds"
    return export_saved_model(model, base, num_clips=8)


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported[0]))


@pytest.fixture(scope="module")
def clips(model):
    return comparison_clips(model, 16000, num_clips=4)[0]


def keras_scores(model, waveform):
    return model.scores(model(waveform)).numpy()


def in_sixteen_bits(waveform):
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.float32) / 32768


def call(served, signature, **inputs):
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    return {k: v.numpy() for k, v in served.signatures[signature](**tensors).items()}


@pytest.mark.parametrize(("batch", "samples"), [(1, 16000), (3, 16000), (2, 4000), (1, 30000)])
def test_default_signature_takes_any_batch_and_length(batch, samples, model, served, clips):
    waveform = np.resize(clips[:batch], (batch, samples))
    found = call(served, "serving_default", waveform=waveform)
    assert set(found) == {"scores"}
    np.testing.assert_allclose(found["scores"], keras_scores(model, waveform), rtol=0, atol=EXACT)


def test_bytes_of_several_lengths_are_each_heard_alone(model, served, clips):
    sounds = [clips[0], clips[1][:7000], clips[2][:300]]
    encoded = [wav_bytes(sound, 16000) for sound in sounds]
    found = call(served, "serving_bytes", audio_bytes=encoded)["scores"]
    for scores, sound in zip(found, sounds, strict=True):
        expected = keras_scores(model, in_sixteen_bits(sound)[None])[0]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)


def test_channels_are_averaged_and_another_rate_refused(model, served, clips):
    def encode(sound, rate):
        file = io.BytesIO()
        soundfile.write(file, sound, rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    # Even numbers of sixteen bits, so that their halves are exact, too.
    sound = np.rint(clips[0] * 8192) / 16384
    stereo = np.stack([sound * 1.5, sound * 0.5], axis=1)
    found = call(served, "serving_bytes", audio_bytes=[encode(stereo, 16000)])["scores"]
    expected = keras_scores(model, in_sixteen_bits(stereo).mean(axis=1)[None])
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    with pytest.raises(tf.errors.InvalidArgumentError, match="sampled at 16000 Hz: resample it"):
        call(served, "serving_bytes", audio_bytes=[encode(sound, 8000)])


def test_embed_gives_pooled_and_tokens(model, served, clips):
    found = call(served, "embed", waveform=clips)
    tokens = model.backbone(model.spectrogram(clips)).numpy()
    # Normalised tokens are of size one; two blocks of sums in another order, seen 4e-6.
    np.testing.assert_allclose(found["tokens"], tokens, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["pooled"], tokens[:, :2].mean(axis=1), rtol=0, atol=2e-5)


def read_graph(folder):
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


def test_graph_is_what_a_server_expects(exported, model):
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
    assert len(stored) <= len(shapes) + 2, "TensorFlow's own: a counter and the graph of objects"
    assert (folder / "assets" / "labels.txt").read_text().splitlines() == list(LABELS.names)
    assert json.loads((folder / "report.json").read_text())["agreement"] == 1.0


def test_weights_are_stored_once(tmp_path):
    # Large enough for the names of the variables not to count.
    large = from_preset("ast_tiny", num_classes=5, num_frames=98, num_layers=3)
    folder, _ = export_saved_model(large, tmp_path / "m", num_clips=1)
    size = sum(p.stat().st_size for p in (folder / "variables").iterdir())
    assert size == pytest.approx(4 * large.count_params(), rel=0.01)


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
        return call(served, "classify", inputs=examples)
    inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    return call(served, request.model_spec.signature_name, **inputs)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The part of TensorFlow Serving that the client talks to, over the exported model."""

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
            answer = call(served, "classify", inputs=examples)
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
    sounds = [clips[0], clips[1][:9000]]
    answers = classify(address, "sounds", [wav_bytes(s, 16000) for s in sounds])
    for answer, sound in zip(answers, sounds, strict=True):
        assert [label for label, _ in answer] == list(LABELS.names)
        expected = keras_scores(model, in_sixteen_bits(sound)[None])[0]
        np.testing.assert_allclose([s for _, s in answer], expected, rtol=0, atol=EXACT)
    with pytest.raises(ExportError, match="Servable not found"):
        classify(address, "other", [wav_bytes(clips[0], 16000)])


@pytest.mark.parametrize("classify", [client.classify_by_grpc, client.classify_by_rest])
def test_client_says_that_nobody_answers(classify):
    with pytest.raises(ExportError, match=r"does not answer.*127\.0\.0\.1:9"):
        classify("127.0.0.1:9", "sounds", [b""], timeout=5)


def test_client_command_decodes_any_file(clips, rest_address, tmp_path):
    stereo = np.repeat(np.interp(np.arange(44100) / 44100, np.arange(16000) / 16000, clips[0])
                       [:, None], 2, axis=1)  # fmt: skip
    soundfile.write(tmp_path / "tone.flac", stereo, 44100)
    command = [sys.executable, "-m", "export.serving.client", "--rest", "--model_name", "sounds"]
    command += ["--address", rest_address, "--top", "2", str(tmp_path / "tone.flac")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.endswith("tone.flac")
    assert len(rest) == 2
    assert rest[0].split()[1] in LABELS.names


def test_model_config_is_what_a_server_reads():
    text = (ROOT / "export" / "serving" / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("ast", "/models/ast")
    assert model.model_version_policy.latest.num_versions == 2


def test_versions_go_up_and_are_kept(model, tmp_path, monkeypatch):
    # What is measured is tested above; a process with TensorFlow for each version takes seconds.
    def measure_here(kind, folder, clips, num_threads):
        scores = call(tf.saved_model.load(str(folder)), "serving_default", waveform=clips)["scores"]
        return Measurement(scores, 0.0, 0)

    monkeypatch.setattr(saved_model, "measure", measure_here)

    def export(**settings):
        return export_saved_model(model, tmp_path / "m", num_clips=1, **settings)[0].name

    (tmp_path / "m" / "7").mkdir(parents=True)
    assert export() == "8"
    with pytest.raises(ExportError, match="version exists: add --overwrite"):
        export(version=8)
    assert export(version=8, overwrite=True) == "8"
    with pytest.raises(ExportError, match="A version is a positive number"):
        export(version=0)
    assert sorted(os.listdir(tmp_path / "m")) == ["7", "8"]


def test_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="Nothing was written"):
        export_saved_model(model, tmp_path / "m", num_clips=1, bounds=Tolerance(max_error=0.0))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_serving.apis", None)
        with pytest.raises(ExportError, match=r"pip install 'ast-keras\[export\]'"):
            export_saved_model(model, tmp_path / "m", num_clips=1)
    assert not list((tmp_path / "m").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="Name a folder, not a file"):
        export_saved_model(model, tmp_path / "file")
    silent = from_preset("ast_test", num_classes=2, num_frames=98, frontend=None)
    with pytest.raises(ExportError, match="takes spectrograms"):
        export_saved_model(silent, tmp_path / "n")


@pytest.mark.slow
def test_command_says_how_to_serve(model, tmp_path):
    save_to_preset(model, tmp_path / "model")
    command = [sys.executable, "-m", "export.saved_model", "--model", tmp_path / "model"]
    command += ["--output", tmp_path / "sounds", "--num_clips", "2", "--frontend", "fft"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "tensorflow_model_server --model_name=sounds" in done.stdout
    assert (tmp_path / "sounds" / "1" / "saved_model.pb").is_file()

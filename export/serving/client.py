"""Asks a model server for the classes of sounds: `python -m export.serving.client FILE...`.

Files may have any format, rate and length: they are decoded and resampled here, and sent as 16-bit
WAV to the `classify` signature, which answers with names. gRPC by default, `--rest` for HTTP.
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.request

from absl import app, flags

from ast_keras.audio import load_audio
from ast_keras.commands.runner import run_command
from ast_keras.errors import ExportError

Answer = list[tuple[str, float]]


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if len(argv) < 2:
        raise ExportError("Say what to classify: FILE...")
    from ast_keras.export.serving_warmup import wav_bytes

    rate = options.sample_rate
    sounds = [wav_bytes(load_audio(path, rate), rate) for path in argv[1:]]
    classify = classify_by_rest if options.rest else classify_by_grpc
    address = options.address or ("localhost:8501" if options.rest else "localhost:8500")
    answers = classify(address, options.model_name, sounds, options.timeout)
    for path, answer in zip(argv[1:], answers, strict=True):
        print(path)
        for label, score in sorted(answer, key=lambda pair: -pair[1])[: options.top]:
            print(f"  {score:.4f}  {label}")
    return 0


def classify_by_grpc(
    address: str, model_name: str, sounds: list[bytes], timeout: float = 60.0
) -> list[Answer]:
    """Returns label and score of every class for every WAV file, by gRPC's Classify call.

    Args:
      address: Host and port of the server.
      model_name: As the server calls it.
      sounds: 16-bit PCM WAV files at the model's sample rate.
      timeout: In seconds.

    Raises:
      ExportError: If the server cannot be reached or refuses, with its reason.
    """
    try:
        import grpc
        from tensorflow_serving.apis import classification_pb2, prediction_service_pb2_grpc
    except ImportError:
        raise ExportError(
            "The gRPC client needs tensorflow-serving-api: pip install 'ast-keras[export]', or "
            "use --rest"
        ) from None
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = model_name, "classify"
    for sound in sounds:
        example = request.input.example_list.examples.add()
        example.features.feature["audio_bytes"].bytes_list.value.append(sound)
    with grpc.insecure_channel(address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = service.Classify(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ExportError(
                f"The server does not answer: {error.code().name}, {error.details()}. "
                f"Received: {address}, model {model_name}"
            ) from None
    found = response.result.classifications
    return [[(c.label, c.score) for c in classification.classes] for classification in found]


def classify_by_rest(
    address: str, model_name: str, sounds: list[bytes], timeout: float = 60.0
) -> list[Answer]:
    """Returns what `classify_by_grpc` does, by HTTP; `address` is the REST port's.

    Raises:
      ExportError: If the server cannot be reached or refuses, with its reason.
    """
    encoded = [{"audio_bytes": {"b64": base64.b64encode(s).decode()}} for s in sounds]
    body = json.dumps({"signature_name": "classify", "examples": encoded}).encode()
    url = f"http://{address}/v1/models/{model_name}:classify"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            results = json.load(response)["results"]
    except urllib.error.HTTPError as error:
        reason = error.read().decode(errors="replace")[:300]
        raise ExportError(f"The server refuses: {reason} Received: {url}") from None
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"The server does not answer: {error}. Received: {url}") from None
    return [[(label, score) for label, score in classes] for classes in results]


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_string("address", None, "Host and port; default: localhost, 8500 or 8501.")
    flags.DEFINE_string("model_name", "ast", "The served model's name.")
    flags.DEFINE_bool("rest", False, "Ask over HTTP instead of gRPC.")
    flags.DEFINE_integer("sample_rate", 16000, "That the model was trained on, in Hz.")
    flags.DEFINE_integer("top", 5, "How many classes to name for each file.", lower_bound=1)
    flags.DEFINE_float("timeout", 60.0, "Seconds to wait for an answer.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

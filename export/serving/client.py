"""Command that classifies audio files with a model server.

    python -m export.serving.client FILE...

Files may have any format, sample rate and length. They are decoded and resampled here and sent as
16-bit WAV to the signature `classify`, which answers with class names and scores. The protocol is
gRPC, or HTTP with `--rest`.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import urllib.error
import urllib.request

from absl import flags

from ast_keras.audio import load_audio
from ast_keras.audio.encoding import wav_bytes
from ast_keras.commands.flags import CommandOptions, arguments, flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import ExportError

Answer = list[tuple[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Flags and arguments of the command."""

    usage = "python -m export.serving.client [--model_name NAME] FILE..."

    files: tuple[str, ...] = arguments(minimum=1)
    address: str | None = flag(
        flags.DEFINE_string, None, "Host and port. Default: localhost:8500, or 8501 with --rest."
    )
    model_name: str = flag(flags.DEFINE_string, "ast", "Name of the served model.")
    rest: bool = flag(flags.DEFINE_bool, False, "Use HTTP instead of gRPC.")
    sample_rate: int = flag(flags.DEFINE_integer, 16_000, "Sample rate of the model in Hz.")
    top: int = flag(
        flags.DEFINE_integer, 5, "Number of classes to print for each file.", lower_bound=1
    )
    timeout: float = flag(flags.DEFINE_float, 60.0, "Seconds to wait for an answer.")


def main(options: Options) -> int:
    rate = options.sample_rate
    recordings = [wav_bytes(load_audio(path, rate), rate) for path in options.files]
    classify = classify_by_rest if options.rest else classify_by_grpc
    address = options.address or ("localhost:8501" if options.rest else "localhost:8500")
    answers = classify(address, options.model_name, recordings, options.timeout)
    for path, answer in zip(options.files, answers, strict=True):
        print(path)
        for label, score in sorted(answer, key=lambda pair: -pair[1])[: options.top]:
            print(f"  {score:.4f}  {label}")
    return 0


def classify_by_grpc(
    address: str, model_name: str, recordings: list[bytes], timeout: float = 60.0
) -> list[Answer]:
    """Classifies WAV files by the Classify call of gRPC.

    Args:
        address: Host and port of the server.
        model_name: Name of the served model.
        recordings: 16-bit PCM WAV files at the model's sample rate.
        timeout: Seconds to wait for an answer.

    Returns:
        For each file the label and the score of every class.

    Raises:
        ExportError: If the server cannot be reached or refuses the request, with its reason.
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
    for recording in recordings:
        example = request.input.example_list.examples.add()
        example.features.feature["audio_bytes"].bytes_list.value.append(recording)
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
    address: str, model_name: str, recordings: list[bytes], timeout: float = 60.0
) -> list[Answer]:
    """Classifies WAV files by the REST API.

    Args:
        address: Host and REST port of the server.
        model_name: Name of the served model.
        recordings: 16-bit PCM WAV files at the model's sample rate.
        timeout: Seconds to wait for an answer.

    Returns:
        For each file the label and the score of every class.

    Raises:
        ExportError: If the server cannot be reached or refuses the request, with its reason.
    """
    encoded = [{"audio_bytes": {"b64": base64.b64encode(r).decode()}} for r in recordings]
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
    """Runs the command."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

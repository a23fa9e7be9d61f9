"""Command that exports a model as one TFLite file for LiteRT and MediaPipe.

    python -m export.tflite --model DIR --output FILE

The file takes a waveform and gives scores. It is compared with the model on 200 clips, your own
with `--clips FOLDER`, and is only written if it is within its tolerance; a JSON file next to it
holds the report. `--stream` exports a causal model for streams: each call takes a block of audio
and the state, and gives scores and the new state.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, model_flag
from ast_keras.commands.inputs import load_model
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError

if TYPE_CHECKING:
    from ast_keras.export.acceptance import Tolerance
    from ast_keras.models.ast_classifier import ASTClassifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Flags of the command."""

    usage = "python -m export.tflite --model DIR --output FILE"

    model: str = model_flag()
    output: str = flag(flags.DEFINE_string, None, "File to write.", required=True)
    quantize: str = flag(
        flags.DEFINE_enum,
        "none",
        "Quantization of the matrices.",
        enum_values=["none", "float16", "int8", "int4"],
    )
    seconds: float | None = flag(
        flags.DEFINE_float,
        None,
        "Length of the input. Default: the longest whole number of seconds that the model uses.",
    )
    labels: str | None = flag(
        flags.DEFINE_string, None, "File of labels to use instead of the model's own."
    )
    clips: str | None = flag(
        flags.DEFINE_string, None, "Folder of recordings to compare on. Default: rendered sounds."
    )
    num_clips: int = flag(
        flags.DEFINE_integer, 200, "Number of clips to compare on.", lower_bound=1
    )
    agreement: float | None = flag(
        flags.DEFINE_float, None, "Smallest allowed fraction of clips with the same best class."
    )
    max_error: float | None = flag(
        flags.DEFINE_float, None, "Largest allowed difference of a score."
    )
    mean_error: float | None = flag(
        flags.DEFINE_float, None, "Largest allowed mean difference of the scores."
    )
    fallback: bool = flag(
        flags.DEFINE_bool,
        False,
        "Leave the noisiest layers in float32 until the file is within its tolerance.",
    )
    stream: bool = flag(
        flags.DEFINE_bool, False, "Export a causal model block by block, with explicit state."
    )
    takes_length: bool = flag(
        flags.DEFINE_bool, False, "Add an input `length`, the number of valid samples."
    )
    overwrite: bool = flag(flags.DEFINE_bool, False, "Replace the file if it exists.")
    threads: int = flag(
        flags.DEFINE_integer, 2, "Number of threads of the measured process.", lower_bound=1
    )


def main(options: Options) -> int:
    if options.seconds is not None and not options.seconds > 0:
        raise CommandError(
            "The input of a TFLite file has a fixed length: --seconds must be positive. "
            f"Received: --seconds {options.seconds}"
        )
    model = load_model(options.model)
    return _export_stream(model, options) if options.stream else _export_clips(model, options)


def _export_stream(model: ASTClassifier, options: Options) -> int:
    from ast_keras.export.streaming_tflite import export_streaming_tflite

    about = export_streaming_tflite(
        model, options.output, quantize=options.quantize, overwrite=options.overwrite
    )
    print(
        f"{options.output}: {options.quantize}, {about['size_bytes'] / 1e6:.1f} MB, blocks of "
        f"{about['num_samples'] / about['sample_rate']:g} s, scores within "
        f"{about['max_error']:.1g} of the model's on {about['compared_blocks']} blocks"
    )
    return 0


def _export_clips(model: ASTClassifier, options: Options) -> int:
    from ast_keras.export.tflite import export_tflite
    from ast_keras.labels import LabelSet

    num_samples = None
    if options.seconds is not None:
        num_samples = round(options.seconds * model.require_frontend().sample_rate)
    report = export_tflite(
        model,
        options.output,
        quantize=options.quantize,
        num_samples=num_samples,
        labels=LabelSet.from_file(options.labels) if options.labels else None,
        clips=options.clips,
        num_clips=options.num_clips,
        bounds=_tolerance(options),
        fallback=options.fallback,
        takes_length=options.takes_length,
        overwrite=options.overwrite,
        num_threads=options.threads,
        log=print,
    )
    print(f"{options.output}: {options.quantize}\n\n{report.table()}")
    return 0


def _tolerance(options: Options) -> Tolerance:
    """Returns the default tolerance of the format, changed by the flags that are given."""
    from ast_keras.export.acceptance import DEFAULT_TOLERANCE

    limits = {name: getattr(options, name) for name in ("agreement", "max_error", "mean_error")}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return dataclasses.replace(DEFAULT_TOLERANCE[options.quantize], **limits)


def run() -> None:
    """Runs the command."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

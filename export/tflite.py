"""Writes a model as one TFLite file: `python -m export.tflite --model DIR --output FILE`.

Sound in, scores out, for LiteRT and MediaPipe on phones and in browsers. The file is compared with
the model on 200 sounds, your own with `--clips FOLDER`, and is not written if it is not as good as
asked; a JSON file beside it holds what was found. `--stream` makes a file for endless sound of a
causal model: a block and the state in, scores and the state out.
"""

from __future__ import annotations

import dataclasses
import sys

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import ExportError


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if options.model is None or options.output is None or len(argv) > 1:
        raise ExportError("Say what to export and where to: --model DIR --output FILE")
    if options.seconds is not None and not options.seconds > 0:
        raise ExportError(
            "A TFLite file takes sounds of one length: --seconds must be positive. "
            f"Received: --seconds {options.seconds}"
        )
    from ast_keras.export.streaming_tflite import export_streaming_tflite
    from ast_keras.export.tflite import export_tflite
    from ast_keras.labels import LabelSet
    from ast_keras.presets.loading import from_preset

    model = from_preset(options.model)
    if options.stream:
        about = export_streaming_tflite(
            model, options.output, quantize=options.quantize, overwrite=options.overwrite
        )
        print(
            f"{options.output}: {options.quantize}, {about['size_bytes'] / 1e6:.1f} MB, blocks of "
            f"{about['num_samples'] / about['sample_rate']:g} s, scores within "
            f"{about['max_error']:.1g} of the model's on {about['compared_blocks']} blocks"
        )
        return 0
    rate = model.frontend.sample_rate if model.frontend else 0
    report = export_tflite(
        model,
        options.output,
        quantize=options.quantize,
        num_samples=None if options.seconds is None else round(options.seconds * rate),
        labels=LabelSet.from_file(options.labels) if options.labels else None,
        clips=options.clips,
        num_clips=options.num_clips,
        bounds=_bounds(),
        fallback=options.fallback,
        takes_length=options.takes_length,
        overwrite=options.overwrite,
        num_threads=options.threads,
        log=print,
    )
    print(f"{options.output}: {options.quantize}\n\n{report.table()}")
    return 0


def _bounds():
    """Returns the default bounds of the format, with those in place that the flags give."""
    from ast_keras.export.acceptance import DEFAULT_TOLERANCE

    options = flags.FLAGS
    given = {name: options[name].value for name in ("agreement", "max_error", "mean_error")}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(DEFAULT_TOLERANCE[options.quantize], **given)


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_string("model", None, "Folder of a saved model (WORKDIR/model of a run).")
    flags.DEFINE_string("output", None, "The file to write.")
    flags.DEFINE_enum(
        "quantize", "none", ["none", "float16", "int8", "int4"], "Numbers of the matrices."
    )
    flags.DEFINE_float("seconds", None, "Length of the sound; default: what the model hears.")
    flags.DEFINE_string("labels", None, "File of labels, instead of the model's own.")
    flags.DEFINE_string("clips", None, "Folder of sounds to compare on; default: rendered ones.")
    flags.DEFINE_integer("num_clips", 200, "How many clips to compare on.", lower_bound=1)
    flags.DEFINE_float("agreement", None, "Least share of clips with the same best class.")
    flags.DEFINE_float("max_error", None, "Largest difference of a score.")
    flags.DEFINE_float("mean_error", None, "Largest mean difference of the scores.")
    flags.DEFINE_bool("fallback", False, "Leave layers in float32 until the bounds hold.")
    flags.DEFINE_bool("stream", False, "A causal model, block by block, with explicit state.")
    flags.DEFINE_bool(
        "takes_length", False, "Add an input `length`: how many of the samples are sound."
    )
    flags.DEFINE_bool("overwrite", False, "Replace the file if it exists.")
    flags.DEFINE_integer("threads", 2, "Threads of the run that is measured.", lower_bound=1)
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

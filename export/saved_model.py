"""Writes a model for TensorFlow Serving: `python -m export.saved_model --model DIR --output DIR`.

A new version each time, compared with the model on 200 sounds before it appears; a running server
takes it up by itself.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import app, flags

from ast_keras.commands.runner import run_command
from ast_keras.errors import ExportError

_SERVING = pathlib.Path(__file__).with_name("serving")


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if options.model is None or options.output is None or len(argv) > 1:
        raise ExportError("Say what to export and where to: --model DIR --output DIR")
    from ast_keras.export.acceptance import DEFAULT_TOLERANCE
    from ast_keras.export.saved_model import export_saved_model
    from ast_keras.presets.loading import from_preset

    bounds = DEFAULT_TOLERANCE["saved_model"]
    if options.max_error is not None:
        bounds = dataclasses.replace(bounds, max_error=options.max_error)
    path, report = export_saved_model(
        from_preset(options.model),
        options.output,
        version=options.version,
        overwrite=options.overwrite,
        method=options.frontend,
        clips=options.clips,
        num_clips=options.num_clips,
        bounds=bounds,
        num_threads=options.threads,
    )
    base = path.parent.resolve()
    print(f"{path}\n\n{report.table()}\n")
    print("Serve it with:")
    print(f"  tensorflow_model_server --model_name={base.name} --model_base_path={base} \\")
    print("    --port=8500 --rest_api_port=8501 --enable_batching \\")
    print(f"    --batching_parameters_file={_SERVING / 'batching.txt'}")
    print("Ask it with:")
    print(f"  python -m export.serving.client --model_name {base.name} FILE...")
    return 0


def run() -> None:
    """Defines the flags and runs the command."""
    flags.DEFINE_string("model", None, "Folder of a saved model (WORKDIR/model of a run).")
    flags.DEFINE_string("output", None, "The served model's base folder; a version goes into it.")
    flags.DEFINE_integer("version", None, "Number of the version; default: the next.")
    flags.DEFINE_enum("frontend", "conv", ["conv", "fft"], "How the filterbank is computed.")
    flags.DEFINE_string("clips", None, "Folder of sounds to compare on; default: rendered ones.")
    flags.DEFINE_integer("num_clips", 200, "How many clips to compare on.", lower_bound=1)
    flags.DEFINE_float("max_error", None, "Largest difference of a score.")
    flags.DEFINE_bool("overwrite", False, "Replace the version if it exists.")
    flags.DEFINE_integer("threads", 2, "Threads of the run that is measured.", lower_bound=1)
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

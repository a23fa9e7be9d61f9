"""Command that exports a model for TensorFlow Serving.

    python -m export.saved_model --model DIR --output DIR

Each call writes a new version into the output folder, after comparing it with the model on 200
clips. A running server loads the version by itself.
"""

from __future__ import annotations

import dataclasses
import pathlib

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag, model_flag
from ast_keras.commands.inputs import load_model
from ast_keras.commands.runner import run_app

_BATCHING = pathlib.Path(__file__).with_name("serving") / "batching.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Flags of the command."""

    usage = "python -m export.saved_model --model DIR --output DIR"

    model: str = model_flag()
    output: str = flag(flags.DEFINE_string, None, "Base folder of the served model.", required=True)
    version: int | None = flag(
        flags.DEFINE_integer, None, "Number of the version. Default: the highest one plus one."
    )
    frontend: str = flag(
        flags.DEFINE_enum, "conv", "Computation of the filterbank.", enum_values=["conv", "fft"]
    )
    clips: str | None = flag(
        flags.DEFINE_string, None, "Folder of recordings to compare on. Default: rendered sounds."
    )
    num_clips: int = flag(
        flags.DEFINE_integer, 200, "Number of clips to compare on.", lower_bound=1
    )
    max_error: float | None = flag(
        flags.DEFINE_float, None, "Largest allowed difference of a score. Default: 1e-5."
    )
    overwrite: bool = flag(flags.DEFINE_bool, False, "Replace the version if it exists.")
    threads: int = flag(
        flags.DEFINE_integer, 2, "Number of threads of the measured process.", lower_bound=1
    )


def main(options: Options) -> int:
    from ast_keras.export.acceptance import DEFAULT_TOLERANCE
    from ast_keras.export.saved_model import export_saved_model

    bounds = DEFAULT_TOLERANCE["saved_model"]
    if options.max_error is not None:
        bounds = dataclasses.replace(bounds, max_error=options.max_error)
    model = load_model(options.model)
    path, report = export_saved_model(
        model,
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
    print(f"    --batching_parameters_file={_BATCHING}")
    print("Classify files with:")
    rate = f"--sample_rate {model.frontend.sample_rate}"
    print(f"  python -m export.serving.client --model_name {base.name} {rate} FILE...")
    return 0


def run() -> None:
    """Runs the command."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

"""Classifies sound files: `python -m ast_keras.predict --model DIR FILE...`.

Files may have any sample rate, length and number of channels. A folder stands for the sound files
in it, `-` for a file from standard input. Without `--window_seconds`, the model processes the start
of each file, as long as its training clips, or with `--padding masked` up to a minute. With it,
hours are processed in windows, in bounded memory; `--events` lists onset and offset of each event.
With thresholds stored by `evaluate --save_thresholds`, the classes that reach theirs are listed.
With `--output FILE`, the same command resumes after an interruption.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from absl import flags

from ast_keras.audio.channels import parse_channel
from ast_keras.commands import flags as shared
from ast_keras.commands import inputs
from ast_keras.commands.batch import process_files
from ast_keras.commands.flags import flag
from ast_keras.commands.resume import ResumeLog, weights_key
from ast_keras.commands.runner import run_app
from ast_keras.commands.windows import WindowOptions
from ast_keras.errors import CommandError
from ast_keras.inference.formats import WRITERS, write_rows

_NOT_LOGGED = ("files", "format", "output", "jobs")  # results do not depend on these


def _audacity_has_events(values: dict[str, Any]) -> bool:
    return values["format"] != "audacity" or bool(values["events"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WindowOptions):
    """Flags of the command."""

    usage = "python -m ast_keras.predict --model DIR FILE..."
    rules = (
        *WindowOptions.rules,
        functools.partial(
            flags.register_multi_flags_validator, ["format", "events"], _audacity_has_events,
            "--format audacity writes events: add --events and --window_seconds.",
        ),
    )  # fmt: skip
    files: tuple[str, ...] = shared.arguments(minimum=1)
    model: str = shared.model_flag()
    padding: str | None = shared.padding_flag()
    channel: str = shared.channel_flag()
    top: int | None = flag(
        flags.DEFINE_integer, None,
        "Largest number of classes per file. Default: 5; with thresholds, all that reach theirs.",
        lower_bound=1,
    )  # fmt: skip
    format: str = flag(flags.DEFINE_enum, "table", "Output format.", enum_values=list(WRITERS))
    output: str | None = flag(
        flags.DEFINE_string, None, "File to write; the same command resumes after an interruption."
    )
    jobs: int = shared.jobs_flag()


def main(options: Options) -> int:
    paths = list(inputs.sound_files(options.files))
    if options.format == "audacity" and len(paths) > 1 and options.output is None:
        raise CommandError("--format audacity writes one label track per file: add --output FOLDER")
    if inputs.STDIN in paths and (len(paths) > 1 or options.output):
        raise CommandError('"-", standard input, must be the only file, without --output')
    channel = parse_channel(options.channel)
    from ast_keras.inference.predictor import Predictor

    model = inputs.load_model(options.model, options.padding)
    thresholds = inputs.stored_thresholds(model, options.threshold)
    predictor = Predictor(model, options.windows(), options.threshold, channel)
    log = None
    if options.output:
        settings = {n: value for n, value in vars(options).items() if n not in _NOT_LOGGED}
        settings |= {"weights": weights_key(options.model), "thresholds": thresholds}
        log = ResumeLog(options.output, settings)
    results = process_files(
        paths,
        inputs.open_input(predictor.iter_segments),
        functools.partial(predictor.predict_segments, top=options.top),
        sample_rate=predictor.sample_rate,
        jobs=options.jobs,
        log=log,
    )
    rows = [row for _, row in results]
    if log:
        write_rows(rows, options.format, str(options.output))
        log.close()
        print(f"{len(rows)} files: {options.output}")
    else:
        print(WRITERS[options.format](rows), end="")
    return 1 if len(rows) < len(paths) else 0


def run() -> None:
    """Runs the command; the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

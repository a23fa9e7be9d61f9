"""Inspects data before training: `python -m ast_keras.audit DATA`.

DATA is a CSV manifest, a folder of class folders, or the folder of a known data set. The report
lists sample rates, channels, lengths and labels; broken, silent and clipped sounds; sounds that
occur twice or in two splits; mean and standard deviation of the log-mels; and the recipe to start
from. `--set frontend.sample_rate=256000` and other settings of the frontend measure the log-mels of
another filterbank. The exit status is 0 if the data can be trained on, else 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from ast_keras.auditing.audit import audit
from ast_keras.auditing.text_report import describe
from ast_keras.commands.flags import CommandOptions, arguments, flag, settings_flag
from ast_keras.commands.runner import run_app
from ast_keras.data.readers import READERS
from ast_keras.data.readers.recognise import recognise
from ast_keras.files import write_json
from ast_keras.recipe import Data, Recipe, override

__all__ = ["Options", "audit", "main", "recognise", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command."""

    usage = "python -m ast_keras.audit DATA [--kind KIND] [--output FILE.json]"
    data: tuple[str, ...] = arguments(minimum=1, maximum=1)
    kind: str = flag(
        flags.DEFINE_enum, "auto", "Kind of data set; auto recognises it by its files.",
        enum_values=["auto", *sorted(set(READERS) - {"synthetic"})],
    )  # fmt: skip
    labels: str | None = flag(
        flags.DEFINE_string, None,
        "Labels of a manifest: a file, or the name of a published label set.",
    )  # fmt: skip
    settings: tuple[str, ...] = settings_flag()
    max_files: int = flag(
        flags.DEFINE_integer, 0,
        "Maximum number of sounds to inspect, the same ones every time; 0 inspects all.",
        lower_bound=0,
    )  # fmt: skip
    num_workers: int = flag(
        flags.DEFINE_integer, 0, "Number of threads; 0 starts one for each core.", lower_bound=0
    )
    statistics: bool = flag(
        flags.DEFINE_bool, True, "Compute log-mel statistics, which takes most of the time."
    )
    output: str | None = flag(
        flags.DEFINE_string, None, "JSON file to which the report is written as well."
    )


def main(options: Options) -> int:
    """Prints the report of a data set and returns the exit status."""
    recipe = override(Recipe(name="audit"), options.settings)
    report = audit(
        options.data[0],
        recipe.data.kind if options.kind == "auto" else options.kind,
        _reader_settings(recipe.data, options.labels),
        max_files=options.max_files,
        num_workers=options.num_workers,
        statistics=options.statistics,
        progress=True,
        channel=recipe.data.channel,
        frontend=recipe.frontend,
    )
    print("\n".join(describe(report)))
    if options.output:
        write_json(options.output, report)
    return 1 if report["problems"] else 0


def _reader_settings(data: Data, labels: str | None) -> dict[str, Any]:
    """Returns the arguments of the reader that `--set` and `--labels` give."""
    settings = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(data)
        if field.default is None and field.name not in ("path", "channel")  # those of readers
    }
    if labels:
        settings["labels_path"] = labels
    return {name: value for name, value in settings.items() if value is not None}


def run() -> None:
    """Runs the command line; also the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

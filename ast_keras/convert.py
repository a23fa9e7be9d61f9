"""Converts weights between this package, the authors' code and transformers.

    python -m ast_keras.convert --source FILE_OR_DIR --output DIR [--to keras|authors|transformers]

Prints what happened to every tensor. The output is read back and compared with the model.
"""

from __future__ import annotations

import dataclasses
import pathlib

from absl import flags

from ast_keras.commands.flags import CommandOptions, flag
from ast_keras.commands.runner import run_app
from ast_keras.errors import CommandError
from ast_keras.labels import LabelSet
from ast_keras.weights.geometry import Geometry
from ast_keras.weights.naming import FORMATS
from ast_keras.weights.resize import POSITION, RGB

_STRING, _INTEGER, _LIST = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
_ENUM = flags.DEFINE_enum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommandOptions):
    """Options of the command; `--help` describes them."""

    usage = (
        "python -m ast_keras.convert --source FILE_OR_DIR --output DIR "
        "[--to keras|authors|transformers]"
    )
    source: str = flag(
        _STRING, None, "Weights file, its folder, a saved model or a preset.", required=True
    )
    output: str = flag(_STRING, None, "New folder to write.", required=True)
    to: str = flag(
        _ENUM, "keras", "Format to write.", enum_values=["keras", "authors", "transformers"]
    )
    format: str | None = flag(_ENUM, None, "Format of the source.", enum_values=FORMATS)
    num_heads: int | None = flag(_INTEGER, None, "Attention heads, if not 64 wide.", lower_bound=1)
    num_classes: int | None = flag(_INTEGER, None, "Classes of a fresh head.", lower_bound=1)
    labels: str | None = flag(_STRING, None, "File of class names, one per line, or a label CSV.")
    strides: tuple[str, ...] | None = flag(_LIST, None, "MEL,TIME: step between patches.")
    num_frames: int | None = flag(_INTEGER, None, "Frames of the spectrogram.", lower_bound=1)
    num_mel_bins: int | None = flag(_INTEGER, None, "Mel bins of the spectrogram.", lower_bound=1)
    patch_size: tuple[str, ...] | None = flag(_LIST, None, "MEL,TIME: patch size.")
    rgb_reduction: str = flag(
        _ENUM, "sum", "How colour channels are reduced to one.", alias="rgb", enum_values=RGB
    )
    position_resize: str = flag(
        _ENUM, "bilinear", "How positions are resized.", alias="position", enum_values=POSITION
    )


def main(options: Options) -> int:
    """Runs the command and returns its exit status."""
    output = pathlib.Path(options.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"The output must be a new folder. Received: --output {output}")
    patch_size, strides = _pair("patch_size", options), _pair("strides", options)
    geometry = Geometry(
        options.num_frames, options.num_mel_bins, patch_size, strides,
        options.rgb_reduction, options.position_resize,
    )  # fmt: skip
    labels = LabelSet.from_file(options.labels) if options.labels else None
    # Imported late: these load TensorFlow, which an error in the flags should not wait for.
    from ast_keras.presets.conversion import convert_weights
    from ast_keras.presets.loading import FileHints

    hints = FileHints(options.format, options.num_heads)
    conversion = convert_weights(options.source, hints, geometry, options.num_classes, labels)
    # Before writing, which may fail and explains less than the table.
    print(f"{options.source}: {conversion.description}\n\n{conversion.table}", flush=True)
    for line in conversion.write(output, options.to):
        print(f"note: {line}")
    print(f"\nwritten, read back and equal to the bit: {output}")
    return 0


def _pair(name: str, options: Options) -> tuple[int, int] | None:
    values = getattr(options, name)
    if values is None:
        return None
    if len(values) != 2 or not all(value.isdecimal() and int(value) for value in values):
        raise CommandError(f"--{name} takes MEL,TIME, as in 10,10. Received: {','.join(values)}")
    return int(values[0]), int(values[1])


def run() -> None:
    """Parses the command line and runs the command. Entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

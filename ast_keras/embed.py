"""Writes sounds as vectors: `python -m ast_keras.embed --model DIR --output FILE SOUND...`.

One vector for each sound, or for each window of `--window_seconds`; `--kind seconds` gives one for
each second, `--kind tokens` one for each patch. A folder stands for the sounds in it. All go to one
Parquet file or NumPy archive, as the output's name ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from absl import app, flags

from ast_keras.commands.inputs import show_audio_warnings, sound_files
from ast_keras.commands.runner import run_command
from ast_keras.data.prefetch import prefetch
from ast_keras.errors import AudioError, CommandError, InferenceError


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    paths = list(sound_files(argv[1:]))
    if options.model is None or options.output is None or not paths:
        raise CommandError(
            "Say with what, on what and where to: --model DIR --output FILE SOUND..."
        )
    show_audio_warnings()
    from ast_keras.inference.embedder import Embedder, check_output, write_embeddings
    from ast_keras.presets.loading import from_preset

    check_output(options.output)
    given = {} if options.padding is None else {"padding": options.padding}
    embedder = Embedder(from_preset(options.model, **given), options.kind, options.window_seconds)
    failed: list[str] = []
    about = {"model": options.model, "kind": options.kind}
    count = write_embeddings(_embeddings(embedder, paths, failed), options.output, about)
    print(f"{count} vectors of {len(paths) - len(failed)} sounds: {options.output}")
    return 1 if failed else 0


def _embeddings(embedder: Any, paths: list[str], failed: list[str]) -> Iterator[Any]:
    """Yields the vectors of all files; of those that cannot be heard it says why, and goes on."""
    for path, pieces in prefetch(paths, embedder.pieces, flags.FLAGS.jobs):
        try:
            # All of a file or nothing.
            yield from list(embedder.embed(path, pieces))
        except (AudioError, InferenceError, OSError) as error:
            failed.append(path)
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("model", None, "Folder of a saved model, or a preset's name.")
    flags.DEFINE_string("output", None, "File to write, in .parquet or .npz.")
    flags.DEFINE_enum("kind", "pooled", ["pooled", "seconds", "tokens"], "A vector for what.")
    flags.DEFINE_float("window_seconds", None, "Hear files in windows of this length.")
    flags.DEFINE_enum("padding", None, ["original", "masked"], "Of the model; default: its own.")
    flags.DEFINE_integer("jobs", 2, "Files that are decoded at once.", lower_bound=1)
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

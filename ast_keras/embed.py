"""Embeds sound files as vectors: `python -m ast_keras.embed --model DIR --output FILE SOUND...`.

The output, a Parquet file or a NumPy archive by its suffix, holds one vector per sound or per
window of `--window_seconds`; with `--kind seconds` one per second, with `--kind tokens` one per
patch. A folder stands for the sound files in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from absl import flags

from ast_keras.audio.channels import parse_channel
from ast_keras.commands import flags as shared
from ast_keras.commands.batch import process_files
from ast_keras.commands.flags import flag
from ast_keras.commands.inputs import load_model, sound_files
from ast_keras.commands.runner import run_app
from ast_keras.inference.embedding_files import check_output, write_embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(shared.CommandOptions):
    """Flags of the command."""

    usage = "python -m ast_keras.embed --model DIR --output FILE SOUND..."
    files: tuple[str, ...] = shared.arguments(minimum=1)
    model: str = shared.model_flag()
    output: str = flag(
        flags.DEFINE_string, None, "File to write, in .parquet or .npz.", required=True
    )
    kind: str = flag(
        flags.DEFINE_enum, "pooled", "What a vector represents: a sound or window, a second, or a "
        "patch.", enum_values=["pooled", "seconds", "tokens"],
    )  # fmt: skip
    window_seconds: float | None = shared.window_flag()
    padding: str | None = shared.padding_flag()
    channel: str = shared.channel_flag()
    jobs: int = shared.jobs_flag()


def main(options: Options) -> int:
    paths = list(sound_files(options.files))
    check_output(options.output)
    channel = parse_channel(options.channel)
    from ast_keras.inference.embedder import Embedder

    model = load_model(options.model, options.padding)
    embedder = Embedder(model, options.kind, options.window_seconds, channel)
    num_sounds = 0

    def embeddings() -> Iterator[tuple[Any, ...]]:
        nonlocal num_sounds
        for _, vectors in process_files(
            paths,
            embedder.iter_segments,
            lambda path, segments: list(embedder.embed(path, segments)),  # of the complete file
            sample_rate=embedder.sample_rate,
            jobs=options.jobs,
        ):
            num_sounds += 1
            yield from vectors

    metadata = {"model": options.model, "kind": options.kind}
    count = write_embeddings(embeddings(), options.output, metadata)
    print(f"{count} vectors of {num_sounds} sounds: {options.output}")
    return 1 if num_sounds < len(paths) else 0


def run() -> None:
    """Runs the command; the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

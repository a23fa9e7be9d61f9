"""Explains a classification: `python -m ast_keras.explain FILE --model DIR`.

For each of the most likely classes, or those of `--class`, it writes a picture of the spectrogram
with the evidence for the class, and one HTML page with all pictures and the sound.

| `--method` | evidence |
|---|---|
| gradient | gradient of the class's logit times the difference from the sound's mean |
| occlusion | decrease of the logit when a region is masked; slower and more reliable |
| rollout | attention through all blocks; the same for every class |
| attention | attention in one block (`--layer`, `--head`); the same for every class |
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

from absl import flags

from ast_keras.audio.channels import parse_channel
from ast_keras.commands import flags as shared
from ast_keras.commands.flags import flag
from ast_keras.commands.inputs import load_model
from ast_keras.commands.runner import run_app
from ast_keras.files import replacing

# What the page says about the colours.
METHODS = {
    "gradient": "Red supports the class, blue opposes it: gradient times the difference from the "
    "sound's mean, smoothed over 5 frames and 5 bins.",
    "occlusion": "Red supports the class, blue opposes it: decrease of the logit when the region "
    "is masked.",
    "rollout": "Bright regions receive attention, through all blocks.",
    "attention": "Bright regions receive attention in one block.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(shared.CommandOptions):
    """Flags of the command."""

    usage = "python -m ast_keras.explain FILE --model DIR"
    files: tuple[str, ...] = shared.arguments(minimum=1, maximum=1)
    model: str = shared.model_flag()
    padding: str | None = shared.padding_flag()
    channel: str = shared.channel_flag()
    method: str = flag(
        flags.DEFINE_enum, "gradient", "Attribution method.", enum_values=list(METHODS)
    )
    top: int = flag(flags.DEFINE_integer, 3, "Number of most likely classes.", lower_bound=1)
    classes: tuple[str, ...] = flag(
        flags.DEFINE_multi_string, (), "Class to explain instead; repeatable.", name="class"
    )
    layer: int = flag(flags.DEFINE_integer, -1, "Index of the block for --method attention.")
    head: int | None = flag(flags.DEFINE_integer, None, "Index of its head. Default: their mean.")
    bands: int = flag(flags.DEFINE_integer, 8, "Frequency bands masked in turn by occlusion.")
    start_seconds: float = flag(flags.DEFINE_float, 0.0, "Start in the file, in seconds.")
    duration_seconds: float | None = flag(flags.DEFINE_float, None, "Length to use, in seconds.")
    output: str = flag(flags.DEFINE_string, "explained", "Folder for the pictures and the page.")


def main(options: Options) -> int:
    channel = parse_channel(options.channel)
    from ast_keras.inference.explanation import explain_file
    from ast_keras.reports.explanation_report import evidence_picture, write_evidence_page

    path, output = pathlib.Path(options.files[0]), pathlib.Path(options.output)
    explanation = explain_file(
        load_model(options.model, options.padding),
        str(path),
        options.method,
        classes=options.classes,
        top=options.top,
        layer=options.layer,
        head=options.head,
        num_bands=options.bands,
        start_seconds=options.start_seconds,
        duration_seconds=options.duration_seconds,
        channel=channel,
    )
    sound, pictures, written = explanation.sound, [], []
    for found in explanation.classes:
        title = f"{found.name}, {found.score:.4f}"
        pictures.append((title, evidence_picture(sound, found.evidence, title)))
        name = re.sub(r"[^\w-]+", "_", found.name).strip("_")
        written.append(output / f"{path.stem}-{name}.png")
        with replacing(written[-1]) as part:
            part.write_bytes(pictures[-1][1])
    written.append(output / f"{path.stem}.html")
    write_evidence_page(sound, pictures, explanation.scores, METHODS[options.method], written[-1])
    print("\n".join(map(str, written)))
    return 0


def run() -> None:
    """Runs the command; the entry point of the installed program."""
    run_app(main, Options)


if __name__ == "__main__":
    run()

"""Shows why a model names a sound: `python -m ast_keras.explain FILE --model DIR`.

For each of the most likely classes, or those of `--class`, a picture of the sound with the evidence
for that class over time and frequency, and one page with all of them and the sound to play.

| `--method` | the evidence is |
|---|---|
| gradient | gradient of the class's logit times the difference from the sound's own mean |
| occlusion | how far the logit falls where the sound is covered; slower, and more to be trusted |
| rollout | where attention comes from, through all blocks; the same for every class |
| attention | where one block looks (`--layer`, `--head`); the same for every class |
"""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

from absl import app, flags

from ast_keras.audio import load_audio
from ast_keras.commands.inputs import show_audio_warnings
from ast_keras.commands.runner import run_command
from ast_keras.errors import CommandError
from ast_keras.files import replacing
from ast_keras.inference.windows import check_whole

_METHODS = {
    "gradient": "Red speaks for the class, blue against it: gradient times the difference from "
    "the sound's own mean, smoothed over 5 frames and 5 bins.",
    "occlusion": "Red speaks for the class, blue against it: how far its logit falls where the "
    "sound is covered.",
    "rollout": "Bright is where attention comes from, through all blocks.",
    "attention": "Bright is where the attention of one block lies.",
}


_OF_A_CLASS = ("gradient", "occlusion")  # the others are the same for every class


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    if options.model is None or len(argv) != 2:
        raise CommandError("Say which sound and with what: FILE --model DIR")
    show_audio_warnings()
    import numpy as np

    from ast_keras.inference.explanation import class_index, valid_spectrogram
    from ast_keras.presets.loading import from_preset
    from ast_keras.reports.explanation_report import Sound, evidence_picture, write_evidence_page

    given = {} if options.padding is None else {"padding": options.padding}
    model = from_preset(options.model, **given)
    waveform = _waveform(model, argv[1])
    spectrogram, frames = valid_spectrogram(model, waveform)
    frontend = model.frontend
    sound = Sound(
        pathlib.Path(argv[1]).name,
        waveform,
        frontend.sample_rate,
        spectrogram[0, :frames] * (2 * frontend.std) + frontend.mean,
        frontend.frame_step_seconds,
        (frontend.f_min_hz, frontend.f_max_hz or frontend.sample_rate / 2),
    )
    scores = np.asarray(model.scores(model(waveform[None], training=False)))[0]
    best = np.argsort(-scores, kind="stable")[: options.top]
    wanted = [class_index(model, name) for name in options["class"].value] or list(best)
    names = model.labels.names if model.labels else [f"class {i}" for i in range(len(scores))]
    pictures, evidence = [], None
    for index in wanted:
        title = f"{names[index]}, {scores[index]:.4f}"
        if evidence is None or options.method in _OF_A_CLASS:
            evidence = _evidence(model, waveform, index)
        pictures.append((title, evidence_picture(sound, evidence, title)))
    output, stem = pathlib.Path(options.output), pathlib.Path(argv[1]).stem
    written = []
    for index, (_, png) in zip(wanted, pictures, strict=True):
        plain = re.sub(r"[^\w-]+", "_", names[index]).strip("_")
        written.append(output / f"{stem}-{plain}.png")
        with replacing(written[-1]) as part:
            part.write_bytes(png)
    written.append(output / f"{stem}.html")
    table = [(names[index], float(scores[index])) for index in best]
    write_evidence_page(sound, pictures, table, _METHODS[options.method], written[-1])
    print("\n".join(map(str, written)))
    return 0


def _waveform(model: Any, path: str) -> Any:
    """Returns as much of the sound as the model hears."""
    from ast_keras.errors import InferenceError

    if model.frontend is None:
        raise InferenceError("This model takes spectrograms, not sound: it has no frontend")
    options, rate = flags.FLAGS, model.frontend.sample_rate
    waveform = load_audio(
        path, rate, start_seconds=options.start_seconds, duration_seconds=options.duration_seconds
    )
    if model.padding == "masked":
        check_whole(path, len(waveform) / rate)
        return waveform
    heard = model.frontend.num_samples
    # What is less than a frame is never heard, and not worth a word.
    if len(waveform) >= heard + round(model.frontend.frame_step_seconds * rate):
        print(
            f"warning: {len(waveform) / rate:.1f} s of sound, of which the model hears the first "
            f"{heard / rate:.1f} s; --start_seconds moves on",
            file=sys.stderr,
        )
    return waveform[:heard]


def _evidence(model: Any, waveform: Any, index: int) -> Any:
    """Returns what speaks for a class, over the frames of the sound: `[frames, mel]`."""
    from ast_keras.inference import explanation
    from ast_keras.reports.explanation_report import smoothed

    options = flags.FLAGS
    if options.method == "gradient":
        # Single points would not be seen.
        return smoothed(explanation.gradient_times_input(model, waveform, index), 5)
    if options.method == "occlusion":
        return explanation.occlusion(model, waveform, index, num_bands=options.bands)
    if options.method == "rollout":
        grid = explanation.attention_rollout(model, waveform)
    else:
        grid = explanation.attention_map(model, waveform, options.layer, options.head)
    _, frames = explanation.valid_spectrogram(model, waveform)
    return explanation.over_frames(model.backbone, grid, frames)


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("model", None, "Folder of a saved model, or a preset's name.")
    flags.DEFINE_enum("method", "gradient", list(_METHODS), "What counts as evidence.")
    flags.DEFINE_integer("top", 3, "How many of the most likely classes.", lower_bound=1)
    flags.DEFINE_multi_string("class", [], "A class to explain instead; repeatable.")
    flags.DEFINE_integer("layer", -1, "Block whose attention is shown; -1 is the last.")
    flags.DEFINE_integer("head", None, "Its head; default: the mean of all.")
    flags.DEFINE_integer("bands", 8, "Parts of the frequency axis that are covered one by one.")
    flags.DEFINE_float("start_seconds", 0.0, "Where in the file to start.")
    flags.DEFINE_float("duration_seconds", None, "How much of it to hear.")
    flags.DEFINE_enum("padding", None, ["original", "masked"], "Of the model; default: its own.")
    flags.DEFINE_string("output", "explained", "Folder for the pictures and the page.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

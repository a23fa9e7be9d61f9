"""Names the sounds in files: `python -m ast_keras.predict --model DIR FILE...`.

A file may have any rate, length and number of channels; a folder stands for the sounds in it, `-`
for one from standard input. Without `--window_seconds` the model hears the length it was made for
(or, with `--padding masked`, up to a minute); with it, hours of sound in bounded memory. `--events`
says what sounds from when to when. With `--output FILE` the result goes to a file, whole, and the
same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from absl import app, flags

from ast_keras.commands.inputs import show_audio_warnings, sound_files
from ast_keras.commands.resume import ResumeLog
from ast_keras.commands.runner import run_command
from ast_keras.data.prefetch import prefetch
from ast_keras.errors import AudioError, CommandError, InferenceError
from ast_keras.files import write_text
from ast_keras.inference.events import lower_threshold
from ast_keras.inference.formats import WRITERS, as_audacity

_STDIN = "-"
_REPORT_SECONDS = 10.0
_SETTINGS = (
    "model", "padding", "top", "window_seconds", "hop_seconds", "aggregate", "events", "threshold",
    "threshold_off",
)  # fmt: skip

Row = dict[str, Any]


def main(argv: list[str]) -> int:
    options = flags.FLAGS
    paths = list(sound_files(argv[1:]))
    if options.model is None or not paths:
        raise CommandError("Say with what and on what: --model DIR FILE...")
    _check_options(options, paths)
    show_audio_warnings()
    from ast_keras.inference.predictor import Predictor, Windows
    from ast_keras.presets.loading import from_preset

    windows = None
    if options.window_seconds is not None:
        windows = Windows(
            options.window_seconds,
            options.hop_seconds,
            options.aggregate,
            options.events,
            options.threshold,
            options.threshold_off,
        )
    given = {} if options.padding is None else {"padding": options.padding}
    predictor = Predictor(from_preset(options.model, **given), windows)
    journal = _journal(options) if options.output else None
    rows, failed = _predict(predictor, paths, journal)
    _write(rows)
    if journal is not None:
        journal.close()
    return 1 if failed else 0


def _check_options(options: Any, paths: list[str]) -> None:
    needs_windows = options.events or options.hop_seconds is not None
    if needs_windows and options.window_seconds is None:
        raise CommandError(
            "--events and --hop_seconds need windows: add --window_seconds, the length of sound "
            "that is heard at once, as --window_seconds 2"
        )
    if options.format == "audacity" and not options.events:
        raise CommandError("--format audacity writes events: add --events and --window_seconds")
    if options.format == "audacity" and len(paths) > 1 and options.output is None:
        raise CommandError(
            "--format audacity writes one label track for each file: add --output FOLDER"
        )
    lower_threshold(options.threshold, options.threshold_off)
    if _STDIN in paths and (len(paths) > 1 or options.output):
        raise CommandError('"-" is standard input, which is read once: alone, without --output')


def _journal(options: Any) -> ResumeLog:
    settings = {name: options[name].value for name in _SETTINGS}
    return ResumeLog(options.output, {**settings, "weights": _identity(options.model)})


def _predict(predictor: Any, paths: list[str], journal: ResumeLog | None) -> tuple[list[Row], int]:
    """Returns the rows of the files that can be heard, in order, and how many cannot."""
    options = flags.FLAGS
    done = dict(journal.done) if journal else {}
    keys = {path: _key(path) for path in paths}
    todo = [path for path in paths if keys[path] not in done]
    if len(todo) < len(paths):
        print(f"{len(paths) - len(todo)} files were heard before.", file=sys.stderr)
    progress = _Progress(len(todo), predictor.sample_rate)
    found, failed = dict[str, Row](), 0
    for path, pieces in prefetch(todo, lambda path: _pieces(predictor, path), options.jobs):
        try:
            row = predictor.row(path, progress.watch(path, pieces), options.top)
        except (AudioError, InferenceError, OSError) as error:
            failed += 1
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        found[path] = row
        if journal is not None:
            journal.add(keys[path], row)
        progress.finished(row["seconds"])
    rows = [found.get(path) or done.get(keys[path]) for path in paths]
    return [row for row in rows if row], failed


def _pieces(predictor: Any, path: str) -> Iterator[Any]:
    if path != _STDIN:
        yield from predictor.pieces(path)
        return
    # By way of a file: decoders seek. On the disk, so that memory stays bounded.
    with tempfile.NamedTemporaryFile(suffix=".sound") as spooled:
        shutil.copyfileobj(sys.stdin.buffer, spooled)
        spooled.flush()
        try:
            yield from predictor.pieces(spooled.name)
        except AudioError as error:
            message = str(error).replace(repr(spooled.name), "standard input")
            raise type(error)(message) from None


def _key(path: str) -> str:
    """Returns what a file is in a journal: changed, it is another."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(path).stat()
        return f"{path} {status.st_size} {status.st_mtime_ns}"
    return path


def _identity(model: str) -> list[int]:
    """Returns what tells a saved model from one trained since; nothing for a preset's name."""
    weights = pathlib.Path(model, "task.weights.h5")
    with contextlib.suppress(OSError):
        status = weights.stat()
        return [status.st_size, status.st_mtime_ns]
    return []


def _write(rows: list[Row]) -> None:
    options = flags.FLAGS
    if not options.output:
        print(WRITERS[options.format](rows), end="")
        return
    if options.format == "audacity":
        _write_tracks(rows, pathlib.Path(options.output))
    else:
        write_text(options.output, WRITERS[options.format](rows))
    print(f"{len(rows)} files: {options.output}")


def _write_tracks(rows: list[Row], output: pathlib.Path) -> None:
    """Writes one label track for each file, under its name; for one file the output itself."""
    if len(rows) == 1 and output.suffix:
        write_text(output, as_audacity(rows))
        return
    names = dict[str, str]()
    for row in rows:
        name = f"{pathlib.Path(row['file']).stem}.txt"
        if name in names:  # of two folders
            name = f"{pathlib.Path(row['file']).as_posix().strip('/').replace('/', '_')}.txt"
        names[name] = row["file"]
        write_text(output / name, as_audacity([row]))


class _Progress:
    """Tells on standard error, now and then, how far a long command has come."""

    def __init__(self, num_files: int, sample_rate: int) -> None:
        self.num_files, self.num_finished, self.seconds = num_files, 0, 0.0
        self.sample_rate = sample_rate
        self.began = self.told = time.monotonic()

    def watch(self, path: str, pieces: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for start, samples in pieces:
            yield start, samples
            now = time.monotonic()
            if now - self.told > _REPORT_SECONDS:
                self.told = now
                heard = self.seconds + start / self.sample_rate
                print(
                    f"{self.num_finished} of {self.num_files} files, {path}; "
                    f"{heard / (now - self.began):.0f} times as fast as it sounds",
                    file=sys.stderr,
                )

    def finished(self, seconds: float) -> None:
        self.num_finished += 1
        self.seconds += seconds


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_string("model", None, "Folder of a saved model (WORKDIR/model of a run).")
    flags.DEFINE_integer("top", 5, "How many classes to name for each file.", lower_bound=1)
    flags.DEFINE_enum("format", "table", list(WRITERS), "How to print.")
    flags.DEFINE_enum(
        "padding", None, ["original", "masked"],
        "Of the model: masked hears sounds longer or shorter than it was trained on. Default: its "
        "own.",
    )  # fmt: skip
    flags.DEFINE_float("window_seconds", None, "Hear files in windows of this length.")
    flags.DEFINE_float("hop_seconds", None, "From one window to the next; default: half a window.")
    flags.DEFINE_enum(
        "aggregate", "max", ["max", "mean", "attention"], "How windows make a file's scores."
    )
    flags.DEFINE_bool("events", False, "Say what sounds from when to when.")
    flags.DEFINE_float("threshold", 0.5, "Score that an event reaches.")
    flags.DEFINE_float(
        "threshold_off", None, "Score that it does not fall below; default: 0.7 of the threshold."
    )
    flags.DEFINE_string("output", None, "Write to this file; a stopped command goes on.")
    flags.DEFINE_integer("jobs", 2, "Files that are decoded at once.", lower_bound=1)
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

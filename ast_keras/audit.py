"""Looks at data before training: `python -m ast_keras.audit DATA`.

DATA is a CSV manifest, a folder of class folders, or the folder of a known data set. It says what
rates, channels, lengths and labels there are, what is broken, silent, clipped or in two splits, the
mean and deviation of the log-mels, and which recipe to start from. The exit status is 0 when the
data can be trained on, else 1.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from absl import app, flags

from ast_keras.auditing import advice, inspect_sound
from ast_keras.auditing.survey import Survey, sample
from ast_keras.auditing.text_report import describe
from ast_keras.commands.runner import run_command
from ast_keras.data.dataset import SoundDataset, Split
from ast_keras.data.readers import READERS, load_dataset
from ast_keras.data.readers.audio_folder import subfolders
from ast_keras.errors import AudioWarning, DatasetError
from ast_keras.files import write_json
from ast_keras.recipe import Recipe, override

KINDS = sorted(set(READERS) - {"synthetic"})
_EVERY_SECONDS = 5.0  # between two lines of progress


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise DatasetError(
            "Say what to look at: python -m ast_keras.audit DATA, a CSV manifest or a folder. "
            f"Received: {' '.join(argv[1:]) or 'nothing'}"
        )
    if flags.FLAGS.max_files < 0:
        raise DatasetError(f"max_files may not be negative. Received: {flags.FLAGS.max_files}")
    report = audit(
        argv[1],
        flags.FLAGS.kind,
        _reader_settings(),
        max_files=flags.FLAGS.max_files,
        num_workers=flags.FLAGS.num_workers,
        statistics=flags.FLAGS.statistics,
    )
    print("\n".join(describe(report)))
    if flags.FLAGS.output:
        write_json(flags.FLAGS.output, report)
    return 1 if report["problems"] else 0


def _reader_settings() -> dict[str, Any]:
    """Returns what `--set` says about reading the data; other settings of a training are let by."""
    data = override(Recipe(name="audit"), flags.FLAGS["set"].value).data
    settings = {
        field.name: getattr(data, field.name)
        for field in dataclasses.fields(data)
        if field.default is None and field.name != "path"  # these are the readers' own
    }
    if flags.FLAGS.labels:
        settings["labels_path"] = flags.FLAGS.labels
    return {name: value for name, value in settings.items() if value is not None}


def audit(
    path: str,
    kind: str | None = None,
    settings: dict[str, Any] | None = None,
    *,
    max_files: int = 0,
    num_workers: int = 0,
    statistics: bool = True,
) -> dict[str, Any]:
    """Inspects a data set and returns the report that the command prints.

    Args:
      path: A CSV manifest or a folder.
      kind: A key of `READERS`; None to recognise it.
      settings: Of the reader.
      max_files: How many sounds to inspect, the same ones every time; 0 for all.
      num_workers: Threads; 0 for one per core.
      statistics: Whether to compute log-mels, which needs TensorFlow.

    Raises:
      DatasetError: If there is no such data set.
    """
    kind = kind or recognise(path)
    dataset, settings, missing = read(kind, path, settings or {})
    chosen = sample(dataset, max_files)
    total = sum(map(len, chosen.values()))
    survey = Survey(dataset, total)
    log_mel = _log_mel() if statistics else None
    with _progress(total) as count, warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # they are in the report
        for (split, index), sound in _inspect(dataset, chosen, log_mel, num_workers):
            survey.add(split, index, sound)
            count()
    report = {"path": path, "kind": kind, "settings": settings, **survey.report()}
    report["missing"] = missing
    if statistics and survey.log_mels.num_clips:
        report["log_mel"] = _log_mel_report(survey, report)
    report["problems"] = advice.find_problems(report)
    report["remarks"] = advice.list_remarks(report)
    report["start"] = (
        None if report["problems"] else advice.choose_recipe(report, kind, settings, path)
    )
    return report


def recognise(path: str) -> str:
    """Returns the kind of data at a path, by what only that kind has.

    Example:

    >>> recognise("sounds.csv")
    Traceback (most recent call last):
    ...
    ast_keras.errors.DatasetError: There is no such file or folder. Received: sounds.csv
    """
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise DatasetError(f"There is no such file or folder. Received: {path}")
    if not os.path.isdir(path):
        return "audioset" if path.endswith((".json", "_segments.csv")) else "manifest"
    names = set(os.listdir(path))
    if os.path.isfile(os.path.join(path, "meta", "esc50.csv")):
        return "esc50"
    if {"validation_list.txt", "testing_list.txt"} <= names:
        return "speech_commands"
    if any(name.endswith("_segments.csv") for name in names):
        return "audioset"
    return "built" if "built" in READERS and _is_built(path) else "folders"


def _is_built(path: str) -> bool:
    """Tells whether tensorflow-datasets wrote the folder, or one up to two levels below it."""
    roots = [path]
    for folder in (path, *(os.path.join(path, name) for name in subfolders(path))):
        roots += [os.path.join(folder, name) for name in subfolders(folder)]
    return any(os.path.isfile(os.path.join(root, "dataset_info.json")) for root in roots)


def read(
    kind: str, path: str, settings: dict[str, Any]
) -> tuple[SoundDataset, dict[str, Any], str | None]:
    """Reads a data set as far as it goes.

    Returns:
      The data, the settings that read it, and what is missing: None, or the reader's complaint.
    """
    missing = None
    try:
        dataset = load_dataset(kind, path, **settings)
    except DatasetError as error:
        if kind != "manifest":
            raise
        settings = {**settings, "allow_missing": True}
        dataset = load_dataset(kind, path, **settings)  # raises again if it is not that
        missing = str(error)
    if kind == "esc50" and "subset" not in settings:
        settings = {"fold": 1, **settings}
        part = load_dataset(kind, path, subset="esc10", **settings)
        if sum(map(len, part.splits.values())) == sum(map(len, dataset.splits.values())):
            return part, {**settings, "subset": "esc10"}, missing
    return dataset, settings, missing


def _inspect(
    dataset: SoundDataset,
    chosen: dict[str, Any],
    log_mel: inspect_sound.LogMel | None,
    num_workers: int,
) -> Iterator[tuple[tuple[str, int], inspect_sound.Sound]]:
    """Yields place and findings in order, decoding a few sounds ahead in threads."""
    places = ((split, int(i)) for split, indices in chosen.items() for i in indices)
    num_workers = num_workers or os.cpu_count() or 1
    ahead: collections.deque[Any] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        try:
            for split, index in places:
                found = pool.submit(_look, dataset.splits[split], index, log_mel)
                ahead.append(((split, index), found))
                if len(ahead) > 4 * num_workers:
                    place, found = ahead.popleft()
                    yield place, found.result()
            while ahead:
                place, found = ahead.popleft()
                yield place, found.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _look(split: Split, index: int, log_mel: inspect_sound.LogMel | None) -> inspect_sound.Sound:
    return inspect_sound.inspect_sound(split.sources[index], log_mel)  # type: ignore[arg-type]


def _log_mel() -> inspect_sound.LogMel:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # which would be taken whole for little
    return inspect_sound.log_mel_function()


def _log_mel_report(survey: Survey, report: dict[str, Any]) -> dict[str, Any]:
    frames = advice.num_frames_for(report["seconds"]["95%"])
    result: dict[str, Any] = {"num_clips": survey.log_mels.num_clips, "num_frames": frames}
    for name, padded in (("padded", True), ("unpadded", False)):
        mean, std = survey.log_mels.over(frames, padded)
        result[name] = {"mean": mean, "std": std}
    return result


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Counts sounds on standard error: in one line on a terminal, else every few seconds."""
    start = shown = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()

    def count() -> None:
        nonlocal done, shown
        done += 1
        now = time.monotonic()
        if now - shown > (0.2 if terminal else _EVERY_SECONDS):
            shown = now
            rate = done / (now - start)
            line = f"{done:,} of {total:,} sounds, {rate:.0f}/s, {(total - done) / rate:.0f} s left"
            print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n",
                  file=sys.stderr, flush=True)  # fmt: skip

    yield count
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def run() -> None:
    """Defines the flags and runs the command; also what the installed program calls."""
    flags.DEFINE_enum("kind", None, KINDS, "What DATA is; recognised when left out.")
    flags.DEFINE_string(
        "labels", None, "Of a manifest: file of labels, or a published list's name."
    )
    flags.DEFINE_multi_string("set", [], "data.field=value as in training, e.g. data.fold=2.")
    flags.DEFINE_integer("max_files", 0, "Inspect so many sounds only, always the same; 0 for all.")
    flags.DEFINE_integer("num_workers", 0, "Threads; 0 for one per core.")
    flags.DEFINE_bool("statistics", True, "Compute log-mels, which takes most of the time.")
    flags.DEFINE_string("output", None, "Also write the report to this JSON file.")
    app.run(lambda argv: sys.exit(run_command(main, argv)))


if __name__ == "__main__":
    run()

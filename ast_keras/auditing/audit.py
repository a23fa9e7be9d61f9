"""Audit of a data set: recognises and reads it, inspects its sounds and returns a report."""

from __future__ import annotations

import os
import warnings
from typing import Any

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.audio.loading import Channel
from ast_keras.auditing import advice
from ast_keras.auditing.inspect_sound import Inspection, LogMel, inspect_sound, log_mel_function
from ast_keras.auditing.survey import Survey, sample
from ast_keras.data.dataset import SoundDataset
from ast_keras.data.prefetch import map_ahead
from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.recognise import recognise
from ast_keras.errors import AudioWarning, DatasetError
from ast_keras.progress import ProgressBar
from ast_keras.recipe import Frontend

_DEFAULT_FRONTEND = Frontend()


def audit(
    path: str,
    kind: str = "auto",
    settings: dict[str, Any] | None = None,
    *,
    max_files: int = 0,
    num_workers: int = 0,
    statistics: bool = True,
    progress: bool = False,
    channel: int | None = None,
    frontend: Frontend = _DEFAULT_FRONTEND,
) -> dict[str, Any]:
    """Inspects a data set and returns the report that `python -m ast_keras.audit` prints.

    Args:
        path: Path of a CSV manifest or of a folder.
        kind: Kind of data set, a key of `READERS`. "auto" recognises it by its files.
        settings: Arguments of the reader, for example `{"fold": 2}`.
        max_files: Maximum number of sounds to inspect, the same ones every time. 0 inspects all.
        num_workers: Number of threads. 0 starts one for each core.
        statistics: Whether to compute log-mels, which needs TensorFlow.
        progress: Whether to show the progress on standard error.
        channel: Index of the channel that is used. None for the mean of all channels.
        frontend: Filterbank of the model to train: sample rate, frequencies, frames, mel bins.

    Returns:
        A report that JSON can hold. Its `problems` are empty if the data can be trained on.

    Raises:
        DatasetError: If the path does not hold such a data set.
    """
    kind = recognise(path) if kind == "auto" else kind
    dataset, settings, missing = _read(kind, path, settings or {})
    chosen = sample(dataset, max_files)
    places = [(split, int(index)) for split, indices in chosen.items() for index in indices]
    survey = Survey(dataset, len(places), frontend)
    filterbank_range = FilterbankRange.of(frontend)
    log_mel = _log_mel(filterbank_range, frontend.num_mel_bins) if statistics else None
    num_workers = num_workers or os.cpu_count() or 1

    def inspect(place: tuple[str, int]) -> Inspection:
        split, index = place
        source: Any = dataset.splits[split].sources[index]
        used: Channel = "mix" if channel is None else channel
        return inspect_sound(source, log_mel, filterbank_range, channel=used)

    inspections = map_ahead(inspect, places, num_workers, num_ahead=4 * num_workers)
    bar = ProgressBar(len(places), " sounds", quiet=not progress)
    with bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # the report contains them
        for (split, index), inspection in zip(places, inspections, strict=True):
            survey.add(split, index, inspection)
            bar.update()
    report = {"path": path, "kind": kind, "settings": settings, **survey.report()}
    report["missing"] = missing
    if statistics and survey.log_mels.num_clips:
        report["log_mel"] = _log_mel_report(survey, report, frontend)
    report["problems"] = advice.find_problems(report, frontend)
    report["remarks"] = advice.list_remarks(report)
    report["start"] = (
        None
        if report["problems"]
        else advice.choose_recipe(report, kind, {**settings, "channel": channel}, path, frontend)
    )
    return report


def _read(
    kind: str, path: str, settings: dict[str, Any]
) -> tuple[SoundDataset, dict[str, Any], str | None]:
    """Reads a data set, allowing a manifest to name missing files.

    Returns:
        The data set, the settings with which it was read, and the error about missing files, or
        None.
    """
    missing = None
    try:
        dataset = load_dataset(kind, path, **settings)
    except DatasetError as error:
        if kind != "manifest":
            raise
        settings = {**settings, "allow_missing": True}
        dataset = load_dataset(kind, path, **settings)  # raises again if the cause is another one
        missing = str(error)
    if kind == "esc50" and "subset" not in settings:
        settings = {"fold": 1, **settings}
        part = load_dataset(kind, path, subset="esc10", **settings)
        if sum(map(len, part.splits.values())) == sum(map(len, dataset.splits.values())):
            return part, {**settings, "subset": "esc10"}, missing
    return dataset, settings, missing


def _log_mel(filterbank_range: FilterbankRange, num_mel_bins: int) -> LogMel:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all of its memory
    return log_mel_function(filterbank_range, num_mel_bins)


def _log_mel_report(survey: Survey, report: dict[str, Any], frontend: Frontend) -> dict[str, Any]:
    frames = advice.num_frames_for(report["seconds"]["95%"], frontend.frame_step_seconds)
    result: dict[str, Any] = {
        "num_clips": survey.log_mels.num_clips,
        "num_frames": frames,
        "range": f"{frontend.num_mel_bins} mel bins of {FilterbankRange.of(frontend)}",
    }
    for name, padded in (("padded", True), ("unpadded", False)):
        mean, std = survey.log_mels.over(frames, padded)
        result[name] = {"mean": mean, "std": std}
    return result

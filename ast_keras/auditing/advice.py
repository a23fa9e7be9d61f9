"""Advice on the findings of an audit: problems, notes and the recommended training command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.auditing.inspect_sound import MAX_FRAMES
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.recipe import Frontend, list_recipes

# The authors' data sets have recipes of their own; other data is fine-tuned.
_OWN_RECIPE = {
    "esc50": "esc50",
    "speech_commands": "speech_commands",
    "audioset": "audioset_balanced",
}
_IMBALANCE = 5.0  # ratio of the most to the least frequent label from which a remark is made
_DEFAULT_FRONTEND = Frontend()
_FRAMES_STEP = 64  # gives 128, 512 and 1024 frames for 1, 5 and 10 s, as the authors use


def num_frames_for(seconds: float, frame_step_seconds: float = 0.01) -> int:
    """Returns the number of frames to train with.

    Args:
        seconds: Length of nearly all sounds in seconds.
        frame_step_seconds: Time from one frame to the next.

    Example:

    >>> [num_frames_for(seconds) for seconds in (1.0, 5.0, 10.0, 60.0)]
    [128, 512, 1024, 1024]
    """
    parts = math.ceil(round(seconds / frame_step_seconds / _FRAMES_STEP, 6))
    return min(MAX_FRAMES, _FRAMES_STEP * max(1, parts))


def find_problems(report: Mapping[str, Any], frontend: Frontend = _DEFAULT_FRONTEND) -> list[str]:
    """Returns the reasons why the data cannot be trained on; empty if it can.

    Args:
        report: The findings, from `Survey.report`.
        frontend: Filterbank of the model to train.
    """
    problems = []
    defects, splits = report["defects"], report["splits"]
    for kind, rule in (
        ("unreadable", "cannot be read"),
        ("invalid_samples", "hold invalid samples"),
    ):
        if kind in defects:
            problems.append(
                f"{defects[kind]['count']} of {report['num_inspected']} sounds {rule}, and "
                "training would stop at the first: replace or remove them, or train with "
                "--set data.skip_unreadable=true"
            )
    highest = max(map(int, report["sample_rates"]), default=0) / 2
    if 0 < highest <= frontend.f_min_hz:
        problems.append(
            f"the recordings hold frequencies up to {highest:g} Hz, and the filterbank starts at "
            f"frontend.f_min_hz={frontend.f_min_hz:g}: nothing is left of them"
        )
    if report["untrainable"]:
        problems.append(report["untrainable"])
    elif set(splits) == {"train"}:
        problems.append(
            "there is nothing to test on: assign sounds to the test or validation split"
        )
    return problems


def choose_statistics(padded: tuple[float, float] | None) -> tuple[bool, str]:
    """Returns whether to normalise by the data's own mean and deviation, and the reason.

    The authors do so for data whose mean is more than half a standard deviation away from
    AudioSet's (ESC-50, Speech Commands), although they start from weights trained on AudioSet.

    Args:
        padded: Mean and standard deviation of the padded log-mels; None if they are unknown.

    Returns:
        Whether to use the data's own statistics, and one line that gives the reason.
    """
    keep = "keep the mean and std with which the initial weights were trained, as the recipe does"
    if padded is None or not all(map(math.isfinite, padded)):
        return False, f"{keep}; those of the data are unknown"
    mean, std = padded
    distance = abs(mean - AUDIOSET_MEAN) / AUDIOSET_STD
    found = f"the mean of the padded data is {distance:.2f} standard deviations from AudioSet's"
    if distance > 0.5 or not 2 / 3 < std / AUDIOSET_STD < 1.5:
        return True, f"use the mean and std of the data, padded as in training: {found}"
    return False, f"{keep}: {found}"


def choose_recipe(
    report: Mapping[str, Any],
    kind: str,
    settings: Mapping[str, Any],
    path: str,
    frontend: Frontend = _DEFAULT_FRONTEND,
) -> dict[str, Any]:
    """Returns the recipe to start from, its command line, and the reasons.

    Args:
        report: The findings, from `Survey.report`, with `log_mel` if it was measured.
        kind: Kind of data set, a key of `READERS`.
        settings: Arguments of its reader.
        path: Path of the data.
        frontend: Range of the filterbank and number of mel bins, if they are not AudioSet's.

    Returns:
        A mapping with `recipe`, `command` and `why`.
    """
    own = _OWN_RECIPE.get(kind, "")
    if own in list_recipes() and settings.get("subset") in (None, own):
        recipe, why = own, ["the authors' own recipe for this data set"]
        assignments = _assignments(path, None, settings)
    else:
        recipe = "finetune"
        lengths, step = report["seconds"], frontend.frame_step_seconds
        frames = num_frames_for(lengths["95%"], step)
        log_mel = report.get("log_mel")
        padded = (log_mel["padded"]["mean"], log_mel["padded"]["std"]) if log_mel else None
        uses_own, statistics_reason = choose_statistics(padded)
        changes = _frontend_changes(frontend)
        if changes and padded:
            uses_own = True
            statistics_reason = "use the mean and std of the data, measured with your filterbank"
        why = [
            f"{frames} frames last {frames * step:g} s, and 95% of the sounds last up to "
            f"{lengths['95%']:g} s",
            "binary cross-entropy and mAP, because a sound may have several labels"
            if report["multi_label"]
            else "categorical cross-entropy and accuracy, because each sound has one label",
            statistics_reason,
        ]
        assignments = [
            *_assignments(path, kind if kind != "manifest" else None, settings),
            *changes,
            f"frontend.num_frames={frames}",
            f"data.clip_seconds={frames * step:g}",
            f"augment.time_mask_frames={frames * 3 // 16}",
        ]
        if uses_own and padded:
            assignments += [f"frontend.mean={padded[0]:.6g}", f"frontend.std={padded[1]:.6g}"]
    command = ["python", "-m", "ast_keras.train", "--recipe", recipe]
    for assignment in assignments:
        command += ["--set", assignment]
    return {"recipe": recipe, "command": shlex.join(command), "why": why}


def _assignments(path: str, kind: str | None, settings: Mapping[str, Any]) -> list[str]:
    given = {"kind": kind, "path": path, **settings}
    return [f"data.{name}={_text(value)}" for name, value in given.items() if value is not None]


def _frontend_changes(frontend: Frontend) -> list[str]:
    """Returns the assignments that make AudioSet's filterbank the requested one."""
    changes = FilterbankRange.of(frontend).differences(FilterbankRange())
    if frontend.num_mel_bins != _DEFAULT_FRONTEND.num_mel_bins:
        changes["num_mel_bins"] = frontend.num_mel_bins
    return [f"frontend.{name}={value}" for name, value in changes.items()]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def list_remarks(report: Mapping[str, Any]) -> list[str]:
    """Returns remarks that matter before training but do not prevent it, one line each.

    Args:
        report: The findings, from `Survey.report`.
    """
    remarks = []
    lengths, splits, duplicates = report["seconds"], report["splits"], report["duplicates"]
    longest = f"{report['longest_seconds']:g}"
    too_long = lengths.get("longer_than", {}).get(longest, 0)
    if too_long:
        remarks.append(
            f"{too_long} sounds are longer than {longest} s, and only their beginning is used: "
            "list their parts in a table with the columns start and end, in seconds"
        )
    lossy = {"OGG", "MP3", "MPEG"} & {name.split()[0] for name in report["formats"]}
    if report["num_segments"] and lossy:
        remarks.append(
            "segments of Ogg and MP3 recordings are decoded from the beginning of the recording: "
            "convert long ones to FLAC, for example with ffmpeg -i NAME.mp3 NAME.flac"
        )
    copies = duplicates["across_splits"]["count"] + duplicates["near_across_splits"]["count"]
    if copies:
        remarks.append(
            f"{copies} sounds occur in two splits, which makes scores too high: remove them"
        )
    groups = report["likely_groups"]
    if groups["count"] or duplicates["same_start_across_splits"]["count"]:
        pattern = groups["pattern"] and shlex.quote(f"data.group_pattern={groups['pattern']}")
        remarks.append(
            "sounds in different splits may be parts of one recording, which makes scores too "
            "high: name the recording in a column group"
            + (f", or add --set {pattern}" if pattern else "")
        )
    if duplicates["other_labels"]["count"]:
        remarks.append(
            "the same sound has different labels: correct the labels or remove the sound"
        )
    if report["label_defects"]["not_in_train"]:
        remarks.append(
            "labels without training examples cannot be learned, and count in every mean score"
        )
    imbalance = report["label_defects"]["imbalance"] or 1.0
    if imbalance >= _IMBALANCE:
        setting = (
            "data.sampling=weighted" if report["multi_label"] else "train.class_weights=balanced"
        )
        remarks.append(
            f"the most frequent label has {imbalance:g} times as many training sounds as the "
            f"rarest: if rare labels matter as much, train with --set {setting}"
        )
    if report["label_defects"]["similar_names"]:
        remarks.append(
            "labels with similar names are different classes: check whether one was meant"
        )
    if {"inverted_channel", "dead_channel"} & set(report["defects"]):
        remarks.append(
            "stereo sounds with an inverted or dead channel are lost or too quiet in the mean of "
            "their channels: train and predict with one channel, for example data.channel=0"
        )
    if "silent" in report["defects"]:
        remarks.append(
            "silent sounds teach the model a label for silence: remove them unless that is intended"
        )
    if "validation" not in splits and "test" in splits:
        remarks.append(
            "without a validation split, the best epoch is chosen on the test split: report the "
            "last epoch"
        )
    return remarks

"""From what an audit found to the command that trains on it, or to why nothing can."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from ast_keras.auditing.inspect_sound import MAX_FRAMES
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.recipe import list_recipes

# Of the authors' data sets their own recipes; all else is fine-tuned.
_OWN_RECIPE = {
    "esc50": "esc50",
    "speech_commands": "speech_commands",
    "audioset": "audioset_balanced",
}
_FRAMES_STEP = 64  # 1, 5 and 10 s come to 128, 512 and 1024 frames, as the authors have them


def num_frames_for(seconds: float) -> int:
    """Returns the frames to train with for sounds of this length, 10 ms each.

    Example:

    >>> [num_frames_for(seconds) for seconds in (1.0, 5.0, 10.0, 60.0)]
    [128, 512, 1024, 1024]
    """
    return min(MAX_FRAMES, _FRAMES_STEP * max(1, math.ceil(100 * seconds / _FRAMES_STEP)))


def find_problems(report: Mapping[str, Any]) -> list[str]:
    """Returns why the data cannot be trained on as it is; empty where it can.

    Args:
      report: Of `Survey.report`.
    """
    problems = []
    defects, splits = report["defects"], report["splits"]
    for kind, rule in (("unreadable", "cannot be read"), ("invalid_samples", "hold no sound")):
        if kind in defects:
            problems.append(
                f"{defects[kind]['count']} of {report['num_inspected']} sounds {rule}, and "
                "training would stop at the first: replace them, leave them out, or train with "
                "--set data.skip_unreadable=true"
            )
    if "train" not in splits:
        problems.append("there is nothing to train on: name some sounds as train")
    elif set(splits) == {"train"}:
        problems.append("there is nothing to test on: hold out sounds as test, or as validation")
    trained = sum(row.get("train", 0) > 0 for row in report["labels"])
    if trained < 1 + (not report["multi_label"]):
        problems.append(f"{trained} of the labels can be trained, of which there must be more")
    return problems


def choose_statistics(padded: tuple[float, float] | None) -> tuple[bool, str]:
    """Returns whether to set the data's own mean and deviation, and why, in a line.

    The authors start from AudioSet's weights with the data's own ones where they are more than
    half a deviation away (ESC-50, Speech Commands).

    Args:
      padded: Mean and deviation of the padded log-mels; None where they are not known.
    """
    keep = "keep mean and std of the start weights (as the recipe does), which they have learned on"
    if padded is None or not all(map(math.isfinite, padded)):
        return False, f"{keep}; the data's own are not known"
    mean, std = padded
    apart = abs(mean - AUDIOSET_MEAN) / AUDIOSET_STD
    found = f"the data's own, padded, are {apart:.2f} deviations away from AudioSet's"
    if apart > 0.5 or not 2 / 3 < std / AUDIOSET_STD < 1.5:
        return True, f"take the data's own mean and std, padded as in training: {found}"
    return False, f"{keep}: {found}"


def choose_recipe(
    report: Mapping[str, Any], kind: str, settings: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Returns the recipe to start from, its command line, and the reasons.

    Args:
      report: Of `Survey.report`, with "log_mel" where it was measured.
      kind: Of the data set.
      settings: Of its reader.
      path: Of the data.
    """
    own = _OWN_RECIPE.get(kind, "")
    if own in list_recipes() and settings.get("subset") in (None, own):
        recipe, why = own, ["the authors' own recipe for this data set"]
        assignments = _assignments(path, None, settings)
    else:
        recipe = "finetune"
        frames, lengths = num_frames_for(report["seconds"]["95%"]), report["seconds"]
        log_mel = report.get("log_mel")
        padded = (log_mel["padded"]["mean"], log_mel["padded"]["std"]) if log_mel else None
        takes_own, why_statistics = choose_statistics(padded)
        why = [
            f"{frames} frames hear {frames / 100:g} s, and 95% of the sounds last up to "
            f"{lengths['95%']:g} s",
            "binary cross-entropy and mAP follow from the labels, of which a sound may have several"
            if report["multi_label"]
            else "categorical cross-entropy and accuracy follow from one label a sound",
            why_statistics,
        ]
        assignments = [
            *_assignments(path, kind if kind != "manifest" else None, settings),
            f"frontend.num_frames={frames}",
            f"data.clip_seconds={frames / 100:g}",
            f"augment.time_mask_frames={frames * 3 // 16}",
        ]
        if takes_own and padded:
            assignments += [f"frontend.mean={padded[0]:.6g}", f"frontend.std={padded[1]:.6g}"]
    command = ["python", "-m", "ast_keras.train", "--recipe", recipe]
    for assignment in assignments:
        command += ["--set", assignment]
    return {"recipe": recipe, "command": shlex.join(command), "why": why}


def _assignments(path: str, kind: str | None, settings: Mapping[str, Any]) -> list[str]:
    given = {"kind": kind, "path": path, **settings}
    return [f"data.{name}={_text(value)}" for name, value in given.items() if value is not None]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def list_remarks(report: Mapping[str, Any]) -> list[str]:
    """Returns what should be known before training, a line each."""
    remarks = []
    lengths, splits, duplicates = report["seconds"], report["splits"], report["duplicates"]
    too_long = lengths.get("longer_than", {}).get("10.24", 0)
    if too_long:
        remarks.append(
            f"{too_long} sounds are longer than 10.24 s, of which only the beginning is heard: cut "
            "them into pieces, a row each and all in the same split"
        )
    copies = duplicates["across_splits"]["count"] + duplicates["near_across_splits"]["count"]
    if copies:
        remarks.append(f"{copies} sounds are in two splits, so that scores are too good: drop them")
    if duplicates["other_labels"]["count"]:
        remarks.append("the same sound has different labels: correct them, or drop it")
    if report["label_defects"]["not_in_train"]:
        remarks.append("labels that training lacks cannot be learned, and count in every mean")
    if report["label_defects"]["alike_names"]:
        remarks.append("labels of nearly the same name are different classes: meant so?")
    if "silent" in report["defects"]:
        remarks.append("silent sounds teach that silence has a label: leave them out unless it has")
    if "validation" not in splits and "test" in splits:
        remarks.append(
            "without a validation split the test split chooses the best epoch: trust the last one"
        )
    return remarks

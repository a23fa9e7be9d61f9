"""The report of an audit as text."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ast_keras.reports.tables import format_table

_NUM_EXAMPLES = 3  # printed for each kind of finding
_MAX_LABELS = 60  # with more labels, only the most and the least frequent are printed
_DEFECTS = {
    "left_out": "not read; the notes above say what to do",
    "unreadable": "cannot be decoded",
    "invalid_samples": "NaN, infinite, or integers stored as floats",
    "damaged": "cut short, or without a header",
    "past_end": "segments that end after their recording",
    "inverted_channel": "channels cancel each other in their mean",
    "dead_channel": "a silent channel lowers the level of the mean",
    "silent": "below -60 dBFS",
    "clipped": "runs of samples at full scale",
    "offset": "mean beyond 0.01 of full scale (harmless: the frontend removes it)",
    "too_short": "shorter than a frame",
    "too_loud": "above twice full scale",
}
_LABELS = {
    "no_example": "without any example",
    "single_example": "with a single example",
    "not_in_train": "tested but never trained",
    "only_in_train": "trained but never tested",
    "similar_names": "with similar names",
}


def describe(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a report.

    Args:
        report: The report that `audit` returns.
    """
    splits = ", ".join(f"{count:,} {name}" for name, count in report["splits"].items())
    several = ", several for each sound" if report["multi_label"] else ""
    yield f"{report['path']}: {report['kind']}, {len(report['labels'])} labels{several}; {splits}"
    yield from (f"  {note}" for note in report["notes"])
    if report["missing"]:
        yield f"  {report['missing']}"
    total = sum(report["splits"].values())
    if report["num_inspected"] < total:
        yield f"  inspected: {report['num_inspected']:,} of {total:,} sounds"
    yield from _labels(report)
    yield from _sounds(report)
    yield from _defects(report)
    yield from _duplicates(report)
    yield from _log_mels(report.get("log_mel"))
    yield from _conclusion(report)


def _labels(report: Mapping[str, Any]) -> Iterator[str]:
    names, found = list(report["splits"]), report["label_defects"]
    rows = sorted(report["labels"], key=lambda row: -sum(row[name] for name in names))
    table = [[row["label"], *(row[name] for name in names)] for row in rows]
    if len(table) > _MAX_LABELS:
        omitted = len(table) - _MAX_LABELS // 2 * 2
        gap = [f"... {omitted} more", *("" for _ in names)]
        table = [*table[: _MAX_LABELS // 2], gap, *table[-(_MAX_LABELS // 2) :]]
    yield "\nLabels"
    yield format_table([["", *names], *table], indent="  ")
    if found["imbalance"] is not None:
        yield f"  most to least frequent in train: {found['imbalance']:g} to 1"
    if found["without_label"]:
        yield f"  sounds without a label: {found['without_label']:,}"
    for kind, meaning in _LABELS.items():
        if found[kind]:
            first = [" / ".join(n) if isinstance(n, list) else n for n in found[kind][:8]]
            more = ", ..." if len(found[kind]) > 8 else ""
            yield f"  {meaning}: {len(found[kind])} ({', '.join(first)}{more})"


def _sounds(report: Mapping[str, Any]) -> Iterator[str]:
    yield "\nSounds"
    for title, name, unit in (
        ("rate", "sample_rates", " Hz"), ("channels", "channels", ""), ("format", "formats", ""),
    ):  # fmt: skip
        counts = list(report[name].items())
        listed = [f"{value}{unit} ({count:,})" for value, count in counts[:8]]
        more = f", {len(counts) - 8} more" if len(counts) > 8 else ""
        yield f"  {title:<9} {', '.join(listed)}{more}"
    lengths = report["seconds"]
    if lengths:
        keys = [key for key, value in lengths.items() if isinstance(value, float)][1:]
        cells = [["seconds", *keys], ["", *(f"{lengths[k]:.2f}" for k in keys)]]
        yield format_table(cells, indent="  ")
        yield f"  total {lengths['hours']:g} hours"
        for title in ("shorter", "longer"):
            counts = lengths[f"{title}_than"].items()
            yield f"  {title} than " + ", ".join(f"{s} s: {count:,}" for s, count in counts)


def _defects(report: Mapping[str, Any]) -> Iterator[str]:
    yield "\nDefects"
    if not report["defects"]:
        yield "  none"
    for kind, meaning in _DEFECTS.items():
        if kind not in report["defects"]:
            continue
        found = report["defects"][kind]
        yield f"  {kind.replace('_', ' ')}: {found['count']:,}, {meaning}"
        for example in found["examples"][:_NUM_EXAMPLES]:
            yield f"    {_name(report, example)}: {example['detail']}"
        if found["count"] > _NUM_EXAMPLES:
            yield "    ..."


def _name(report: Mapping[str, Any], sound: Mapping[str, str]) -> str:
    """Returns the path of a sound, relative to the data, and its split."""
    root = report["path"] if os.path.isdir(report["path"]) else os.path.dirname(report["path"])
    split = f" ({sound['split']})" if sound["split"] else ""
    return sound["sound"].removeprefix(os.path.join(root, "")) + split


def _duplicates(report: Mapping[str, Any]) -> Iterator[str]:
    yield "\nDuplicates"
    found = report["duplicates"]
    near = found["near_across_splits"]
    groups = (
        ("the same sound in two splits", found["across_splits"], None),
        ("nearly the same sound in two splits (another format, rate or level)", near, "sounds"),
        ("the same beginning in two splits", found["same_start_across_splits"], None),
        ("names that start alike in two splits", report["likely_groups"], None),
        ("the same sound twice in a split", found["within_split"], None),
        ("the same sound with different labels", found["other_labels"], None),
    )
    for title, group, key in groups:
        if group is near and not near["searched"]:
            yield f"  {title}: not searched"
            continue
        yield f"  {title}: {group['count']:,}"
        for example in group["examples"][:_NUM_EXAMPLES]:
            members = example[key] if key else example
            listed = " = ".join(_name(report, member) for member in members[:4])
            similarity = f", similarity {example['similarity']:.3f}" if key else ""
            yield f"    {listed}{' = ...' if len(members) > 4 else ''}{similarity}"
        if group["count"] > _NUM_EXAMPLES:
            yield "    ..."


def _log_mels(found: Mapping[str, Any] | None) -> Iterator[str]:
    yield "\nLog-mels"
    if found is None:
        yield "  not measured"
        return
    yield f"  {found['num_clips']:,} training sounds, cut or padded to {found['num_frames']} frames"
    yield f"  {found['range']}"
    rows: list[list[object]] = [["", "mean", "std"]]
    for title, name in (("padded, as in training", "padded"), ("frames of sound", "unpadded")):
        rows.append([title, f"{found[name]['mean']:.4f}", f"{found[name]['std']:.4f}"])
    yield format_table(rows, indent="  ")


def _conclusion(report: Mapping[str, Any]) -> Iterator[str]:
    if report["remarks"]:
        yield "\nNotes"
        yield from _wrapped(report["remarks"])
    if report["problems"]:
        yield "\nCannot be trained on"
        yield from _wrapped(report["problems"])
        return
    yield "\nStart from"
    yield f"  {report['start']['command']}"
    yield from _wrapped(report["start"]["why"])


def _wrapped(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")

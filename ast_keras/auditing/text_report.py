"""The report of an audit as lines to read."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SHOWN = 3  # examples of each kind
_MOST_LABELS = 60  # of which every one is listed
_DEFECTS = {
    "unreadable": "cannot be decoded",
    "invalid_samples": "NaN, infinite, or integers kept as floats",
    "damaged": "cut short, or without a header",
    "silent": "below -60 dBFS",
    "clipped": "runs of samples at full scale",
    "offset": "mean beyond 0.01 of full scale (harmless: the frontend removes it)",
    "too_short": "shorter than 25 ms, no frame",
    "too_loud": "above twice full scale",
}
_LABELS = {
    "no_example": "without any example",
    "single_example": "with a single example",
    "not_in_train": "tested but never trained",
    "only_in_train": "trained but never tested",
    "alike_names": "alike in name",
}


def describe(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a report.

    Args:
      report: Of `audit.audit`.
    """
    splits = ", ".join(f"{count:,} {name}" for name, count in report["splits"].items())
    several = ", several to a sound" if report["multi_label"] else ""
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


def _table(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yields aligned rows, the first column to the left and the others to the right."""
    texts = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for first, *others in texts:
        cells = [f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True)]
        yield "  " + "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()


def _labels(report: Mapping[str, Any]) -> Iterator[str]:
    names, found = list(report["splits"]), report["label_defects"]
    rows = sorted(report["labels"], key=lambda row: -sum(row[name] for name in names))
    table = [[row["label"], *(row[name] for name in names)] for row in rows]
    if len(table) > _MOST_LABELS:
        omitted = len(table) - _MOST_LABELS // 2 * 2
        gap = [f"... {omitted} more", *("" for _ in names)]
        table = [*table[: _MOST_LABELS // 2], gap, *table[-(_MOST_LABELS // 2) :]]
    yield "\nLabels"
    yield from _table([["", *names], *table])
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
        yield from _table([["seconds", *keys], ["", *(f"{lengths[k]:.2f}" for k in keys)]])
        yield f"  together {lengths['hours']:g} hours"
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
        for example in found["examples"][:_SHOWN]:
            yield f"    {_name(report, example)}: {example['detail']}"
        if found["count"] > _SHOWN:
            yield "    ..."


def _name(report: Mapping[str, Any], sound: Mapping[str, str]) -> str:
    """Returns a sound's path in the data and its split."""
    root = report["path"] if os.path.isdir(report["path"]) else os.path.dirname(report["path"])
    return f"{sound['sound'].removeprefix(os.path.join(root, ''))} ({sound['split']})"


def _duplicates(report: Mapping[str, Any]) -> Iterator[str]:
    yield "\nDuplicates"
    found = report["duplicates"]
    near = found["near_across_splits"]
    groups = (
        ("the same sound in two splits", found["across_splits"], None),
        ("almost the same in two splits (another format, rate or level)", near, "sounds"),
        ("the same sound twice in a split", found["within_split"], None),
        ("the same sound with different labels", found["other_labels"], None),
    )
    for title, group, key in groups:
        if group is near and not near["searched"]:
            yield f"  {title}: not looked for"
            continue
        yield f"  {title}: {group['count']:,}"
        for example in group["examples"][:_SHOWN]:
            members = example[key] if key else example
            listed = " = ".join(_name(report, member) for member in members[:4])
            likeness = f", likeness {example['likeness']:.3f}" if key else ""
            yield f"    {listed}{' = ...' if len(members) > 4 else ''}{likeness}"
        if group["count"] > _SHOWN:
            yield "    ..."


def _log_mels(found: Mapping[str, Any] | None) -> Iterator[str]:
    yield "\nLog-mels"
    if found is None:
        yield "  not measured"
        return
    yield f"  {found['num_clips']:,} training sounds, cut or padded to {found['num_frames']} frames"
    rows: list[list[object]] = [["", "mean", "std"]]
    for title, name in (("padded, as in training", "padded"), ("frames of sound", "unpadded")):
        rows.append([title, f"{found[name]['mean']:.4f}", f"{found[name]['std']:.4f}"])
    yield from _table(rows)


def _conclusion(report: Mapping[str, Any]) -> Iterator[str]:
    if report["remarks"]:
        yield "\nTo know"
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

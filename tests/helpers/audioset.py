"""Lists of AudioSet's clips: segment CSVs, and JSON files of the AST's authors."""

import json

from ast_keras.labels import LabelSet

MIDS = LabelSet.load("audioset").ids
HEAD = (
    "# Segments csv created Sun Mar  5 10:54:25 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def segment(ytid, labels, start=30):
    """Returns a row of a segment CSV."""
    mids = ",".join(MIDS[label] for label in labels)
    return f'{ytid}, {start:.3f}, {start + 10:.3f}, "{mids}"\n'


def write_list(path, rows):
    """Writes a segment CSV with rows of YTID and labels."""
    path.write_text(HEAD + "".join(segment(*row) for row in rows))


def record(path, labels):
    """Returns a record of a JSON list."""
    return {"wav": str(path), "labels": ",".join(MIDS[label] for label in labels)}


def write_json(path, *records):
    """Writes a JSON list."""
    path.write_text(json.dumps({"data": list(records)}, indent=1))

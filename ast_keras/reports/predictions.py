"""The scores of every example of a split as a CSV table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.data.dataset import Split
from ast_keras.data.segment import Segment
from ast_keras.evaluation.metrics import Evaluation
from ast_keras.files import replacing
from ast_keras.labels import LabelSet

Array = npt.NDArray[Any]


def write_predictions(
    path: str | os.PathLike[str],
    split: Split,
    labels: LabelSet,
    examples: Sequence[int],
    scores: Array,
    evaluation: Evaluation,
) -> None:
    """Writes a table with a line for each example of a split, in its order.

    | column | content |
    |---|---|
    | `file` | path, or the name of an example that is no file |
    | `start`, `end` | span in seconds, if the split holds segments of recordings |
    | `labels` | true labels, separated by semicolons |
    | `predicted` | class with the highest score; with several labels, all from their threshold |
    | `score:LABEL` | score of the class, exact for float32 |

    An example that could not be read has neither `predicted` nor scores.

    Args:
        path: CSV file, which appears complete or not at all.
        split: The split.
        labels: Labels of the classes.
        examples: Index in the split of each row of `scores`.
        scores: Scores `[examples, classes]`.
        evaluation: The evaluation of these scores.
    """
    spans = any(isinstance(split.sources[index], Segment) for index in range(len(split)))
    columns = ["file", *(("start", "end") if spans else ()), "labels", "predicted"]
    rows = {example: row for row, example in enumerate(examples)}
    with replacing(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *(f"score:{name}" for name in labels.names)])
        for index in range(len(split)):
            name = split.source_name(index)
            cells: list[Any] = [*_place(split.sources[index], name)] if spans else [name]
            cells.append(_joined(labels, split.targets[index]))
            if index not in rows:
                writer.writerow([*cells, "", *("" for _ in labels.names)])
                continue
            own = scores[rows[index]]
            if evaluation.confusion_matrix is None:
                predicted = np.flatnonzero(own >= evaluation.thresholds).tolist()
            else:
                predicted = [int(own.argmax())]
            cells.append(_joined(labels, predicted))
            writer.writerow([*cells, *(f"{score:.9g}" for score in own)])


def _place(source: object, name: str) -> Iterator[object]:
    if not isinstance(source, Segment):
        yield from (name, "", "")
        return
    yield source.path
    yield f"{source.start_seconds:.10g}"
    yield "" if source.end_seconds is None else f"{source.end_seconds:.10g}"


def _joined(labels: LabelSet, indices: Sequence[int]) -> str:
    return ";".join(labels.names[index] for index in indices)

"""Text tables: aligned columns, scores by class, scores by model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ast_keras.errors import ArgumentError
from ast_keras.evaluation.metrics import Evaluation
from ast_keras.labels import LabelSet

SCORES = {
    "accuracy": "accuracy",
    "mean_average_precision": "mAP",
    "mean_auc": "AUC",
    "d_prime": "d-prime",
}


def format_table(rows: Sequence[Sequence[object]], align: str = "", indent: str = "") -> str:
    """Returns rows of cells as lines with aligned columns.

    Floats are printed with four decimals and integers with thousands separators; None and NaN are
    printed as `-`.

    Args:
        rows: Cells of each row; a header is the first row. All rows have the same length.
        align: One of `<` (left), `>` (right) and `^` (centre) for each column. Empty: the first
            column is aligned left, the others right.
        indent: Text at the start of each line.

    Raises:
        ArgumentError: If the rows, or the rows and `align`, differ in length.

    Example:

    >>> print(format_table([["class", "examples", "AP"], ["dog", 1200, 0.5]]))
    class  examples      AP
    dog       1,200  0.5000
    """
    if not rows:
        return ""
    num_columns = len(rows[0])
    align = align or "<" + ">" * (num_columns - 1)
    if any(len(row) != num_columns for row in rows) or len(align) != num_columns:
        raise ArgumentError(
            "All rows of a table, and align, must have the same length. "
            f"Received: rows of {sorted({len(row) for row in rows})} cells, align={align!r}"
        )
    texts = [[format_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        (indent + "  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, align, widths, strict=True)))
        .rstrip()
        for row in texts
    )  # fmt: skip


def format_cell(cell: object) -> str:
    """Returns the text of a cell: see `format_table`.

    Args:
        cell: Text, a number, or None.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def per_class(evaluation: Evaluation, labels: LabelSet) -> list[dict[str, object]]:
    """Returns the scores of each class as rows for JSON or a table.

    Args:
        evaluation: The evaluation of a data set.
        labels: Labels of its classes.

    Returns:
        One mapping for each class with `label`, `examples`, `precision`, `recall`, `f1`,
        `average_precision`, `auc` and `threshold`: see `Evaluation`.
    """
    return [
        {
            "label": name,
            "examples": int(evaluation.num_positives[index]),
            "precision": float(evaluation.precision[index]),
            "recall": float(evaluation.recall[index]),
            "f1": float(evaluation.f1[index]),
            "average_precision": float(evaluation.average_precision[index]),
            "auc": float(evaluation.auc[index]),
            "threshold": float(evaluation.thresholds[index]),
        }
        for index, name in enumerate(labels.names)
    ]


# Titles of the columns of `per_class`.
CLASS_COLUMNS = {
    "label": "class",
    "examples": "examples",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "AP",
    "auc": "AUC",
    "threshold": "threshold",
}


def class_table(evaluation: Evaluation, labels: LabelSet) -> str:
    """Returns the scores of each class as a text table.

    Args:
        evaluation: The evaluation of a data set.
        labels: Labels of its classes.
    """
    rows = [[row[column] for column in CLASS_COLUMNS] for row in per_class(evaluation, labels)]
    return format_table([list(CLASS_COLUMNS.values()), *rows])


def score_table(rows: Sequence[tuple[str, Mapping[str, object]]]) -> str:
    """Returns the scores of several models or splits as a text table.

    Args:
        rows: A name and its scores, as `Evaluation.summary` returns them; None is printed as `-`.
            If any row has an `epoch`, the table has a column for it.

    Example:

    >>> scores = {"accuracy": 0.9, "mean_average_precision": 0.8, "mean_auc": 0.97,
    ...           "d_prime": 2.7}
    >>> print(score_table([("test", scores)]))
          accuracy     mAP     AUC  d-prime
    test    0.9000  0.8000  0.9700   2.7000
    """
    epoch = ["epoch"] if any("epoch" in row for _, row in rows) else []
    header = ["", *epoch, *SCORES.values()]
    cells = [
        [name, *(row.get(column, "") for column in epoch), *(row[score] for score in SCORES)]
        for name, row in rows
    ]
    return format_table([header, *cells])

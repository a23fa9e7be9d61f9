"""Scores as text: tables to print and rows to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ast_keras.evaluation.metrics import Evaluation
from ast_keras.labels import LabelSet

SCORES = {
    "accuracy": "accuracy",
    "mean_average_precision": "mAP",
    "mean_auc": "AUC",
    "d_prime": "d-prime",
}


def per_class(evaluation: Evaluation, labels: LabelSet) -> list[dict[str, object]]:
    """Returns one row for each class: label, examples, average precision, AUC and, where an
    example has one label, the share of the class's examples that were recognised."""
    rows: list[dict[str, object]] = []
    for index, name in enumerate(labels.names):
        examples = int(evaluation.num_positives[index])
        row: dict[str, object] = {
            "label": name,
            "examples": examples,
            "average_precision": float(evaluation.average_precision[index]),
            "auc": float(evaluation.auc[index]),
        }
        if evaluation.confusion_matrix is not None:
            right = int(evaluation.confusion_matrix[index, index])
            row["recall"] = right / examples if examples else float("nan")
        rows.append(row)
    return rows


def class_table(evaluation: Evaluation, labels: LabelSet) -> str:
    """Returns the per-class scores as a table to print."""
    rows = per_class(evaluation, labels)
    width = max(5, *(len(str(row["label"])) for row in rows))
    columns = ["examples", "recall", "average_precision", "auc"]
    columns = [c for c in columns if c in rows[0]]
    titles = {"average_precision": "AP", "auc": "AUC"}
    lines = [f"{'class':{width}}" + "".join(f"{titles.get(c, c):>10}" for c in columns)]
    for row in rows:
        cells = (row["examples"], *(f"{row[c]:.4f}" for c in columns[1:]))
        lines.append(f"{row['label']!s:{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def score_table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Returns named summaries as a table to print; a row may say its epoch.

    Example:

    >>> scores = {"accuracy": 0.9, "mean_average_precision": 0.8, "mean_auc": 0.97, "d_prime": 2.7}
    >>> print(score_table([("test", scores)]))
              accuracy       mAP       AUC   d-prime
    test        0.9000    0.8000    0.9700    2.7000
    """
    width = max(len(name) for name, _ in rows) + 2
    with_epoch = any("epoch" in row for _, row in rows)
    header = "".join(f"{title:>10}" for title in SCORES.values())
    lines = [f"{'':{width - 2}}" + (f"{'epoch':>8}" if with_epoch else "") + header]
    for name, row in rows:
        epoch = f"{row.get('epoch', ''):>8}" if with_epoch else ""
        # A score that does not exist (a class without examples) is null in a saved report.
        cells = "".join(
            f"{'-' if row[score] is None else format(row[score], '.4f'):>10}" for score in SCORES
        )
        lines.append(f"{name:{width - 2}}{epoch}{cells}")
    return "\n".join(lines)

"""Tolerances of an exported file, and the report that compares it with its model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.export.isolated_run import Measurement


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How much an exported file may differ from its model.

    Attributes:
        agreement: Smallest fraction of clips with the same best class as the model's.
        max_error: Largest absolute difference of any score.
        mean_error: Largest mean of the absolute differences of all scores.
    """

    agreement: float = 1.0
    max_error: float = math.inf
    mean_error: float = math.inf


DEFAULT_TOLERANCE = {
    "saved_model": Tolerance(max_error=1e-5),  # float32, but another order of summation
    "none": Tolerance(max_error=1e-3),  # float32 in TFLite's kernels
    "float16": Tolerance(max_error=1e-2),  # weights with eleven significant bits
    "int8": Tolerance(agreement=0.99, mean_error=0.01),
    "int4": Tolerance(agreement=0.95, mean_error=0.02),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Comparison of an exported file with its model on the same clips.

    Attributes:
        format: "saved_model", or the quantization of a TFLite file.
        clips: Description of where the clips come from.
        bounds: Tolerance that the file was compared with.
        agreement: Fraction of clips with the same best class as the model's.
        max_error: Largest absolute difference of a score.
        mean_error: Mean absolute difference of all scores.
        size_bytes: Size of the file or folder in bytes.
        latency_seconds: Median time of one clip in seconds.
        peak_memory_bytes: Peak memory of the process that ran the file, in bytes.
        operators: Number of occurrences of each operator.
        float_layers: Names of the layers left in float32 to meet the tolerance.
    """

    format: str
    clips: str
    bounds: Tolerance
    agreement: float
    max_error: float
    mean_error: float
    size_bytes: int
    latency_seconds: float
    peak_memory_bytes: int
    operators: dict[str, int]
    float_layers: tuple[str, ...] = ()

    @property
    def violations(self) -> str:
        """The violated limits of the tolerance as text; empty if there are none."""
        parts = []
        # Written as `not value >= limit`, so that NaN violates every limit.
        if not self.agreement >= self.bounds.agreement:
            parts.append(f"agreement {self.agreement:.4f} < {self.bounds.agreement}")
        if not self.max_error <= self.bounds.max_error:
            parts.append(f"largest error {self.max_error:.2e} > {self.bounds.max_error:.2e}")
        if not self.mean_error <= self.bounds.mean_error:
            parts.append(f"mean error {self.mean_error:.2e} > {self.bounds.mean_error:.2e}")
        return ", ".join(parts)

    def table(self) -> str:
        """Returns the report as a table for a terminal, one value a line."""
        rows = [
            ("compared on", self.clips),
            ("same best class", f"{self.agreement:.4f}  (at least {self.bounds.agreement})"),
            ("largest score error", f"{self.max_error:.2e}{_at_most(self.bounds.max_error)}"),
            ("mean score error", f"{self.mean_error:.2e}{_at_most(self.bounds.mean_error)}"),
            ("size", f"{self.size_bytes / 1e6:.2f} MB"),
            ("time per clip", f"{1000 * self.latency_seconds:.1f} ms"),
            ("peak memory", f"{self.peak_memory_bytes / 1e6:.0f} MB"),
            ("operators", " ".join(f"{name} {n}" for name, n in self.operators.items())),
        ]
        if self.float_layers:
            rows.append(("left in float32", ", ".join(self.float_layers)))
        return "\n".join(f"{name:<20} {value}" for name, value in rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary for `files.write_json`."""
        return dataclasses.asdict(self)


def _at_most(bound: float) -> str:
    return f"  (at most {bound:.0e})" if math.isfinite(bound) else ""


def compare(
    format: str,
    clips: str,
    tolerance: Tolerance,
    expected: npt.NDArray[np.float32],
    measurement: Measurement,
    *,
    size_bytes: int,
    operators: dict[str, int],
    float_layers: tuple[str, ...] = (),
) -> Report:
    """Compares the scores of an exported file with those of its model.

    Args:
        format: "saved_model", or the quantization of a TFLite file.
        clips: Description of where the clips come from.
        tolerance: Tolerance of the file.
        expected: The model's scores, float32 `[clips, classes]`.
        measurement: Scores, latency and memory of the file on the same clips.
        size_bytes: Size of the file or folder in bytes.
        operators: Number of occurrences of each operator.
        float_layers: Names of the layers that were left in float32.

    Returns:
        The report; its `violations` are empty if the file is within its tolerance.
    """
    scores = measurement.scores
    error = np.abs(scores.astype(np.float64) - expected)
    return Report(
        format=format,
        clips=clips,
        bounds=tolerance,
        agreement=float((scores.argmax(1) == expected.argmax(1)).mean()),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        size_bytes=size_bytes,
        latency_seconds=measurement.latency_seconds,
        peak_memory_bytes=measurement.peak_memory_bytes,
        operators=operators,
        float_layers=float_layers,
    )

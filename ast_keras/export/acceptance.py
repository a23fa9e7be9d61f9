"""How near an exported file must stay to its model, and a report of how near it is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.export.isolated_run import Measurement


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a file must keep.

    Attributes:
      agreement: Least share of clips with the same best class as the model's.
      max_error: Largest difference of any score.
      mean_error: Largest mean of the differences of all scores.
    """

    agreement: float = 1.0
    max_error: float = math.inf
    mean_error: float = math.inf


# float32 in another order; half precision's eleven bits; eight bits; four.
DEFAULT_TOLERANCE = {
    "saved_model": Tolerance(max_error=1e-5),
    "none": Tolerance(max_error=1e-3),
    "float16": Tolerance(max_error=1e-2),
    "int8": Tolerance(agreement=0.99, mean_error=0.01),
    "int4": Tolerance(agreement=0.95, mean_error=0.02),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """An exported file beside its model, on the same clips.

    Attributes:
      format: "saved_model" or the TFLite file's quantisation.
      clips: Where the clips are from.
      bounds: What was asked.
      agreement, max_error, mean_error: What was found.
      size_bytes, latency_seconds, peak_memory_bytes: What the file costs.
      operators: How often each occurs.
      float_layers: Layers that were left in float32 so that the bound holds.
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
    def missed(self) -> str:
        """What bound is missed, in words; empty if none is."""
        parts = []
        if self.agreement < self.bounds.agreement:
            parts.append(f"agreement {self.agreement:.4f} < {self.bounds.agreement}")
        # Written so that NaN misses the bound.
        if not self.max_error <= self.bounds.max_error:
            parts.append(f"largest error {self.max_error:.2e} > {self.bounds.max_error:.2e}")
        if not self.mean_error <= self.bounds.mean_error:
            parts.append(f"mean error {self.mean_error:.2e} > {self.bounds.mean_error:.2e}")
        return ", ".join(parts)

    def table(self) -> str:
        """Returns the report as lines for a person."""
        rows = [
            ("compared on", self.clips),
            ("same best class", f"{self.agreement:.4f}  (at least {self.bounds.agreement})"),
            ("largest score error", f"{self.max_error:.2e}{_at_most(self.bounds.max_error)}"),
            ("mean score error", f"{self.mean_error:.2e}{_at_most(self.bounds.mean_error)}"),
            ("size", f"{self.size_bytes / 1e6:.2f} MB"),
            ("time for a clip", f"{1000 * self.latency_seconds:.1f} ms"),
            ("peak memory", f"{self.peak_memory_bytes / 1e6:.0f} MB"),
            ("operators", " ".join(f"{name} {n}" for name, n in self.operators.items())),
        ]
        if self.float_layers:
            rows.append(("left in float32", ", ".join(self.float_layers)))
        return "\n".join(f"{name:<20} {value}" for name, value in rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report for a JSON file; a bound that is not set is null."""
        return dataclasses.asdict(self)


def _at_most(bound: float) -> str:
    return f"  (at most {bound:.0e})" if math.isfinite(bound) else ""


def compare(
    format: str,
    clips: str,
    bounds: Tolerance,
    expected: npt.NDArray[np.float32],
    measurement: Measurement,
    *,
    size_bytes: int,
    operators: dict[str, int],
    float_layers: tuple[str, ...] = (),
) -> Report:
    """Returns the report on a file: its scores beside the expected ones, `[clips, classes]`."""
    scores = measurement.scores
    error = np.abs(scores.astype(np.float64) - expected)
    return Report(
        format=format,
        clips=clips,
        bounds=bounds,
        agreement=float((scores.argmax(1) == expected.argmax(1)).mean()),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        size_bytes=size_bytes,
        latency_seconds=measurement.latency_seconds,
        peak_memory_bytes=measurement.peak_memory_bytes,
        operators=operators,
        float_layers=float_layers,
    )

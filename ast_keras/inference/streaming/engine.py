"""The result of a stream, and the interface of the engines that compute it."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class StreamResult:
    """Scores of one part of a stream.

    Attributes:
        start_seconds: Start of the part, in seconds from the start of the stream.
        end_seconds: End of the part, in seconds from the start of the stream.
        scores: Probabilities `[num_classes]`, float32.
    """

    start_seconds: float
    end_seconds: float
    scores: npt.NDArray[np.float32]


class StreamEngine(Protocol):
    """Turns the spectrogram frames of a stream into results.

    Attributes:
        window_samples: Number of samples that one result covers, once the stream is long enough.
        hop_samples: Number of samples from one result to the next.
    """

    window_samples: int
    hop_samples: int

    def reset(self) -> None:
        """Starts a new stream."""

    def samples_to_next_hop(self) -> int:
        """Returns the largest number of samples that `consume` accepts next."""

    def consume(self, frames: Array, num_samples: int) -> list[StreamResult]:
        """Processes the next samples and returns the results that they complete.

        Args:
            frames: Spectrogram frames that the samples complete, `[frames, mel]`.
            num_samples: Number of samples.
        """

    def finish(self) -> list[StreamResult]:
        """Returns the results of the samples after the last hop, at the end of a stream."""

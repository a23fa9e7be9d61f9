"""`Segment`: a span of a recording as one example of a data set."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ast_keras.audio import loading
from ast_keras.errors import AudioEmptyError, AudioWarning

# Annotations end up to this much after a recording because of rounded times and lossy codecs.
_MAX_OVERHANG_SECONDS = 0.1


class Segment(NamedTuple):
    """A labelled span of a recording. Only the span is decoded.

    Attributes:
        path: Path of the recording.
        start_seconds: Start of the span in seconds.
        end_seconds: End of the span in seconds. None is the end of the recording.

    Example:

    >>> str(Segment("farm/monday.wav", 12.5, 14.0)), str(Segment("farm/monday.wav", 12.5))
    ('farm/monday.wav[12.5-14 s]', 'farm/monday.wav[12.5 s to its end]')
    """

    path: str
    start_seconds: float
    end_seconds: float | None = None

    def __str__(self) -> str:
        start = f"{round(self.start_seconds, 3):.10g}"
        if self.end_seconds is None:
            return f"{self.path}[{start} s to its end]"
        return f"{self.path}[{start}-{round(self.end_seconds, 3):.10g} s]"

    @property
    def duration_seconds(self) -> float | None:
        """Length in seconds; None if the segment lasts to the end of the recording."""
        return None if self.end_seconds is None else self.end_seconds - self.start_seconds

    def overhang_seconds(self, decoded_seconds: float) -> float:
        """Returns by how much the segment ends after its recording; 0 up to rounding.

        Args:
            decoded_seconds: Length of what the recording holds of the segment, in seconds.

        Example:

        >>> Segment("monday.wav", 12.5, 14.0).overhang_seconds(0.5)
        1.0
        """
        overhang = (self.duration_seconds or 0.0) - decoded_seconds
        return overhang if overhang > _MAX_OVERHANG_SECONDS else 0.0

    def load(
        self, sample_rate: int, *, channel: loading.Channel = "mix"
    ) -> npt.NDArray[np.float32]:
        """Decodes the segment as mono float32 samples, as `load_audio` does.

        Args:
            sample_rate: Sample rate of the result in Hz.
            channel: `"mix"` for the mean of all channels, or the index of one channel.

        Raises:
            AudioError: If the recording cannot be decoded or ends before the segment starts.

        Warns:
            AudioWarning: If the recording ends before the segment does.
        """
        try:
            samples = loading.load_audio(
                self.path,
                sample_rate,
                channel=channel,
                start_seconds=self.start_seconds,
                duration_seconds=self.duration_seconds,
            )
        except AudioEmptyError as error:
            raise AudioEmptyError(f"{error}, segment={self}") from None
        overhang = self.overhang_seconds(len(samples) / sample_rate)
        if overhang:
            warnings.warn(
                f"The segment ends {overhang:.3g} s after its recording: correct its end. "
                f"Received: {self}",
                AudioWarning,
                stacklevel=2,
            )
        return samples

"""`FilterbankRange`: what the rows and columns of a log-mel spectrogram stand for."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from ast_keras.audio import mel


@dataclasses.dataclass(frozen=True)
class FilterbankRange:
    """The frequencies and the frames of a log-mel filterbank. The defaults are those of AudioSet.

    Two ranges are equal if they give the same frames and the same edges of the filterbank.

    Args:
        sample_rate: Sample rate of the waveform in Hz.
        f_min_hz: Lower edge of the lowest filter in Hz.
        f_max_hz: Upper edge of the highest filter in Hz. None, or half the sample rate, becomes
            None.
        frame_length_seconds: Length of a frame in seconds.
        frame_step_seconds: Time between the starts of two frames in seconds.
        window: Window function.

    Example:

    >>> str(FilterbankRange(256_000, f_min_hz=10_000, f_max_hz=120_000))
    '256000 Hz, 10000 to 120000 Hz, frames of 25 ms every 10 ms, hann window'
    """

    sample_rate: int = 16000
    f_min_hz: float = 20.0
    f_max_hz: float | None = None
    frame_length_seconds: float = 0.025
    frame_step_seconds: float = 0.010
    window: str = "hann"

    def __post_init__(self) -> None:
        if self.f_max_hz == self.sample_rate / 2:
            object.__setattr__(self, "f_max_hz", None)

    @classmethod
    def of(cls, source: Any) -> FilterbankRange:
        """Returns the range of a `LogMelFilterbank` or of a recipe's `Frontend`.

        Args:
            source: Any object with attributes of these names.
        """
        return cls(**{field.name: getattr(source, field.name) for field in dataclasses.fields(cls)})

    def __str__(self) -> str:
        top = self.sample_rate / 2 if self.f_max_hz is None else self.f_max_hz
        return (
            f"{self.sample_rate} Hz, {self.f_min_hz:.10g} to {top:.10g} Hz, frames of "
            f"{1e3 * self.frame_length_seconds:.6g} ms every {1e3 * self.frame_step_seconds:.6g} ms"
            f", {self.window} window"
        )

    def differences(self, other: FilterbankRange) -> dict[str, Any]:
        """Returns the settings that differ from those of another range, by name.

        Args:
            other: The other range.

        Example:

        >>> FilterbankRange(8000).differences(FilterbankRange())
        {'sample_rate': 8000}
        """
        values = dataclasses.asdict(self)
        return {name: v for name, v in values.items() if v != getattr(other, name)}

    def num_empty(self, num_mel_bins: int) -> int:
        """Returns the number of mel bins that contain no bin of the Fourier transform.

        Such a bin has the same value in every frame. AudioSet's 128 bins include one.

        Args:
            num_mel_bins: Number of mel filters.

        Example:

        >>> FilterbankRange().num_empty(128), FilterbankRange(8000).num_empty(128)
        (1, 4)
        """
        frame_length = mel.seconds_to_samples(self.frame_length_seconds, self.sample_rate)
        filters = mel.mel_filterbank(
            num_mel_bins,
            mel.fft_length(frame_length),
            self.sample_rate,
            self.f_min_hz,
            self.f_max_hz,
        )
        return num_mel_bins - int(filters.any(axis=0).sum())

    def without_empty(self, num_mel_bins: int) -> tuple[int, float]:
        """Returns a number of mel bins, or else a length of frames, that leaves no bin empty.

        Args:
            num_mel_bins: Number of mel filters, some of which are empty.

        Returns:
            The largest smaller number of bins, and the shortest multiple of the frame's length
            by a power of two, in seconds. Either is enough.

        Example:

        >>> FilterbankRange(8000).without_empty(128)
        (95, 0.05)
        """
        bins = next((n for n in range(num_mel_bins, 1, -1) if not self.num_empty(n)), 1)
        lengths = (self.frame_length_seconds * 2**power for power in itertools.count(1))
        longer = (dataclasses.replace(self, frame_length_seconds=length) for length in lengths)
        found = next(r for r in longer if not r.num_empty(num_mel_bins))
        return bins, round(found.frame_length_seconds, 6)

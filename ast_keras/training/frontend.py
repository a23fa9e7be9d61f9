"""Makes the filterbank of a run, and warns where it does not fit its settings or start weights."""

from __future__ import annotations

import warnings

from ast_keras.audio.filterbank_range import FilterbankRange
from ast_keras.errors import RecipeWarning
from ast_keras.labels import AUDIOSET_MEAN, AUDIOSET_STD
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.recipe import Frontend
from ast_keras.weights.pretrained import PretrainedNetwork

_TOLERATED = 0.02  # fraction of mel bins that may be empty; 1 of 128 is with AudioSet's range


def make_frontend(settings: Frontend) -> LogMelFilterbank:
    """Makes the filterbank of a recipe.

    Args:
        settings: The frontend of a resolved recipe.

    Warns:
        RecipeWarning: If mel bins are empty, or if the normalisation is that of another range.
    """
    found = FilterbankRange.of(settings)
    num_bins = settings.num_mel_bins
    num_empty = found.num_empty(num_bins)
    if num_empty > _TOLERATED * num_bins:
        fewer, longer = found.without_empty(num_bins)
        warnings.warn(
            f"{num_empty} of {num_bins} mel bins are narrower than the spacing of the Fourier "
            f"transform and hold no signal: set frontend.num_mel_bins={fewer} or "
            f"frontend.frame_length_seconds={longer:g}. Received: {found}",
            RecipeWarning,
            stacklevel=2,
        )
    if found != FilterbankRange() and (settings.mean, settings.std) == (
        AUDIOSET_MEAN,
        AUDIOSET_STD,
    ):
        warnings.warn(
            "frontend.mean and frontend.std are those of AudioSet, which was measured with "
            f"{FilterbankRange()}: python -m ast_keras.audit DATA {_flags(found)} measures those "
            f"of the data. Received: {found}",
            RecipeWarning,
            stacklevel=2,
        )
    return LogMelFilterbank(
        sample_rate=settings.sample_rate,
        num_mel_bins=num_bins,
        num_frames=settings.num_frames,
        window=settings.window,
        frame_length_seconds=settings.frame_length_seconds,
        frame_step_seconds=settings.frame_step_seconds,
        f_min_hz=settings.f_min_hz,
        f_max_hz=settings.f_max_hz,
        mean=settings.mean,
        std=settings.std,
        name="fbank",
    )


def warn_of_another_range(settings: Frontend, network: PretrainedNetwork) -> None:
    """Warns if the start weights were made for another range than that of the recipe.

    Args:
        settings: The frontend of a resolved recipe.
        network: The start weights. Those of an image network fit every range.

    Warns:
        RecipeWarning: If the ranges or the numbers of mel bins differ.
    """
    theirs, ours = network.filterbank_range, FilterbankRange.of(settings)
    bins = network.num_mel_bins or settings.num_mel_bins
    if theirs is None or (theirs == ours and bins == settings.num_mel_bins):
        return
    wanted = _flags(theirs, ours)
    if bins != settings.num_mel_bins:
        wanted += f" --set frontend.num_mel_bins={bins}"
    warnings.warn(
        f"The start weights were made for {bins} mel bins of {theirs}, and this run has "
        f"{settings.num_mel_bins} of {ours}: what they learned about frequencies and durations is "
        f"lost in part. Keep theirs with {wanted.strip()}",
        RecipeWarning,
        stacklevel=2,
    )


def _flags(wanted: FilterbankRange, other: FilterbankRange | None = None) -> str:
    """Returns the flags that change another range, by default AudioSet's, into the wanted one."""
    changes = wanted.differences(other or FilterbankRange())
    return " ".join(f"--set frontend.{name}={value}" for name, value in changes.items())

"""Rules between the arguments of a classifier."""

from collections.abc import Mapping

from ast_keras.errors import ArgumentError


def require_float32(dtype):
    """Raises ArgumentError unless the dtype of a classifier is left out or float32.

    Args:
        dtype: Name, policy, or the dictionary of a policy from a config, as Keras passes it.
    """
    name = dtype["config"]["name"] if isinstance(dtype, Mapping) else getattr(dtype, "name", dtype)
    if name not in (None, "float32"):
        raise ArgumentError(
            "Filterbank and head are always float32: leave dtype out, and set it on the backbone. "
            f"Received: dtype={name!r}"
        )


def require_same_spectrogram(frontend, backbone):
    """Raises ArgumentError if a frontend computes another spectrogram than a backbone takes.

    Args:
        frontend: A `LogMelFilterbank`, or None.
        backbone: The encoder.
    """
    if frontend is None:
        return
    computed = (frontend.num_frames, frontend.num_mel_bins)
    expected = (backbone.num_frames, backbone.num_mel_bins)
    if computed != expected:
        raise ArgumentError(
            "The frontend must compute the spectrogram that the backbone takes: give both the "
            f"same num_frames and num_mel_bins. Received: frontend (frames, mel)={computed}, "
            f"backbone {expected}"
        )

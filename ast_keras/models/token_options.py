"""TokenOptions: how a backbone treats padding and which tokens it drops or merges."""

from __future__ import annotations

import dataclasses

from ast_keras.errors import ArgumentError

PADDINGS = ("original", "masked")


@dataclasses.dataclass(frozen=True)
class TokenOptions:
    """Arguments of `ASTBackbone` that change which tokens are computed, but no weight.

    This class declares their names, defaults and ranges once. `ASTBackbone` takes the fields as
    arguments of the same names and stores them flat in its config. Since no weight depends on
    them, `from_preset` can set each of them on saved weights.

    Args:
        padding: "original": every clip has `num_frames` frames and all of them are attended to,
            padding included, as in the authors' code. "masked": clips of any length; padding is
            not attended to.
        patchout: Fraction of single patches dropped in training, after rows and columns, in [0, 1).
        patchout_mel: Fraction of the rows of patches (mel bands) dropped in training, in [0, 1).
        patchout_time: Fraction of the columns of patches (time) dropped in training, in [0, 1).
        merge_tokens: Number of tokens merged in every block except the last, at inference; 0
            disables merging.

    Example:

    >>> TokenOptions(padding="masked", patchout_time=0.5).reduces_tokens
    True
    """

    padding: str = "original"
    patchout: float = 0.0
    patchout_mel: float = 0.0
    patchout_time: float = 0.0
    merge_tokens: int = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @property
    def reduces_tokens(self) -> bool:
        """Whether tokens are dropped in training or merged at inference."""
        return bool(self.patchout or self.patchout_mel or self.patchout_time or self.merge_tokens)

    def validate(self) -> None:
        """Checks every option.

        Raises:
            ArgumentError: If an option is out of its range.
        """
        if self.padding not in PADDINGS:
            raise ArgumentError(
                f"padding must be one of {', '.join(PADDINGS)}. Received: padding={self.padding!r}"
            )
        for name in ("patchout", "patchout_mel", "patchout_time"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise ArgumentError(f"{name} must lie in [0, 1). Received: {name}={rate}")
        if self.merge_tokens < 0:
            raise ArgumentError(
                "merge_tokens is a number of tokens: set it to 0 to disable merging. "
                f"Received: merge_tokens={self.merge_tokens}"
            )

"""Flags of windows and events, and the rules between them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

from absl import flags

from ast_keras.commands.flags import CommandOptions, Rule, flag, requires, window_flag
from ast_keras.errors import InferenceError
from ast_keras.inference.events import lower_threshold
from ast_keras.inference.windows import AGGREGATES


def _thresholds_are_ordered(values: dict[str, Any]) -> bool:
    # Stored thresholds are checked when the model is loaded.
    threshold = 1.0 if values["threshold"] is None else values["threshold"]
    try:
        lower_threshold(threshold, values["threshold_off"])
    except InferenceError as error:
        raise flags.ValidationError(str(error)) from None
    return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowOptions(CommandOptions):
    """Options of a command that processes files in windows."""

    rules: ClassVar[tuple[Rule, ...]] = (
        requires("events", "window_seconds"),
        requires("hop_seconds", "window_seconds"),
        functools.partial(
            flags.register_multi_flags_validator, ["threshold", "threshold_off"],
            _thresholds_are_ordered,
        ),
    )  # fmt: skip
    window_seconds: float | None = window_flag()
    hop_seconds: float | None = flag(
        flags.DEFINE_float, None,
        "Seconds from the start of one window to that of the next. Default: half a window.",
    )  # fmt: skip
    aggregate: str = flag(
        flags.DEFINE_enum, "max", "How the scores of windows become scores of a file.",
        enum_values=list(AGGREGATES),
    )  # fmt: skip
    events: bool = flag(flags.DEFINE_bool, False, "List events with onset and offset.")
    threshold: float | None = flag(
        flags.DEFINE_float, None,
        "Score that a class or event must reach. Default: the thresholds stored with the model "
        "(evaluate --save_thresholds); without these, 0.5 for events, and the best classes.",
    )  # fmt: skip
    threshold_off: float | None = flag(
        flags.DEFINE_float, None, "Score below which an event ends. Default: 0.7 of the threshold."
    )

    def windows(self) -> Any:
        """Returns the `ast_keras.inference.predictor.Windows`; None for files at once."""
        from ast_keras.inference.predictor import Windows

        if self.window_seconds is None:
            return None
        fields = dataclasses.fields(Windows)
        return Windows(**{field.name: getattr(self, field.name) for field in fields})

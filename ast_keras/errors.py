"""Error classes of the package, and suggestions for misspelt names.

Every error that a caller can correct derives from `AstKerasError`. Commands print these errors as
one line; any other exception keeps its traceback. A message states the violated rule, then how to
correct it, and ends with the received values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AstKerasError(Exception):
    """Base class of all errors of the package."""


class ArgumentError(AstKerasError, ValueError):
    """Raised when an argument of a layer, model or function is invalid."""


class AudioError(AstKerasError, ValueError):
    """Raised when audio cannot be loaded or converted. Base class of the audio errors."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """Raised when an audio file does not exist."""


class AudioDecodeError(AudioError):
    """Raised when an audio file cannot be opened or decoded."""


class AudioEmptyError(AudioError):
    """Raised when a file, a span of a file or an array contains no samples."""


class AudioChannelError(AudioError):
    """Raised when a channel does not exist, or the channel axis is ambiguous."""


class AudioSampleError(AudioError):
    """Raised when samples are NaN, infinite, of an unsupported dtype or out of scale."""


class AudioWarning(UserWarning):
    """Emitted for audio that is usable but defective, such as a truncated file."""


class RecipeWarning(UserWarning):
    """Emitted for settings of a run that are valid but may not be what was meant."""


class LabelError(AstKerasError, ValueError):
    """Raised when a list of labels is invalid, or does not contain a requested label."""


class DatasetError(AstKerasError, ValueError):
    """Raised when a data set cannot be read or downloaded."""


class RecipeError(AstKerasError, ValueError):
    """Raised when a recipe cannot be found, parsed or changed as requested."""


class WeightsError(AstKerasError, ValueError):
    """Raised when weights or a saved model cannot be found, read or applied as requested."""


class EvaluationError(AstKerasError, ValueError):
    """Raised when models cannot be evaluated, combined or averaged."""


class InferenceError(AstKerasError, ValueError):
    """Raised when a model cannot process a file, a stream or a window as requested."""


class ExportError(AstKerasError, ValueError):
    """Raised when a model cannot be exported, or the exported file is not accurate enough."""


class TrainingError(AstKerasError, RuntimeError):
    """Raised when training cannot continue. The last checkpoint stays usable."""


class WorkerError(AstKerasError, RuntimeError):
    """Raised when the workers of a distributed run cannot connect or lose their connection."""


class CommandError(AstKerasError, ValueError):
    """Raised when the flags of a command are incomplete or contradict each other."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a sentence that suggests the most similar known name.

    Args:
        name: The unknown name.
        known: All valid names.

    Returns:
        "Did you mean ...?" if a known name is similar, else a list of up to ten known names.

    Example:

    >>> did_you_mean("roster", ["dog", "rooster"])
    "Did you mean 'rooster'?"
    """
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if match:
        return f"Did you mean {by_lower[match[0]]!r}?"
    first = list(by_lower.values())[:10]
    more = f" and {len(by_lower) - len(first)} more" if len(by_lower) > len(first) else ""
    return f"Known: {', '.join(first)}{more}."

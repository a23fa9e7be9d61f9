"""Every error of this package, by kind, and the suggestion that many of them end with.

All are `AstKerasError`s, so that one `except` catches what a caller can mend and nothing else:
commands print them as one line, and anything else keeps its traceback. A message states the rule
that was broken and the fix, and ends with what was received.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AstKerasError(Exception):
    """Base class of all errors of this package."""


class ArgumentError(AstKerasError, ValueError):
    """Raised when an argument of a layer, a model or a function breaks a rule."""


class AudioError(AstKerasError, ValueError):
    """Raised when a sound cannot be used."""


class AudioNotFoundError(AudioError, FileNotFoundError):
    """Raised when there is no file at a path."""


class AudioDecodeError(AudioError):
    """Raised when a file cannot be opened, or its content cannot be decoded."""


class AudioEmptyError(AudioError):
    """Raised when a file, a span of it or an array holds no sample."""


class AudioChannelError(AudioError):
    """Raised when a channel does not exist, or it is unclear which axis holds the channels."""


class AudioSampleError(AudioError):
    """Raised when samples are NaN, infinite, of an unknown type or of the wrong scale."""


class AudioWarning(UserWarning):
    """Warns of a sound that can be used but is not as it should be."""


class LabelError(AstKerasError, ValueError):
    """Raised when a list of labels is unusable, or a label is not in it."""


class DatasetError(AstKerasError, ValueError):
    """Raised when a data set cannot be read or fetched; names the file and the way out."""


class RecipeError(AstKerasError, ValueError):
    """Raised when a recipe cannot be found, read or changed as requested."""


class WeightsError(AstKerasError, ValueError):
    """Raised when weights or a saved model cannot be found, read or used as requested."""


class EvaluationError(AstKerasError, ValueError):
    """Raised when models cannot be scored or averaged together."""


class InferenceError(AstKerasError, ValueError):
    """Raised when a model cannot process a sound, a stream or a window as requested."""


class ExportError(AstKerasError, ValueError):
    """Raised when a model cannot be exported as requested, or the exported file is not accurate."""


class TrainingError(AstKerasError, RuntimeError):
    """Raised when training cannot go on; the last checkpoint stays usable."""


class WorkerError(AstKerasError, RuntimeError):
    """Raised when the workers of a run cannot find, or have lost, each other."""


class CommandError(AstKerasError, ValueError):
    """Raised when a command line is incomplete or contradicts itself."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the nearest known name, or with the known names when none is near.

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

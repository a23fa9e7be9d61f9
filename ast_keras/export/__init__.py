"""A trained classifier as a file for a server, a browser or a phone.

One graph goes everywhere: sound in, scores out, the filterbank inside. `export_saved_model` writes
it for TensorFlow Serving, `export_tflite` for LiteRT and MediaPipe.
"""

import importlib
from typing import Any

_EXPORTS = {
    "ExportError": "ast_keras.export.errors",
    "export_saved_model": "ast_keras.export.saved_model",
    "export_tflite": "ast_keras.export.tflite",
}

__all__ = ["ExportError", "export_saved_model", "export_tflite"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ast_keras.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)

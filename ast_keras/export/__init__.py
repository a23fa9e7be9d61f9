"""Export of a trained classifier for servers, browsers and phones.

Every exported file takes a waveform and gives scores: the filterbank is part of it. Each file is
run in a new process and compared with its model before it appears under its final name.

| module | holds |
|---|---|
| `saved_model` | `export_saved_model`: SavedModel for TensorFlow Serving |
| `serving_module` | the `tf.Module` from which every file is made |
| `wav_decoding` | WAV files to samples in the graph of a server |
| `serving_warmup` | warm-up requests for TensorFlow Serving |
| `tflite` | `export_tflite`: one TFLite file for LiteRT and MediaPipe |
| `tflite_conversion` | the model as a float32 TFLite file, without metadata |
| `streaming_tflite` | `export_streaming_tflite`: TFLite file with explicit state, for streams |
| `quantization` | fewer bits for the matrices of the transformer |
| `tflite_metadata` | sample rate and labels inside a TFLite file |
| `reference_clips` | clips on which a file is compared with its model |
| `isolated_run` | running a file in a new process: scores, latency, peak memory |
| `acceptance` | tolerances and the report of a comparison |
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ast_keras.errors import ExportError
    from ast_keras.export.saved_model import export_saved_model
    from ast_keras.export.streaming_tflite import export_streaming_tflite
    from ast_keras.export.tflite import export_tflite

# Imported on first use: the modules import TensorFlow.
_HOME = {
    "ExportError": "ast_keras.errors",
    "export_saved_model": "ast_keras.export.saved_model",
    "export_streaming_tflite": "ast_keras.export.streaming_tflite",
    "export_tflite": "ast_keras.export.tflite",
}

__all__ = ["ExportError", "export_saved_model", "export_streaming_tflite", "export_tflite"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ast_keras.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

"""Classification of endless streams.

| module | holds |
|---|---|
| `classifier` | `StreamingClassifier`: samples in, results out |
| `filterbank` | `StreamingFilterbank`: the spectrogram of a stream |
| `engine` | `StreamResult`, and what the classifier requires of an engine |
| `window_engine` | models that process one window at a time |
| `causal_engine` | causal models, which process one block at a time |
"""

from ast_keras.inference.streaming.classifier import StreamingClassifier
from ast_keras.inference.streaming.engine import StreamResult
from ast_keras.inference.streaming.filterbank import StreamingFilterbank

__all__ = ["StreamResult", "StreamingClassifier", "StreamingFilterbank"]

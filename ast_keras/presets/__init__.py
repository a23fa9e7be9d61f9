"""Presets: models by name or from files, and saved models.

| module | content |
|---|---|
| `loading` | `from_preset` for classifiers, backbones and filterbanks; the named `SIZES` |
| `released` | the table of released weights, with their published results |
| `hub` | released weights on this machine, downloaded if needed |
| `saving` | `save_to_preset`, loading, and the layout of a saved model's folder |
| `saved_paths` | from a path that a user names to the saved model that it stands for |
| `conversion` | conversion of weights files between implementations |

This module imports nothing; `loading`, `saving` and `conversion` import TensorFlow.
"""

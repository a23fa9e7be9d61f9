"""Pretrained weights: read from the files of other implementations, built into models, exported.

| module | content |
|---|---|
| `readers` | weights files to tensors by name |
| `naming` | tensor names of each implementation, and the canonical names |
| `model_garden` | vision transformers of the TensorFlow Model Garden |
| `config_files` | `config.json`, `preprocessor_config.json` and `labels.csv` next to weights |
| `geometry` | `Geometry`: spectrogram size and patches, requested or inferred |
| `pretrained` | `PretrainedNetwork` and `read_pretrained` |
| `resize` | patch kernels and position embeddings for another spectrogram |
| `head` | `Head`: a classification head, kept or fresh |
| `assign` | canonical tensors to the weights of a model, and back |
| `build` | `build_classifier`, `as_pretrained` and `to_causal` |
| `export` | weights files for the authors' code and for transformers |

A file becomes a model in four steps: `readers` gives tensors, `naming` gives them canonical names,
`pretrained` adds what the configuration files state, and `build` makes the model. Modules that need
TensorFlow import it themselves; this one imports nothing.
"""

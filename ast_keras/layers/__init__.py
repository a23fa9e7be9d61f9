"""Keras layers and the functions they are made of. Needs Keras's TensorFlow backend.

| module | content |
|---|---|
| `log_mel_filterbank` | `LogMelFilterbank`: waveforms to normalised log-mel spectrograms |
| `spectrogram_augment` | `SpectrogramAugment`: masks, noise and roll during training |
| `patch_embedding` | `PatchEmbedding`: spectrograms to patch embeddings; `patch_grid` |
| `special_tokens` | `SpecialTokens`: the class token and the distillation token |
| `position_embedding` | `PositionEmbedding`: learned positions, interpolated along time |
| `transformer_block` | `TransformerBlock`: attention and multi-layer perceptron |
| `attention`, `attention_ops` | `SelfAttention`, and scaled dot-product attention |
| `token_normalization`, `fused_ops` | `TokenNormalization`, and operations that save memory |
| `token_reduction` | `Patchout`, and token merging |
| `drop_path` | `DropPath`: stochastic depth |
| `initializers` | weight initializers, and a context that skips them |
"""

import keras

from ast_keras.errors import ArgumentError

if keras.backend.backend() != "tensorflow":
    raise ArgumentError(
        "ast_keras needs Keras's TensorFlow backend: set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported. "
        f"Received: backend={keras.backend.backend()!r}"
    )

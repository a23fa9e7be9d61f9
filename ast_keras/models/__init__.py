"""Keras models: encoders from spectrogram to tokens, and classifiers from waveform to logits.

| module | holds |
|---|---|
| `ast_backbone` | `ASTBackbone`, the Audio Spectrogram Transformer |
| `causal_ast_backbone` | `CausalASTBackbone`, for streams: attends to a fixed past |
| `token_options` | `TokenOptions`: padding, dropping and merging of tokens, declared once |
| `classifier_checks` | rules between the arguments of a classifier |
| `thresholds` | `Thresholds`: the attribute of a classifier |
| `audio_classifier` | `AudioClassifier`: filterbank, any encoder and a head |
| `ast_classifier` | `ASTClassifier`: `AudioClassifier` with an `ASTBackbone`, and `from_preset` |
"""

"""ast-keras: the Audio Spectrogram Transformer for TensorFlow and Keras.

Importing this package is cheap: TensorFlow loads when a name that needs it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ast_keras.audio": (
        "load_audio",
        "audio_from_array",
        "audio_info",
        "AudioError",
        "AudioWarning",
    ),
    "ast_keras.layers.spectrogram_augment": ("SpectrogramAugment",),
    "ast_keras.models.causal_ast_backbone": ("CausalASTBackbone",),
    "ast_keras.data.readers": ("load_dataset", "SoundDataset", "Split"),
    "ast_keras.layers.transformer_block": ("SelfAttention", "TransformerBlock"),
    "ast_keras.layers.log_mel_filterbank": ("LogMelFilterbank",),
    "ast_keras.labels": ("LabelSet",),
    "ast_keras.evaluation.metrics": ("evaluate_predictions",),
    "ast_keras.models.ast_backbone": ("ASTBackbone", "ASTClassifier"),
    "ast_keras.training.optimizers": ("AdamL2",),
    "ast_keras.layers.patch_embedding": ("PatchEmbedding",),
    "ast_keras.data.pipeline": ("Pipeline",),
    "ast_keras.presets.loading": ("from_preset", "save_to_preset"),
    "ast_keras.weights.export": ("export_weights",),
    "ast_keras.inference.streaming": ("StreamingClassifier",),
    "ast_keras.weights.build": ("causal_from",),
    "ast_keras.training.schedules": ("EpochDecaySchedule", "WarmupCosineSchedule"),
    "ast_keras.recipe": ("Recipe", "load_recipe", "list_recipes"),
}
_SAVED = (
    "ast_keras.models.causal_ast_backbone",
    "ast_keras.models.ast_backbone",
    "ast_keras.training.optimizers",
    "ast_keras.presets.loading",
    "ast_keras.training.schedules",
)
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "ASTBackbone",
    "ASTClassifier",
    "AdamL2",
    "AudioError",
    "AudioWarning",
    "CausalASTBackbone",
    "EpochDecaySchedule",
    "LabelSet",
    "LogMelFilterbank",
    "PatchEmbedding",
    "Pipeline",
    "Recipe",
    "SelfAttention",
    "SoundDataset",
    "SpectrogramAugment",
    "Split",
    "StreamingClassifier",
    "TransformerBlock",
    "WarmupCosineSchedule",
    "audio_from_array",
    "audio_info",
    "causal_from",
    "evaluate_predictions",
    "export_weights",
    "from_preset",
    "list_recipes",
    "load_audio",
    "load_dataset",
    "load_recipe",
    "save_to_preset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ast_keras' has no attribute {name!r}")
    if _HOME[name] in _SAVED:
        # Keras finds the parts of a saved model once their modules are loaded: one brings all.
        for module in _SAVED:
            importlib.import_module(module)
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""ast-keras: the Audio Spectrogram Transformer for TensorFlow and Keras.

Importing this package is cheap: TensorFlow loads when a name that needs it is first used. The first
use of such a name also registers every Keras class of the package, so that
`keras.models.load_model` finds them.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for editors and type checkers; `_HOME` lists the same names for run time
    from ast_keras.audio.loading import audio_from_array as audio_from_array
    from ast_keras.audio.loading import audio_info as audio_info
    from ast_keras.audio.loading import load_audio as load_audio
    from ast_keras.data.dataset import SoundDataset as SoundDataset
    from ast_keras.data.dataset import Split as Split
    from ast_keras.data.graph_decoding import decode_audio as decode_audio
    from ast_keras.data.pipeline import Pipeline as Pipeline
    from ast_keras.data.readers import load_dataset as load_dataset
    from ast_keras.errors import AstKerasError as AstKerasError
    from ast_keras.errors import AudioError as AudioError
    from ast_keras.errors import AudioWarning as AudioWarning
    from ast_keras.evaluation.averaging import average_models as average_models
    from ast_keras.evaluation.keras_metrics import DPrime as DPrime
    from ast_keras.evaluation.keras_metrics import MeanAveragePrecision as MeanAveragePrecision
    from ast_keras.evaluation.metrics import evaluate_predictions as evaluate_predictions
    from ast_keras.export.saved_model import export_saved_model as export_saved_model
    from ast_keras.export.tflite import export_tflite as export_tflite
    from ast_keras.inference.embedder import Embedder as Embedder
    from ast_keras.inference.explanation import explain_file as explain_file
    from ast_keras.inference.predictor import Predictor as Predictor
    from ast_keras.inference.streaming import StreamingClassifier as StreamingClassifier
    from ast_keras.labels import LabelSet as LabelSet
    from ast_keras.layers.attention import SelfAttention as SelfAttention
    from ast_keras.layers.log_mel_filterbank import LogMelFilterbank as LogMelFilterbank
    from ast_keras.layers.patch_embedding import PatchEmbedding as PatchEmbedding
    from ast_keras.layers.spectrogram_augment import SpectrogramAugment as SpectrogramAugment
    from ast_keras.layers.transformer_block import TransformerBlock as TransformerBlock
    from ast_keras.models.ast_backbone import ASTBackbone as ASTBackbone
    from ast_keras.models.ast_classifier import ASTClassifier as ASTClassifier
    from ast_keras.models.audio_classifier import AudioClassifier as AudioClassifier
    from ast_keras.models.causal_ast_backbone import CausalASTBackbone as CausalASTBackbone
    from ast_keras.presets.loading import from_preset as from_preset
    from ast_keras.presets.saving import save_to_preset as save_to_preset
    from ast_keras.recipe import Recipe as Recipe
    from ast_keras.recipe import list_recipes as list_recipes
    from ast_keras.recipe import load_recipe as load_recipe
    from ast_keras.training.distribution import make_strategy as make_strategy
    from ast_keras.training.optimizers import AdamL2 as AdamL2
    from ast_keras.training.optimizers import AdamW as AdamW
    from ast_keras.training.run import Run as Run
    from ast_keras.training.schedules import EpochDecaySchedule as EpochDecaySchedule
    from ast_keras.training.schedules import WarmupCosineSchedule as WarmupCosineSchedule
    from ast_keras.weights.build import to_causal as to_causal
    from ast_keras.weights.export import export_weights as export_weights

_HOME = {
    "ASTBackbone": "models.ast_backbone",
    "ASTClassifier": "models.ast_classifier",
    "AdamL2": "training.optimizers",
    "AdamW": "training.optimizers",
    "AstKerasError": "errors",
    "AudioClassifier": "models.audio_classifier",
    "AudioError": "errors",
    "AudioWarning": "errors",
    "CausalASTBackbone": "models.causal_ast_backbone",
    "DPrime": "evaluation.keras_metrics",
    "Embedder": "inference.embedder",
    "EpochDecaySchedule": "training.schedules",
    "LabelSet": "labels",
    "LogMelFilterbank": "layers.log_mel_filterbank",
    "MeanAveragePrecision": "evaluation.keras_metrics",
    "PatchEmbedding": "layers.patch_embedding",
    "Pipeline": "data.pipeline",
    "Predictor": "inference.predictor",
    "Recipe": "recipe",
    "Run": "training.run",
    "SelfAttention": "layers.attention",
    "SoundDataset": "data.dataset",
    "SpectrogramAugment": "layers.spectrogram_augment",
    "Split": "data.dataset",
    "StreamingClassifier": "inference.streaming",
    "TransformerBlock": "layers.transformer_block",
    "WarmupCosineSchedule": "training.schedules",
    "audio_from_array": "audio.loading",
    "audio_info": "audio.loading",
    "average_models": "evaluation.averaging",
    "decode_audio": "data.graph_decoding",
    "evaluate_predictions": "evaluation.metrics",
    "explain_file": "inference.explanation",
    "export_saved_model": "export.saved_model",
    "export_tflite": "export.tflite",
    "export_weights": "weights.export",
    "from_preset": "presets.loading",
    "list_recipes": "recipe",
    "load_audio": "audio.loading",
    "load_dataset": "data.readers",
    "load_recipe": "recipe",
    "make_strategy": "training.distribution",
    "save_to_preset": "presets.saving",
    "to_causal": "weights.build",
}
_LIGHT_ROOMS = ("errors", "labels", "audio", "recipe", "data")
# Modules with a Keras class that may occur in a saved model; between them they import all.
_REGISTERED = (
    "models.ast_classifier",
    "models.causal_ast_backbone",
    "evaluation.keras_metrics",
    "training.optimizers",
    "training.schedules",
)

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ast_keras' has no attribute {name!r}")
    home = _HOME[name]
    if home.split(".")[0] not in _LIGHT_ROOMS:
        for module in _REGISTERED:
            importlib.import_module(f"ast_keras.{module}")
    return getattr(importlib.import_module(f"ast_keras.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

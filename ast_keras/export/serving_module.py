"""The `tf.Module` from which every exported file is made: waveform to scores and embeddings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ast_keras.labels import Labels, labels_of_classes
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.lora_dense import merged_kernels, merged_weights
from ast_keras.models.audio_classifier import AudioClassifier


class ServingModule(tf.Module):
    """Computes what a classifier computes, and stores each of its weights once.

    The weights are the attribute `model_variables`. Exporters add signatures: functions that call
    `scores` or `embeddings`, or the parts `spectrogram`, `scores_from_spectrogram` and
    `embeddings_from_spectrogram`.

    Args:
        model: `AudioClassifier` with a frontend. A model that computes in half precision is
            exported in float32.
        method: Computation of the filterbank, "fft" or "conv"; None for the model's own.

    Raises:
        ArgumentError: If the model takes spectrograms.

    Example:

    >>> from ast_keras import from_preset
    >>> module = ServingModule(from_preset("ast_test", num_classes=10, num_frames=98))
    >>> module.scores(tf.zeros([1, 16000])).shape
    TensorShape([1, 10])
    """

    def __init__(self, model: AudioClassifier, method: str | None = None):
        super().__init__()
        network = _Network(exportable(model), method)
        self._network = network
        self.any_length = network.model.padding == "masked"
        # As `tf.function`s, so that the signatures of a file share the filterbank's matrices.
        self.spectrogram = tf.function(network.spectrogram)
        self.scores_from_spectrogram = tf.function(network.scores)
        self.embeddings_from_spectrogram = tf.function(network.embeddings)
        self.model_variables = [variable.value for variable in network.model.variables]

    def scores(self, waveform: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the scores of a batch of waveforms.

        Args:
            waveform: float32 `[batch, samples]` in [-1, 1].
            lengths: int32 `[batch]`, the valid samples of each padded waveform; None if all are
                valid.

        Returns:
            float32 probabilities `[batch, num_classes]`.
        """
        frames = self._network.model.count_frames(lengths)
        return self.scores_from_spectrogram(self.spectrogram(waveform, lengths), frames)

    def embeddings(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the embeddings of a batch of waveforms.

        Args:
            waveform: float32 `[batch, samples]` in [-1, 1].

        Returns:
            The pooled embedding `[batch, embed_dim]` and all tokens `[batch, tokens, embed_dim]`,
            float32.
        """
        return self.embeddings_from_spectrogram(self.spectrogram(waveform))


class _Network:
    """The functions of a `ServingModule`, hidden from TensorFlow's search for variables.

    `tf.saved_model.save` follows every attribute that is a Keras model, and would find each weight
    twice: in the model, which tracks its layers, and in its list of variables. It does not follow
    attributes of a plain Python object, so `model_variables` is the only path to a weight.
    """

    def __init__(self, model: AudioClassifier, method: str | None) -> None:
        config: dict[str, Any] = model.require_frontend().get_config()
        self.model = model
        self.filterbank = LogMelFilterbank.from_config(
            {**config, "method": method or config["method"]}
        )
        self.min_frames = model.backbone.min_frames if model.padding == "masked" else None

    def spectrogram(self, waveform, lengths=None):  # [batch, samples] to [batch, frames, mel]
        return self.filterbank(waveform, lengths=lengths, min_frames=self.min_frames)

    def scores(self, spectrogram, frames=None):
        logits = self.model.logits_from_spectrogram(spectrogram, frames, training=False)
        return self.model.scores(logits)

    def embeddings(self, spectrogram, frames=None):
        tokens = self.model.backbone(spectrogram, training=False, lengths=frames)
        return self.model.pool(tokens, frames), tokens


def exportable(model: AudioClassifier) -> AudioClassifier:
    """Returns the model, or a float32 copy if it computes in half precision or has LoRA factors.

    The copy has no factors: they are merged into its kernels.

    Args:
        model: Any `AudioClassifier`.
    """
    if model.backbone.policy.compute_dtype == "float32" and not merged_kernels(model):
        return model
    config = model.get_config()
    config["backbone"]["config"]["dtype"] = "float32"
    copy = type(model).from_config(config)
    copy.set_weights(merged_weights(model))
    return copy


def label_names(model: AudioClassifier, labels: Labels | None = None) -> tuple[str, ...]:
    """Returns the names of the classes: the given ones, the model's own, or numbers.

    Args:
        model: Classifier whose classes are named.
        labels: Labels to use instead of the model's own, a `LabelSet` or a list; None for those.

    Raises:
        LabelError: If there is not one label for each class.
    """
    given = model.labels if labels is None else labels
    label_set = labels_of_classes(given, model.num_classes)
    if label_set is None:
        return tuple(f"class {index}" for index in range(model.num_classes))
    return label_set.names

"""The graph that every artefact holds: waveform to scores, each weight once."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ast_keras.audio import mel
from ast_keras.errors import ExportError
from ast_keras.labels import LabelSet
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.models.ast_classifier import ASTClassifier


class ServedGraph(tf.Module):
    """Holds a classifier's weights once, and computes what the classifier does.

    Keras's own export stores each weight twice, since the model and its variables are both
    tracked. Here only the variables are; the model is reached through a closure, which TensorFlow
    does not follow. Artefacts add their signatures as `tf.function`s that call `scores` or
    `embeddings`, or their parts, `spectrogram`, `classified` and `embedded`.

    Args:
      model: An `ASTClassifier` with a frontend.
      method: Of the filterbank: None for the model's own, or "fft", "conv".

    Raises:
      ExportError: If the model takes spectrograms.

    Example:

    >>> from ast_keras import from_preset
    >>> graph = ServedGraph(from_preset("ast_test", num_classes=10, num_frames=98))
    >>> graph.scores(tf.zeros([1, 16000])).shape
    TensorShape([1, 10])
    """

    def __init__(self, model: ASTClassifier, method: str | None = None):
        super().__init__()
        if model.frontend is None:
            raise ExportError(
                "Only a model that hears sound can be exported: this one takes spectrograms. Load "
                "it without frontend=None"
            )
        model = in_float32(model)
        config: dict[str, Any] = model.frontend.get_config()
        fbank = LogMelFilterbank.from_config({**config, "method": method or config["method"]})
        any_length = model.padding == "masked"
        min_frames = model.backbone.min_frames if any_length else None

        # Functions, so that a file with several signatures holds the filterbank's matrices once.
        @tf.function
        def spectrogram(waveform, lengths=None):  # [batch, samples] to [batch, frames, mel]
            return fbank(waveform, lengths=lengths, min_frames=min_frames)

        @tf.function
        def classified(spectrogram, frames=None):  # the last block computes special tokens only
            asked = model.backbone.num_pooled_tokens
            tokens = model.backbone(spectrogram, training=False, lengths=frames, num_tokens=asked)
            return model.scores(model.classify(model.pool(tokens, frames)))

        @tf.function
        def embedded(spectrogram, frames=None):
            tokens = model.backbone(spectrogram, training=False, lengths=frames)
            return model.pool(tokens, frames), tokens

        self.any_length = any_length
        self.spectrogram, self.classified, self.embedded = spectrogram, classified, embedded
        self.count_frames = model.count_frames
        self.model_variables = [variable.value for variable in model.variables]

    def scores(self, waveform: tf.Tensor, lengths: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the classes' probabilities, `[batch, num_classes]`.

        Args:
          waveform: The sounds, in [-1, 1].
          lengths: Samples of each, `[batch]`, where shorter ones are padded; None for all.
        """
        return self.classified(self.spectrogram(waveform, lengths), self.count_frames(lengths))

    def embeddings(self, waveform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns one vector for each sound, `[batch, embed_dim]`, and all of its tokens."""
        return self.embedded(self.spectrogram(waveform))


def in_float32(model: ASTClassifier) -> ASTClassifier:
    """Returns the model, or its float32 copy if its backbone computes in half precision."""
    if model.backbone.policy.compute_dtype == "float32":
        return model
    config = model.get_config()
    config["backbone"]["config"]["dtype"] = "float32"
    copy = ASTClassifier.from_config(config)
    copy.set_weights(model.get_weights())
    return copy


def default_num_samples(model: ASTClassifier) -> int:
    """Returns the length of a clip for clients that want one: whole seconds, if all are heard.

    A model of 1,024 frames hears 10.255 s and was trained on clips of 10 s, whose missing frames
    are padding; silence in their place would be something else.

    Example:

    >>> from ast_keras import from_preset
    >>> default_num_samples(from_preset("ast_test", num_classes=10, num_frames=1024))
    160000
    """
    frontend = model.frontend
    rate = frontend.sample_rate
    length, step = (
        mel.seconds_to_samples(seconds, rate)
        for seconds in (frontend.frame_length_seconds, frontend.frame_step_seconds)
    )
    # Less than a frame more than what fills the model is never heard.
    seconds = (frontend.num_samples + step - 1) // rate
    heard = mel.num_frames(seconds * rate, length, step)
    return seconds * rate if 0 < heard <= frontend.num_frames else frontend.num_samples


def label_names(model: ASTClassifier, labels: LabelSet | None) -> tuple[str, ...]:
    """Returns the names of the classes: those given, the model's own, or numbers.

    Raises:
      ExportError: If there is not one for each class.
    """
    labels = labels or model.labels
    if labels is None:
        return tuple(f"class {index}" for index in range(model.num_classes))
    if len(labels) != model.num_classes:
        raise ExportError(
            "There must be one label for each class. "
            f"Received: {len(labels)} labels, {model.num_classes} classes"
        )
    return labels.names

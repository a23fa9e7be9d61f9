"""ASTClassifier: waveform to logits."""

from collections.abc import Mapping

import keras
from keras import ops

from ast_keras.errors import ArgumentError
from ast_keras.labels import LabelSet, require_one_label_per_class
from ast_keras.layers.initializers import truncated_normal
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank  # noqa: F401

# Imported so that a saved model finds these parts: Keras knows a class once its module is loaded.
from ast_keras.layers.spectrogram_augment import SpectrogramAugment  # noqa: F401

_ACTIVATIONS = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}


@keras.saving.register_keras_serializable(package="ast_keras")
class ASTClassifier(keras.Model):
    """Audio Spectrogram Transformer that classifies sound: waveform to logits.

    The filterbank is part of the model, so training, serving and a phone share one graph. It stays
    float32 under every precision policy, and so do the logits. `keras.losses` take the logits with
    `from_logits=True`; `scores` turns them into probabilities.

    Args:
      backbone: An `ASTBackbone`.
      num_classes: Number of logits.
      frontend: A `LogMelFilterbank` whose frames and bins match the backbone, or None for a model
        that takes normalised spectrograms.
      augment: A `SpectrogramAugment` applied while training, or None.
      labels: A `LabelSet` of `num_classes` names that travels with the model, or None.
      score_activation: "softmax" where one class is right, "sigmoid" where several may be; what
        `scores` applies. The output itself stays logits.
      head_layer_norm_epsilon: Of the head's LayerNorm; 1e-5 in the authors' code.

    Input: waveform `[batch, samples]` in [-1, 1] at the frontend's rate (or a spectrogram, without
      frontend). Optionally `lengths` `[batch]`, the number of samples (without frontend, frames) of
      each clip when the batch is padded, and `seeds` `[batch, 2]` for the augmentation. All three
      may also come as one dictionary of these names, which is what `fit` and `predict` take. A
      backbone with `padding="masked"` hears clips of any length, each as if it were alone; with
      "original" they are cut or padded to `num_frames`, as the authors do.
    Output: float32 logits `[batch, num_classes]`.

    Raises:
      ValueError: If frontend, backbone, labels and number of classes do not fit together.

    Example:

    >>> import numpy as np
    >>> from ast_keras import ASTBackbone, LogMelFilterbank
    >>> backbone = ASTBackbone(48, num_layers=2, num_heads=3, mlp_dim=192, num_frames=128)
    >>> model = ASTClassifier(backbone, num_classes=10, frontend=LogMelFilterbank(num_frames=128))
    >>> model(np.zeros((1, 16000), "float32")).shape
    TensorShape([1, 10])
    """

    def __init__(
        self,
        backbone,
        num_classes,
        frontend=None,
        augment=None,
        labels=None,
        score_activation="softmax",
        head_layer_norm_epsilon=1e-5,
        **kwargs,
    ):
        # Always float32 here: under a mixed policy Keras would halve the waveform on its way in.
        super().__init__(**{**kwargs, "dtype": "float32"})
        _check_parts(backbone, num_classes, frontend, labels)
        if score_activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"score_activation must be one of {', '.join(_ACTIVATIONS)}. "
                f"Received: score_activation={score_activation!r}"
            )
        self.backbone = backbone
        self.num_classes = num_classes
        self.frontend = frontend
        self.augment = augment
        self.labels = labels
        self.score_activation = score_activation
        self.head_layer_norm_epsilon = head_layer_norm_epsilon
        self.head_norm = keras.layers.LayerNormalization(
            epsilon=head_layer_norm_epsilon, dtype="float32", name="head_norm"
        )
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer=truncated_normal(),
            dtype="float32",
            name="head",
        )
        self.head_norm.build((None, backbone.embed_dim))
        self.head.build((None, backbone.embed_dim))
        self.built = True

    @classmethod
    def from_preset(cls, preset, num_classes=None, labels=None, **overrides):
        """Makes a classifier from a name or from files: `ast_keras.from_preset`, which see."""
        from ast_keras.presets.loading import from_preset  # late: presets build on this module

        return from_preset(preset, num_classes, labels, **overrides)

    def save_to_preset(self, folder):
        """Saves the classifier to a folder: `ast_keras.save_to_preset`, which see."""
        from ast_keras.presets.saving import save_to_preset  # late, as above

        save_to_preset(self, folder)

    @property
    def padding(self):
        """What becomes of clips of other lengths, "original" or "masked": the backbone's."""
        return self.backbone.padding

    def spectrogram(self, waveform, lengths=None):
        """Returns the normalised log-mel spectrogram `[batch, frames, mel]` that the model sees."""
        if self.frontend is None:
            return waveform
        if self.padding == "original":
            return self.frontend(waveform, lengths=lengths)
        return self.frontend(waveform, lengths=lengths, min_frames=self.backbone.min_frames)

    def count_frames(self, lengths):
        """Returns the frames of each clip that the backbone is to attend to; None for all.

        Args:
          lengths: As of the call, or None.
        """
        if lengths is None or self.padding == "original":
            return None
        return lengths if self.frontend is None else self.frontend.count_frames(lengths)

    def describe_input(self, num_samples):
        """Returns a sentence on what becomes of a sound of so many samples.

        Raises:
          ValueError: If the model takes spectrograms.

        Example:

        >>> from ast_keras import from_preset
        >>> model = from_preset("ast_test", num_classes=2, num_frames=1024, padding="masked")
        >>> model.describe_input(60 * 16000)
        '60.00 s: all is heard; the positions of 101 patches along time are stretched over 599'
        """
        frontend, backbone = self.require_frontend(), self.backbone
        seconds, rate = f"{num_samples / frontend.sample_rate:.2f} s", frontend.sample_rate
        if self.padding == "masked":
            columns = backbone.count_columns(frontend.count_frames(num_samples))
            return f"{seconds}: all is heard{backbone.describe_positions(columns)}"
        heard = frontend.num_samples / rate
        if frontend.count_frames(num_samples) > backbone.num_frames:
            return f'{seconds}: the first {heard:.2f} s are heard; padding="masked" hears all'
        return f"{seconds}: padded to {heard:.2f} s, as in training"

    def pool(self, tokens, lengths=None):
        """Returns the mean of the special tokens, `[batch, embed_dim]`, that the head reads."""
        return self.backbone.pool(tokens, lengths)

    def classify(self, pooled):
        """Returns the logits `[batch, num_classes]` for pooled tokens `[batch, embed_dim]`."""
        return self.head(self.head_norm(pooled))

    def call(self, waveform, training=None, lengths=None, seeds=None):
        if isinstance(waveform, Mapping):
            lengths, seeds = waveform.get("lengths", lengths), waveform.get("seeds", seeds)
            waveform = waveform["waveform"]
        spectrogram = self.spectrogram(waveform, lengths)
        frames = self.count_frames(lengths)
        if self.augment is not None:
            spectrogram = self.augment(spectrogram, training=training, seeds=seeds, lengths=frames)
        return self.logits_from_spectrogram(spectrogram, frames, training)

    def logits_from_spectrogram(self, spectrogram, frames=None, training=None):
        """Returns the logits for normalised spectrograms, the part of `call` after the filterbank.

        Args:
            spectrogram: float32 `[batch, num_frames, num_mel_bins]`.
            frames: int32 `[batch]`, the valid frames of each clip; None if all are valid.
            training: Whether dropout and the like are active.

        Returns:
            float32 logits `[batch, num_classes]`.
        """
        tokens = self.backbone(
            spectrogram,
            training=training,
            lengths=frames,
            num_tokens=self.backbone.num_pooled_tokens,
        )
        return self.classify(self.pool(tokens, frames))

    def require_frontend(self):
        """Returns the frontend of a model that takes waveforms.

        Raises:
            ArgumentError: If the model takes spectrograms.
        """
        if self.frontend is None:
            raise ArgumentError(
                "This model takes spectrograms: it was built without a frontend. Load it without "
                "frontend=None. Received: frontend=None"
            )
        return self.frontend

    def scores(self, logits):
        """Returns the classes' probabilities, `[batch, num_classes]`, for the model's output."""
        return _ACTIVATIONS[self.score_activation](logits)

    def compute_output_shape(self, input_shape):
        if isinstance(input_shape, Mapping):
            input_shape = input_shape["waveform"]
        return (input_shape[0], self.num_classes)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        labels = self.labels
        return {
            "backbone": serialize(self.backbone),
            "num_classes": self.num_classes,
            "frontend": serialize(self.frontend),
            "augment": serialize(self.augment),
            "labels": labels and {"names": list(labels.names), "ids": list(labels.ids)},
            "score_activation": self.score_activation,
            "head_layer_norm_epsilon": self.head_layer_norm_epsilon,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("backbone", "frontend", "augment"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        if config["labels"]:
            config["labels"] = LabelSet(
                names=tuple(config["labels"]["names"]), ids=tuple(config["labels"]["ids"])
            )
        return cls(**config)


def _check_parts(backbone, num_classes, frontend, labels):
    require_one_label_per_class(labels, num_classes)
    if frontend is None:
        return
    makes = (frontend.num_frames, frontend.num_mel_bins)
    takes = (backbone.num_frames, backbone.num_mel_bins)
    if makes != takes:
        raise ArgumentError(
            "The frontend must make the spectrogram that the backbone takes: give both the same "
            f"num_frames and num_mel_bins. Received: frontend (frames, mel)={makes}, "
            f"backbone {takes}"
        )

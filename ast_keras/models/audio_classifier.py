"""AudioClassifier: filterbank, encoder and head, from waveform to logits."""

from collections.abc import Mapping

import keras
from keras import ops

from ast_keras.audio import mel
from ast_keras.errors import ArgumentError
from ast_keras.labels import LabelSet, labels_of_classes
from ast_keras.layers.initializers import truncated_normal
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank  # noqa: F401  (see below)

# Keras finds a class of a saved model only if its module is loaded, hence these two imports.
from ast_keras.layers.spectrogram_augment import SpectrogramAugment  # noqa: F401
from ast_keras.models.classifier_checks import require_float32, require_same_spectrogram
from ast_keras.models.fine_tuning import FineTuning
from ast_keras.models.keras_methods import KerasMethods
from ast_keras.models.score_activation import ACTIVATIONS, require_activation
from ast_keras.models.thresholds import Thresholds
from ast_keras.models.trainable_parts import trainable_config, with_trainable_parts

_EXPORT_FORMATS = ("tf_saved_model", "litert")


@keras.saving.register_keras_serializable(package="ast_keras")
class AudioClassifier(FineTuning, KerasMethods, keras.Model):
    """Classifies audio with any spectrogram encoder: waveform to logits.

    The filterbank is part of the model, so training, serving and phones use the same graph. It
    stays float32 under every dtype policy, and so do the logits. Losses of `keras.losses` take the
    logits with `from_logits=True`; `scores` turns them into probabilities.

    The encoder is a `keras.Model` or `keras.Layer` with these members (see `ASTBackbone`):

    | member | meaning |
    |---|---|
    | `__call__(spectrogram, training, lengths, num_tokens)` | tokens `[batch, tokens, embed_dim]` |
    | `pool(tokens, lengths)` | the vector per clip that the head reads, `[batch, embed_dim]` |
    | `num_pooled_tokens` | how many tokens `pool` reads, from the first; None for all |
    | `embed_dim` | size of a token |
    | `num_frames`, `num_mel_bins` | size of the spectrogram it was made for |
    | `padding` | "original": always `num_frames` frames; "masked": any length |
    | `min_frames` | smallest number of frames of an input |
    | `count_columns(num_frames)` | number of time steps of its tokens, for `describe_input` |
    | `describe_positions(columns)` | the end of the sentence of `describe_input` |
    | `policy` | its `keras.DTypePolicy` |

    Args:
        backbone: The encoder.
        num_classes: Number of classes, which is the number of logits; None for that of the labels.
        frontend: A `LogMelFilterbank` with the backbone's `num_frames` and `num_mel_bins`; None for
            a model that takes normalised spectrograms.
        augment: A `SpectrogramAugment` applied in training. None disables it.
        labels: A `LabelSet` or a list with one name for each class, saved with the model. None
            leaves the classes without names. May be set later: `model.labels = ["dog", "hen"]`.
        score_activation: What `scores` applies to the logits, the output of the model: "softmax" if
            exactly one class is right, "sigmoid" if several may be. None takes the one that belongs
            to the loss of `compile` (until then "softmax"). With one class it is always "sigmoid".
        head_layer_norm_epsilon: Epsilon of the head's LayerNorm; 1e-5 in the authors' code.
        thresholds: Score in [0, 1] of each class from which `Predictor` reports it, saved with the
            model; None to report the best classes. May be set later.
        dtype: None or "float32", the dtype of filterbank and head. The backbone has a dtype policy
            of its own.
        **kwargs: `name` and `trainable` of the model.

    Call arguments:
        waveform: `[batch, samples]` in [-1, 1] at the frontend's sample rate; without a frontend
            spectrograms `[batch, num_frames, num_mel_bins]`. May also be a dictionary with the keys
            "waveform", "lengths" and "seeds", which is what `fit` and `predict` take. With
            `padding="masked"` clips have any length; with "original" they are cut or padded to
            `num_frames`.
        training: Whether dropout and augmentation are active.
        lengths: Optional int `[batch]`, the valid samples (without a frontend: frames) of each clip
            of a padded batch.
        seeds: Optional int `[batch, 2]`, the seeds of the augmentation.

    Output shape:
        float32 logits `[batch, num_classes]`.

    Raises:
        ArgumentError: If frontend, backbone, labels and number of classes do not fit together, or
            `dtype` is not float32.

    Example:

    >>> import numpy as np
    >>> from ast_keras import ASTBackbone
    >>> backbone = ASTBackbone(
    ...     embed_dim=48, num_layers=1, num_heads=3, mlp_dim=96, num_frames=128
    ... )
    >>> frontend = LogMelFilterbank(num_frames=128)
    >>> model = AudioClassifier(backbone, num_classes=10, frontend=frontend)
    >>> model.scores(model(np.zeros((1, 16000), "float32"))).shape
    TensorShape([1, 10])
    """

    thresholds = Thresholds()

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        frontend=None,
        augment=None,
        labels=None,
        score_activation=None,
        head_layer_norm_epsilon=1e-5,
        thresholds=None,
        dtype=None,
        **kwargs,
    ):
        require_float32(dtype)
        # Always float32: under a mixed policy Keras would cast the waveform to half precision.
        super().__init__(dtype="float32", **kwargs)
        labels = labels_of_classes(labels, num_classes)
        if labels is num_classes is None:
            raise ArgumentError("A classifier needs num_classes or labels. Received: None for both")
        num_classes = num_classes or len(labels)
        require_same_spectrogram(frontend, backbone)
        self.backbone = backbone
        self.num_classes = num_classes
        self.frontend = frontend
        self.augment = augment
        self.labels = labels
        self._suggested_activation = "softmax"
        self.score_activation = score_activation
        self.head_layer_norm_epsilon = head_layer_norm_epsilon
        self.thresholds = thresholds
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

    @property
    def labels(self):
        """The `LabelSet` of the classes, or None. A list of names may be assigned."""
        return self._labels

    @labels.setter
    def labels(self, labels):
        self._labels = labels_of_classes(labels, self.num_classes)

    @property
    def score_activation(self):
        """What `scores` applies, "softmax" or "sigmoid"; assign None to follow the loss."""
        if self.num_classes == 1:  # the softmax of one logit is always 1
            return "sigmoid"
        return self._score_activation or self._suggested_activation

    @score_activation.setter
    def score_activation(self, name):
        self._score_activation = None if name is None else require_activation(name)

    def suggest_score_activation(self, name):
        """Sets the activation of scores where the user has chosen none.

        Args:
            name: "softmax" or "sigmoid", the activation that belongs to the loss of the training.

        Raises:
            ArgumentError: If there is no such activation.
        """
        self._suggested_activation = require_activation(name)

    @property
    def padding(self):
        """Padding mode of the backbone, "original" or "masked"."""
        return self.backbone.padding

    # --- Forward pass ---

    def call(self, waveform, training=None, lengths=None, seeds=None):
        if isinstance(waveform, Mapping):
            lengths, seeds = waveform.get("lengths", lengths), waveform.get("seeds", seeds)
            waveform = waveform["waveform"]
        spectrogram = self.spectrogram(waveform, lengths)
        frames = self.count_frames(lengths)
        if self.augment is not None:
            spectrogram = self.augment(spectrogram, training=training, seeds=seeds, lengths=frames)
        return self.logits_from_spectrogram(spectrogram, frames, training)

    def spectrogram(self, waveform, lengths=None):
        """Computes the normalised log-mel spectrogram that the backbone receives.

        Args:
            waveform: float32 `[batch, samples]`. A model without a frontend returns it unchanged.
            lengths: Optional int `[batch]`, the valid samples of each clip.

        Returns:
            float32 `[batch, frames, num_mel_bins]`.
        """
        if self.frontend is None:
            return waveform
        if self.padding == "original":
            return self.frontend(waveform, lengths=lengths)
        return self.frontend(waveform, lengths=lengths, min_frames=self.backbone.min_frames)

    def logits_from_spectrogram(self, spectrogram, frames=None, training=None):
        """Computes the logits for normalised spectrograms, the part of `call` after the filterbank.

        Args:
            spectrogram: float32 `[batch, num_frames, num_mel_bins]`.
            frames: Optional int `[batch]`, the valid frames of each clip; None if all are valid.
            training: Whether dropout is active.

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

    def pool(self, tokens, lengths=None):
        """Reduces the backbone's tokens to the vector that the head reads.

        Args:
            tokens: Output of the backbone, `[batch, tokens, embed_dim]`.
            lengths: Optional int `[batch]`, the valid frames of each clip.

        Returns:
            `[batch, embed_dim]`.
        """
        return self.backbone.pool(tokens, lengths)

    def classify(self, pooled):
        """Applies the head to pooled tokens `[batch, embed_dim]`: logits `[batch, num_classes]`."""
        return self.head(self.head_norm(pooled))

    def scores(self, logits):
        """Turns the model's output into probabilities of the classes, `[batch, num_classes]`.

        Args:
            logits: What the model returns, `[batch, num_classes]`.

        Raises:
            ArgumentError: If the last axis is another, as that of a waveform is.
        """
        logits = ops.convert_to_tensor(logits)
        if logits.shape[-1] not in (self.num_classes, None):
            raise ArgumentError(
                "scores takes what the model returns: model.scores(model(waveform)). Received: "
                f"shape={tuple(logits.shape)}, num_classes={self.num_classes}"
            )
        return ACTIVATIONS[self.score_activation](logits)

    # --- Lengths ---

    def count_frames(self, lengths):
        """Returns the valid frames of each clip, int `[batch]`; None if all are attended to.

        Args:
            lengths: int `[batch]`, the valid samples (without a frontend: frames), or None.
        """
        if lengths is None or self.padding == "original":
            return None
        return lengths if self.frontend is None else self.frontend.count_frames(lengths)

    @property
    def max_input_samples(self):
        """Largest number of samples that is processed without cutting; None if there is no limit.

        One sample more would add a frame to the spectrogram, which the model drops. Up to one
        frame step more than `frontend.num_samples` fits, because it does not fill a frame.

        Raises:
            ArgumentError: If the model takes spectrograms.
        """
        frontend = self.require_frontend()
        if self.padding == "masked":
            return None
        return frontend.num_samples + self._frame_step - 1

    @property
    def default_num_samples(self):
        """Length of a clip for clients that take only one: whole seconds if possible.

        A model of 1,024 frames processes 10.255 s and was trained on clips of 10 s, whose missing
        frames are padding. Silence in their place would be another input, so this is 10 s. A model
        of 98 frames gives 1 s, although the last 25 ms do not fill a frame.

        Raises:
            ArgumentError: If the model takes spectrograms.

        Example:

        >>> from ast_keras import from_preset
        >>> from_preset("ast_test", num_classes=10, num_frames=1024).default_num_samples
        160000
        """
        frontend = self.require_frontend()
        rate = frontend.sample_rate
        whole = (frontend.num_samples + self._frame_step - 1) // rate * rate
        frames = frontend.count_frames(whole)
        return whole if 0 < frames <= frontend.num_frames else frontend.num_samples

    @property
    def _frame_step(self):
        frontend = self.frontend
        return mel.seconds_to_samples(frontend.frame_step_seconds, frontend.sample_rate)

    def describe_input(self, num_samples):
        """Returns a sentence about how the model processes a clip of `num_samples` samples.

        Args:
            num_samples: Length of the clip, an int.

        Raises:
            ArgumentError: If the model takes spectrograms.

        Example:

        >>> from ast_keras import from_preset
        >>> model = from_preset("ast_test", num_classes=2, num_frames=1024, padding="masked")
        >>> model.describe_input(60 * 16000)
        '60.00 s: all is processed; the positions of 101 patches along time are stretched over 599'
        """
        frontend, backbone = self.require_frontend(), self.backbone
        seconds = f"{num_samples / frontend.sample_rate:.2f} s"
        if self.padding == "masked":
            columns = backbone.count_columns(frontend.count_frames(num_samples))
            return f"{seconds}: all is processed{backbone.describe_positions(columns)}"
        used = f"{frontend.num_samples / frontend.sample_rate:.2f} s"
        if num_samples > self.max_input_samples:
            return f'{seconds}: only the first {used} are processed; padding="masked" takes all'
        return f"{seconds}: padded to {used}, as in training"

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

    # --- Saving and exporting ---

    def save_to_preset(self, folder):
        """Saves the classifier to a folder that `from_preset` loads.

        Args:
            folder: Path of the folder; a model saved there earlier is replaced.

        Raises:
            WeightsError: If the folder holds something other than a saved model.
        """
        from ast_keras.presets.saving import save_to_preset  # late: presets import models

        save_to_preset(self, folder)

    def export(self, filepath, format="tf_saved_model", verbose=None, **options):
        """Exports the model for serving or for phones, and checks the exported file.

        In contrast to `keras.Model.export`, the filterbank is exported in a form that other
        runtimes support, every weight is stored once, and the result runs in another process and
        must give the model's scores before it appears at `filepath`.

        Args:
            filepath: For "tf_saved_model" the folder in which TensorFlow Serving expects versions;
                for "litert" the file, by convention `*.tflite`.
            format: "tf_saved_model" (`ast_keras.export_saved_model`) or "litert"
                (`ast_keras.export_tflite`).
            verbose: Accepted for compatibility with Keras; the report is returned, not printed.
            **options: Keyword arguments of that function, such as `quantize="int8"` for "litert".

        Returns:
            What that function returns: for "tf_saved_model" the version's folder and the report,
            for "litert" the report.

        Raises:
            ArgumentError: If the format is another one, or `input_signature` is given: the
                signatures of the exported model are fixed.
            ExportError: If an option is wrong or the exported model differs too much.
        """
        if format not in _EXPORT_FORMATS:
            raise ArgumentError(
                f"format must be one of {', '.join(_EXPORT_FORMATS)}. Received: format={format!r}"
            )
        if "input_signature" in options:
            raise ArgumentError(
                "The signatures of an exported model are fixed: leave input_signature out. "
                f"Received: input_signature={options['input_signature']!r}"
            )
        if format == "litert":
            from ast_keras.export.tflite import export_tflite  # late: export imports models

            return export_tflite(self, filepath, **options)
        from ast_keras.export.saved_model import export_saved_model  # late, as above

        return export_saved_model(self, filepath, **options)

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
            **({"score_activation_is_chosen": True} if self._score_activation else {}),
            "head_layer_norm_epsilon": self.head_layer_norm_epsilon,
            "thresholds": self.thresholds and list(self.thresholds),
            "name": self.name,
            **trainable_config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        parts = config.pop("trainable_parts", {})
        activation = config.pop("score_activation", "softmax")
        chosen = activation if config.pop("score_activation_is_chosen", False) else None
        for part in ("backbone", "frontend", "augment"):
            if config.get(part) is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        labels = config.get("labels")
        if labels:
            names = tuple(labels["names"])
            config["labels"] = LabelSet(names=names, ids=tuple(labels.get("ids", names)))
        model = cls(**config, score_activation=chosen)
        model.suggest_score_activation(activation)
        return with_trainable_parts(model, parts)

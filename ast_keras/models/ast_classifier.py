"""ASTClassifier: the Audio Spectrogram Transformer as a classifier, from waveform to logits."""

import keras

from ast_keras.models.audio_classifier import AudioClassifier


@keras.saving.register_keras_serializable(package="ast_keras")
class ASTClassifier(AudioClassifier):
    """The Audio Spectrogram Transformer as a classifier: waveform to logits.

    An `AudioClassifier` whose encoder is an `ASTBackbone` or a `CausalASTBackbone`. The head reads
    the mean of the class token and the distillation token. Arguments, call arguments and methods
    are those of `AudioClassifier`.

    Args:
        backbone: An `ASTBackbone` or a `CausalASTBackbone`.
        num_classes: Number of classes, which is the number of logits.
        **kwargs: The other arguments of `AudioClassifier`, keyword-only: `frontend`, `augment`,
            `labels`, `score_activation`, `head_layer_norm_epsilon`, `thresholds`, `name`,
            `trainable`.

    Call arguments:
        waveform: `[batch, samples]` in [-1, 1] at the frontend's sample rate; without a frontend
            spectrograms `[batch, num_frames, num_mel_bins]`. May also be a dictionary with the keys
            "waveform", "lengths" and "seeds".
        training: Whether dropout and augmentation are active.
        lengths: Optional int `[batch]`, the valid samples (without a frontend: frames) of each
            clip.
        seeds: Optional int `[batch, 2]`, the seeds of the augmentation.

    Output shape:
        float32 logits `[batch, num_classes]`.

    Reference:
        Gong, Chung, Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021.

    Example:

    >>> import numpy as np
    >>> model = ASTClassifier.from_preset("ast_test", num_classes=10, num_frames=128)
    >>> model.scores(model(np.zeros((1, 16000), "float32"))).shape
    TensorShape([1, 10])
    """

    @classmethod
    def from_preset(cls, preset, num_classes=None, labels=None, **overrides):
        """Makes a classifier of a named size, or loads one with weights.

        Args:
            preset: A size such as "ast_base" (random weights), released weights such as
                "ast_base_audioset", the folder of a saved model, or a weights file.
            num_classes: Number of classes of a new head; None keeps the head of the weights.
            labels: The classes, a `LabelSet` or a list of names; they imply `num_classes`. If the
                weights have these classes, their head is kept, in the order of `labels`.
            **overrides: See `ast_keras.from_preset`, for example `num_frames`, `padding`, `dtype`
                and `frontend`.

        Raises:
            WeightsError: If there is no such preset, or an argument does not apply.

        Example:

        >>> ASTClassifier.from_preset("ast_test", num_classes=10, num_frames=128).num_classes
        10
        """
        from ast_keras.presets.loading import from_preset  # late: presets import models

        return from_preset(preset, num_classes, labels, **overrides)

"""Applies the checks of `tests/contract.py` to every layer and model of the package."""

import functools
import importlib
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import ast_keras
from ast_keras.labels import LabelSet
from ast_keras.layers.attention import SelfAttention
from ast_keras.layers.drop_path import DropPath
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
from ast_keras.layers.lora_dense import LoRADense
from ast_keras.layers.patch_embedding import PatchEmbedding
from ast_keras.layers.position_embedding import PositionEmbedding
from ast_keras.layers.special_tokens import SpecialTokens
from ast_keras.layers.spectrogram_augment import SpectrogramAugment
from ast_keras.layers.token_normalization import TokenNormalization
from ast_keras.layers.token_reduction import Patchout
from ast_keras.layers.transformer_block import TransformerBlock
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from tests import contract
from tests.contract import Descriptor
from tests.helpers.arrays import random

WAVEFORM = 0.1 * random(2, 1500)  # 21 frames of 160 samples, one every 64
LENGTHS = np.array([1500, 900], "int32")
SPECTROGRAM = random(2, 24, 16)  # [batch, frames, mel]
TOKENS = random(2, 7, 12)
SEEDS = np.array([[1, 2], [3, 4]], "int32")


# All options that drop or merge tokens.
REDUCED = dict(patchout=0.2, patchout_mel=0.4, patchout_time=0.3, merge_tokens=2)
# Gradient checkpointing excludes dropout.
CHECKPOINTED = dict(
    gradient_checkpointing=True,
    dropout=0.0,
    attention_dropout=0.0,
    drop_path=0.0,
)


def backbone_arguments(padding="original", **options):
    arguments = dict(
        embed_dim=12,
        num_layers=2,
        num_heads=3,
        mlp_dim=20,
        num_mel_bins=16,
        num_frames=24,
        patch_size=(8, 4),
        strides=(4, 5),
        use_distillation_token=False,
        dropout=0.1,
        attention_dropout=0.2,
        drop_path=0.3,
        layer_norm_epsilon=1e-5,
        padding=padding,
    )
    return {**arguments, **options}


def make_backbone(padding="original", **options):
    return ASTBackbone(**backbone_arguments(padding, **options))


def make_augment():
    return SpectrogramAugment(
        freq_mask_bins=8, time_mask_frames=12, noise=True, roll_frames=3, fill_value=0.5, seed=4
    )


def make_frontend(num_frames=24, method="fft"):
    return LogMelFilterbank(
        sample_rate=8000,
        num_mel_bins=16,
        num_frames=num_frames,
        window="hamming",
        frame_length_seconds=0.020,
        frame_step_seconds=0.008,
        f_min_hz=50.0,
        f_max_hz=3500.0,
        preemphasis=0.9,
        remove_waveform_mean=False,
        mean=-6.6,
        std=5.3,
        method=method,
    )


def make_classifier(kind=ASTClassifier):
    return kind(
        make_backbone(),
        num_classes=3,
        frontend=make_frontend(),
        augment=make_augment(),
        labels=LabelSet(("dog", "cow", "hen"), ("d", "c", "h")),
        score_activation="sigmoid",
        head_layer_norm_epsilon=1e-4,
        thresholds=(0.5, 0.25, 0.75),
    )


# float32 sums of up to 100 terms in another order, on outputs of about 3, whose spacing is 2.4e-7:
# random roundings of 100 terms give 2.4e-6, observed are 7.2e-7.
SUMS = 5e-6
# Logarithms of float32 energies, divided by 2 std: sums of 30 terms change an energy by up to 1e-6
# relative, and the result by a ninth of that; observed 6e-8.
LOGS = 6e-7

DESCRIPTORS = {
    "DropPath": [Descriptor(lambda: DropPath(rate=0.5, seed=3), {"branch": TOKENS})],
    "LoRADense": [Descriptor(lambda: LoRADense(5), {"inputs": TOKENS}, tolerance=SUMS)],
    "SelfAttention": [
        Descriptor(
            lambda: SelfAttention(num_heads=3, dropout=0.1), {"tokens": TOKENS}, tolerance=SUMS
        )
    ],
    "TransformerBlock": [
        Descriptor(
            lambda: TransformerBlock(
                num_heads=3,
                mlp_dim=20,
                dropout=0.1,
                attention_dropout=0.2,
                drop_path=0.3,
                layer_norm_epsilon=1e-5,
            ),
            {"tokens": TOKENS},
            tolerance=SUMS,
        )
    ],
    "Patchout": [
        Descriptor(
            lambda: Patchout(
                grid=(2, 3),
                patch_rate=0.1,
                mel_rate=0.5,
                time_rate=0.4,
                num_special_tokens=1,
                seed=2,
            ),
            {"tokens": TOKENS},
        )
    ],
    "PatchEmbedding": [
        Descriptor(
            lambda: PatchEmbedding(embed_dim=12, patch_size=(8, 4), strides=(4, 5)),
            {"spectrogram": SPECTROGRAM},
            tolerance=SUMS,
        )
    ],
    "SpecialTokens": [
        Descriptor(SpecialTokens, {"patches": TOKENS}),
        Descriptor(lambda: SpecialTokens(use_distillation_token=False), {"patches": TOKENS}),
    ],
    "PositionEmbedding": [
        Descriptor(PositionEmbedding, {"tokens": TOKENS}),
        Descriptor(lambda: PositionEmbedding(grid=(2, 3)), {"tokens": TOKENS}),
    ],
    "TokenNormalization": [
        # Like Keras's layer it does not cast its input; the output has the dtype of the input.
        Descriptor(
            lambda: TokenNormalization(epsilon=1e-5),
            {"tokens": TOKENS},
            output_dtype="float32",
            tolerance=SUMS,
        )
    ],
    "SpectrogramAugment": [
        Descriptor(make_augment, {"spectrogram": SPECTROGRAM}),
        Descriptor(
            make_augment,
            {"spectrogram": SPECTROGRAM, "seeds": SEEDS},
            call={"training": True},
            # In a graph the division by 10 becomes a multiplication: one rounding, observed 1.2e-7.
            tolerance=4e-7,
        ),
    ],
    "LogMelFilterbank": [
        Descriptor(make_frontend, {"waveform": WAVEFORM}, output_dtype="float32", tolerance=LOGS),
        Descriptor(
            lambda: make_frontend(None),
            {"waveform": WAVEFORM, "lengths": LENGTHS},
            output_dtype="float32",
            tolerance=LOGS,
        ),
        # float32 sums of 160 products in another order, some of which nearly cancel.
        Descriptor(
            lambda: make_frontend(method="conv"),
            {"waveform": WAVEFORM},
            output_dtype="float32",
            tolerance=5e-6,
        ),
    ],
    "ASTBackbone": [
        Descriptor(make_backbone, {"spectrogram": SPECTROGRAM}, tolerance=SUMS),
        Descriptor(
            lambda: make_backbone(**REDUCED),
            {"spectrogram": SPECTROGRAM},
            call={"num_tokens": 1},
            tolerance=SUMS,
        ),
        Descriptor(
            lambda: make_backbone("masked", **CHECKPOINTED),
            {"spectrogram": random(2, 31, 16), "lengths": np.array([31, 12], "int32")},
            tolerance=SUMS,
        ),
    ],
    "CausalASTBackbone": [
        Descriptor(
            lambda: CausalASTBackbone(
                **{**backbone_arguments(), "num_frames": 29}, block_columns=3
            ),
            {"spectrogram": random(2, 47, 16), "lengths": np.array([47, 25], "int32")},
            tolerance=SUMS,
        )
    ],
    "AudioClassifier": [
        Descriptor(
            lambda: make_classifier(AudioClassifier),
            {"waveform": WAVEFORM, "lengths": LENGTHS},
            output_dtype="float32",
            same_computation=True,
        ),
    ],
    "ASTClassifier": [
        Descriptor(
            make_classifier,
            {"waveform": WAVEFORM, "lengths": LENGTHS},
            output_dtype="float32",
            tolerance=SUMS,
        ),
    ],
}
CASES = {
    f"{name}-{index}": descriptor
    for name, descriptors in DESCRIPTORS.items()
    for index, descriptor in enumerate(descriptors)
}
COMPUTED = [key for key, descriptor in CASES.items() if not descriptor.same_computation]
# bfloat16 is slow on a CPU, so only the first descriptor of each class uses it. float32, the
# default policy, is covered by the other checks.
POLICY_CASES = [("mixed_float16", key) for key in COMPUTED] + [
    ("mixed_bfloat16", key) for key in COMPUTED if key.endswith("-0")
]


USES_KERAS = re.compile(r"^(import keras|from keras|from ast_keras\.(layers|models))", re.MULTILINE)


@functools.cache
def subject_of(key):
    keras.utils.set_random_seed(1)
    return contract.make_subject(CASES[key])


def package_layers():
    """Returns the names of all subclasses of `keras.Layer` in the rooms of the package."""
    package = pathlib.Path(ast_keras.__file__).parent
    for path in sorted(package.glob("*/**/*.py")):
        if USES_KERAS.search(path.read_text(encoding="utf-8")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            importlib.import_module(".".join(parts).removesuffix(".__init__"))

    def subclasses(kind):
        for one in kind.__subclasses__():
            yield one
            yield from subclasses(one)

    return {
        kind.__name__
        for kind in subclasses(keras.Layer)
        if kind.__module__.startswith("ast_keras.")
    }


def test_every_layer_has_a_descriptor():
    assert set(DESCRIPTORS) == package_layers()


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_create_their_class_and_change_every_argument(name):
    # An unchanged argument could be missing in the config without a difference in the output.
    layers = [subject_of(key).layer for key in CASES if key.partition("-")[0] == name]
    assert {type(layer).__name__ for layer in layers} == {name}
    changed = set().union(*map(contract.changed_arguments, layers))
    assert changed == set(contract.own_arguments(layers[0]))


@pytest.mark.parametrize("key", CASES)
def test_config_survives_json(key):
    contract.check_config_survives_json(subject_of(key))


@pytest.mark.parametrize("key", CASES)
def test_arguments_are_attributes_and_config(key):
    contract.check_arguments_are_attributes_and_config(subject_of(key))


@pytest.mark.parametrize("key", COMPUTED)
def test_output_is_the_same_in_every_mode(key):
    contract.check_output_is_the_same_in_every_mode(subject_of(key))


@pytest.mark.parametrize("key", COMPUTED)
def test_batch_equals_its_examples(key):
    contract.check_batch_equals_its_examples(subject_of(key))


@pytest.mark.parametrize(("policy", "key"), POLICY_CASES)
def test_output_dtype_follows_the_policy(policy, key):
    contract.check_output_dtype_follows_the_policy(CASES[key], policy)


@pytest.mark.parametrize("key", CASES)
def test_saved_model_is_bit_identical(key, tmp_path):
    contract.check_saved_model_is_bit_identical(subject_of(key), tmp_path / "model.keras")


@pytest.mark.parametrize("key", CASES)
def test_output_shape_and_dtype_are_predicted(key):
    contract.check_output_shape_and_dtype_are_predicted(subject_of(key))


# --- Each check detects what it is for ---


class BrokenLayer(keras.layers.Layer):
    """Violates the contract: loses its argument, mixes examples, depends on the mode, and so on."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = scale

    def call(self, tokens):
        scale = self.factor if tf.executing_eagerly() else 1.0
        return keras.ops.cast(scale * (tokens - keras.ops.mean(tokens)), "float64")

    def compute_output_shape(self, input_shape):
        return (1, *input_shape[1:])


@pytest.mark.parametrize(
    "check",
    [
        contract.check_arguments_are_attributes_and_config,
        contract.check_output_is_the_same_in_every_mode,
        contract.check_batch_equals_its_examples,
        contract.check_output_shape_and_dtype_are_predicted,
        lambda subject: contract.check_output_dtype_follows_the_policy(
            subject.descriptor, "mixed_float16"
        ),
    ],
)
def test_check_fails_for_a_broken_layer(check):
    subject = contract.make_subject(Descriptor(lambda: BrokenLayer(scale=2.0), {"tokens": TOKENS}))
    with pytest.raises(AssertionError):
        check(subject)

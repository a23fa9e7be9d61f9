"""Every registered layer and model keeps the contract of `tests/contract.py`."""

import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import ast_keras
from ast_keras.labels import LabelSet
from ast_keras.layers.attention import SelfAttention
from ast_keras.layers.drop_path import DropPath
from ast_keras.layers.log_mel_filterbank import LogMelFilterbank
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
from tests.contract import POLICIES, Descriptor

_RNG = np.random.default_rng(5)


def random(*shape):
    return _RNG.standard_normal(shape).astype("float32")


WAVEFORM = 0.1 * random(2, 1500)  # 21 frames of 160 samples, every 64
LENGTHS = np.array([1500, 900], "int32")
SPECTROGRAM = random(2, 24, 16)  # [batch, frames, mel]
TOKENS = random(2, 7, 12)
SEEDS = np.array([[1, 2], [3, 4]], "int32")


# Every option of the tokens, and gradient checkpointing, which excludes dropout.
THINNED = dict(patchout=0.2, patchout_mel=0.4, patchout_time=0.3, merge_tokens=2)
CHECKPOINTED = dict(
    gradient_checkpointing=True,
    dropout=0.0,
    attention_dropout=0.0,
    drop_path=0.0,
)


def backbone_arguments(padding="original", **dials):
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
    return {**arguments, **dials}


def make_backbone(padding="original", **dials):
    return ASTBackbone(**backbone_arguments(padding, **dials))


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
    )


# float32 sums of at most 100 terms in another order, on outputs near three: seen 7.2e-7.
SUMS = 2.2e-6
# Logarithms of float32 energies, divided by 2 std: seen 6e-8.
LOGS = 2e-7

DESCRIPTORS = {
    "DropPath": [Descriptor(lambda: DropPath(rate=0.5, seed=3), {"branch": TOKENS})],
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
        # As Keras's layer it does not cast its input, and its output has the input's dtype.
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
            # Compiled, the division by ten becomes a multiplication: one rounding, seen 1.2e-7.
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
        # float32 sums of 160 products in another order, among bins that nearly cancel.
        Descriptor(
            lambda: make_frontend(method="conv"),
            {"waveform": WAVEFORM},
            output_dtype="float32",
            tolerance=5e-6,
        ),
    ],
    "ASTBackbone": [
        Descriptor(make_backbone, {"spectrogram": SPECTROGRAM}, tolerance=SUMS),
        Descriptor(lambda: make_backbone(**THINNED), {"spectrogram": SPECTROGRAM}, tolerance=SUMS),
        Descriptor(
            lambda: make_backbone(**THINNED),
            {"spectrogram": SPECTROGRAM},
            call={"num_tokens": 1},
            tolerance=SUMS,
        ),
        Descriptor(
            lambda: make_backbone("masked", **CHECKPOINTED),
            {"spectrogram": random(2, 31, 16), "lengths": np.array([31, 12], "int32")},
            tolerance=SUMS,
        ),
        Descriptor(
            lambda: make_backbone("masked"),
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
            tolerance=SUMS,
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
CASES = [
    pytest.param(descriptor, id=f"{name}-{index}")
    for name, descriptors in DESCRIPTORS.items()
    for index, descriptor in enumerate(descriptors)
]


@pytest.fixture(scope="module", params=CASES)
def subject(request):
    """A descriptor and its layer, built once: the checks change neither."""
    keras.utils.set_random_seed(1)
    return request.param, contract.built(request.param)


def registered_layers():
    """Returns the package's registered layers and models by name, wherever they are defined."""
    package = pathlib.Path(ast_keras.__file__).parent
    for path in package.rglob("*.py"):
        if "register_keras_serializable" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            importlib.import_module(".".join(parts))
    return {
        name.removeprefix("ast_keras>"): value
        for name, value in keras.saving.get_custom_objects().items()
        if name.startswith("ast_keras>") and issubclass(value, keras.Layer)
    }


def test_every_registered_layer_has_a_descriptor():
    assert sorted(DESCRIPTORS) == sorted(registered_layers())


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_make_their_class_and_change_every_argument(name):
    # Else a default would stand in for an argument that the config loses.
    changed = set()
    for descriptor in DESCRIPTORS[name]:
        layer = descriptor.make()
        assert type(layer).__name__ == name
        changed |= contract.changed_arguments(layer)
    assert changed == set(contract.own_arguments(layer))


def test_config_survives_json(subject):
    contract.check_config_survives_json(*subject)


def test_arguments_are_attributes_and_config(subject):
    contract.check_arguments_are_attributes_and_config(*subject)


def test_output_is_the_same_in_every_mode(subject):
    contract.check_output_is_the_same_in_every_mode(*subject)


def test_batch_equals_its_examples(subject):
    contract.check_batch_equals_its_examples(*subject)


@pytest.mark.parametrize("descriptor", CASES)
@pytest.mark.parametrize("policy", POLICIES)
def test_output_dtype_follows_the_policy(descriptor, policy):
    contract.check_output_dtype_follows_the_policy(descriptor, policy)


def test_saved_model_is_bit_identical(subject, tmp_path):
    contract.check_saved_model_is_bit_identical(*subject, tmp_path / "model.keras")


def test_output_shape_is_predicted(subject):
    contract.check_output_shape_is_predicted(*subject)


# --- The checks themselves: each sees what it is for ---


class Forgetful(keras.layers.Layer):
    """Breaks promises: loses its argument, mixes examples, knows one mode, shape and dtype."""

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
        contract.check_output_shape_is_predicted,
        lambda d, _: contract.check_output_dtype_follows_the_policy(d, "mixed_float16"),
    ],
)
def test_check_sees_a_broken_promise(check):
    descriptor = Descriptor(lambda: Forgetful(scale=2.0), {"tokens": TOKENS})
    layer = contract.built(descriptor)
    with pytest.raises(AssertionError):
        check(descriptor, layer)

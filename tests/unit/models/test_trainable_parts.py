"""Frozen layers and weights: saved and loaded in every way, they stay frozen."""

import pathlib

import keras
import numpy as np
import pytest

from ast_keras import average_models, from_preset, save_to_preset, to_causal
from ast_keras.errors import ArgumentError
from ast_keras.models.ast_backbone import ASTBackbone
from ast_keras.models.ast_classifier import ASTClassifier
from ast_keras.models.audio_classifier import AudioClassifier
from ast_keras.models.causal_ast_backbone import CausalASTBackbone
from ast_keras.models.trainable_parts import trainable_parts, with_trainable_parts
from tests.helpers.arrays import random

SIZE = {"embed_dim": 12, "num_layers": 2, "num_heads": 3, "mlp_dim": 16}
SPECTROGRAM, CLASSES = random(2, 24, 16), np.array([0, 1])


def make_backbone():
    return ASTBackbone(**SIZE, num_frames=24, num_mel_bins=16, name="backbone")


def make_model():
    return ASTClassifier(make_backbone(), 3)


def freeze_backbone(model):
    model.backbone.trainable = False


def freeze_all_but_the_last_block(model):
    model.backbone.trainable = False
    model.backbone.blocks[-1].trainable = True


def freeze_a_block(model):
    model.backbone.blocks[0].trainable = False


def freeze_embeddings(model):
    for name in ("patches", "special_tokens", "positions"):
        model.backbone.get_layer(name).trainable = False


def freeze_attention(model):
    for block in model.backbone.blocks:
        block.attention.trainable = False


def freeze_a_projection_and_a_weight(model):
    model.backbone.blocks[1].attention.qkv.trainable = False
    model.backbone.get_layer("norm").gamma.trainable = False


def freeze_head(model):
    model.head.trainable = model.head_norm.trainable = False


def freeze_everything(model):
    model.trainable = False


FREEZERS = [
    freeze_backbone,
    freeze_all_but_the_last_block,
    freeze_a_block,
    freeze_embeddings,
    freeze_attention,
    freeze_a_projection_and_a_weight,
    freeze_head,
    freeze_everything,
]
# Weights: patches 2, tokens and positions 1 each, 12 in a block, norm 2, head 4.
TRAINED = dict(zip(FREEZERS, [4, 16, 22, 30, 26, 31, 30, 0], strict=True))


def trained(model):
    """Returns which weights train, by position, and the flag of every layer with weights."""
    ids = {id(weight) for weight in model.trainable_weights}
    layers = [layer for layer in model._flatten_layers() if layer.weights]
    return [id(weight) in ids for weight in model.weights], [layer.trainable for layer in layers]


@pytest.mark.parametrize("freeze", FREEZERS)
def test_frozen_parts_stay_frozen_in_a_copy(freeze):
    model = make_model()
    freeze(model)
    assert len(model.trainable_weights) == TRAINED[freeze]
    assert trained(keras.models.clone_model(model)) == trained(model)
    backbone = ASTBackbone.from_config(model.backbone.get_config())
    assert trained(backbone) == trained(model.backbone)


def test_frozen_parts_stay_frozen_in_files(tmp_path):
    model = make_model()
    freeze_all_but_the_last_block(model)
    freeze_a_projection_and_a_weight(model)
    model.save(tmp_path / "model.keras")
    model.backbone.save(tmp_path / "backbone.keras")
    save_to_preset(model, tmp_path / "preset")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded_backbone = keras.models.load_model(tmp_path / "backbone.keras")
    for copy in (loaded, from_preset(tmp_path / "preset")):
        assert trained(copy) == trained(model)
    for copy in (loaded_backbone, ASTBackbone.from_preset(tmp_path / "preset")):
        assert trained(copy) == trained(model.backbone)


def test_fit_after_loading_moves_only_what_trained_before(tmp_path):
    model = make_model()
    freeze_all_but_the_last_block(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
    model.train_on_batch(SPECTROGRAM, CLASSES)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    # Iterations, learning rate, and two moments for each of the 16 weights that train.
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables) == 2 + 2 * 16
    before = [weight.numpy() for weight in loaded.weights]
    loaded.train_on_batch(SPECTROGRAM, CLASSES)
    moved = [
        not np.array_equal(weight, old) for weight, old in zip(loaded.weights, before, strict=True)
    ]
    assert moved == trained(model)[0]


def test_argument_trainable_reaches_every_layer():
    backbone = ASTBackbone(**SIZE, num_frames=24, num_mel_bins=16, trainable=False)
    assert len(ASTClassifier(backbone, 3).trainable_weights) == 4
    causal = CausalASTBackbone.from_backbone(backbone, block_columns=1, past_blocks=1)
    assert len(ASTClassifier(causal, 3).trainable_weights) == 4


def test_a_new_head_trains_on_the_frozen_backbone(tmp_path):
    model = make_model()
    freeze_everything(model)
    save_to_preset(model, tmp_path / "preset")
    new_head = from_preset(tmp_path / "preset", num_classes=5)
    assert [weight.path.split("/")[-2] for weight in new_head.trainable_weights] == [
        *("head_norm", "head_norm", "head", "head")
    ]
    same_head = from_preset(tmp_path / "preset", padding="masked")
    assert same_head.trainable_weights == []
    assert to_causal(model, block_columns=1, past_blocks=1).trainable_weights == []


def test_the_average_of_frozen_and_other_models_exists(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, freeze in zip(folders, [freeze_backbone, freeze_a_block], strict=True):
        model = make_model()
        freeze(model)
        save_to_preset(model, folder)
    assert len(average_models(folders).trainable_weights) == TRAINED[freeze_a_block]


class ListEncoder(keras.Model):
    """An encoder of which Keras stores nothing, not even its own `trainable`."""

    embed_dim, num_frames, num_mel_bins, min_frames = 8, 24, 16, 1
    padding, num_pooled_tokens = "original", None

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(8), keras.layers.Dense(8)
        self.first.build((None, None, 16))
        self.second.build((None, None, 8))
        self.built = True

    @property
    def policy(self):
        return self.dtype_policy

    def call(self, spectrogram, training=None, lengths=None, num_tokens=None):
        return self.second(self.first(spectrogram))

    def pool(self, tokens, lengths=None):
        return keras.ops.mean(tokens, axis=1)

    def get_config(self):
        return {}


def test_layers_of_another_encoder_stay_frozen():
    model = AudioClassifier(ListEncoder(), 3)
    model.backbone.first.trainable = False
    with keras.saving.custom_object_scope({"ListEncoder": ListEncoder}):
        copy = AudioClassifier.from_config(model.get_config())
    assert trained(copy) == trained(model)
    assert trainable_parts(model) == {"backbone/first": False}


def test_a_model_that_trains_has_the_config_of_earlier_versions():
    model = make_model()
    assert "trainable_parts" not in model.get_config()
    assert "trainable_parts" not in model.backbone.get_config()


def test_unknown_part_is_refused():
    with pytest.raises(ArgumentError, match=r"no such part\. Did you mean .block_1.\?.*.block_2."):
        with_trainable_parts(make_backbone(), {"block_2": False})


def test_weights_files_do_not_change_what_trains(tmp_path):
    model = make_model()
    freeze_attention(model)
    path = pathlib.Path(tmp_path, "model.weights.h5")
    make_model().save_weights(path)
    model.load_weights(path)
    assert len(model.trainable_weights) == TRAINED[freeze_attention]

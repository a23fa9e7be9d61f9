"""A model of transformers: settings and logits, from spectrograms and from waveforms."""

import numpy as np
import pytest

from ast_keras.presets.loading import from_preset
from tests.helpers.paths import GOLDENS


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "hf_ast_small.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    return from_preset(GOLDENS / "hf_ast_small")


def test_settings_come_from_the_folder(model):
    backbone, frontend = model.backbone, model.frontend
    assert backbone.layer_norm_epsilon == 1e-12
    assert model.head_layer_norm_epsilon == 1e-12
    assert {layer.epsilon for layer in (model.head_norm, backbone.get_layer("norm"))} == {1e-12}
    block = backbone.get_layer("block_2")
    assert {block.attention_norm.epsilon, block.mlp_norm.epsilon} == {1e-12}
    assert (backbone.num_layers, backbone.num_heads, backbone.mlp_dim) == (3, 3, 192)
    assert (backbone.strides, backbone.grid) == ((10, 10), (12, 25))
    assert (frontend.num_frames, frontend.num_mel_bins, frontend.sample_rate) == (256, 128, 16000)
    assert (frontend.mean, frontend.std) == (-4.2677393, 4.5689974)
    assert model.labels.names == tuple(f"class {index}" for index in range(9))


def test_logits_equal_transformers(golden):
    model = from_preset(GOLDENS / "hf_ast_small", frontend=None)
    logits = model(golden["input_values"]).numpy()
    assert np.abs(golden["logits"]).max() > 0.1  # otherwise the comparison would show nothing
    # Logits of size one after some 20 float32 sums in another order than PyTorch's: seen 3.6e-7.
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=3e-6)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_logits_from_waveforms_equal_transformers(index, model, golden):
    waveform = golden[f"w{index}"]
    logits = model(waveform[None]).numpy()[0]
    # The log-mels of two float32 filterbanks differ by up to 1e-3 at very low energies, which have
    # little effect on the logits: seen 7.5e-7.
    np.testing.assert_allclose(logits, golden["logits"][index], rtol=0, atol=5e-6)

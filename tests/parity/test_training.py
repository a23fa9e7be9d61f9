"""Six training steps equal those of the authors' PyTorch code, in the trainer and in `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ast_keras import AdamL2, from_preset
from ast_keras.training.trainer import ASTTrainer
from tests.helpers.paths import GOLDENS

LOSSES = {
    "BCE": keras.losses.BinaryCrossentropy,
    "CE": keras.losses.CategoricalCrossentropy,
}
# Losses and norms are sums of thousands of float32 products (6e-8 each), whose order depends on the
# library and the processor; the differences accumulate over six steps. Seen 2.1e-7 with AVX2.
RELATIVE = 2e-6
# Logits of order one after six steps, for the same reason. Seen 9.5e-7 with AVX2.
ABSOLUTE = 1e-5


@pytest.fixture(params=["BCE", "CE"])
def golden(request):
    with np.load(GOLDENS / f"train_{request.param}.npz") as file:
        values = dict(file)
    file = GOLDENS / f"train_{request.param}_init.safetensors"
    model = from_preset(file, num_heads=3, num_frames=128, frontend=None)
    return request.param, model, values


class NormRecorder(AdamL2):
    """Records the global norm of the gradients that it applies."""

    def apply(self, grads, trainable_variables=None):
        self.last_norm.assign(tf.linalg.global_norm(grads))
        return super().apply(grads, trainable_variables)


def recording_optimizer():
    optimizer = NormRecorder(1e-3)
    optimizer.last_norm = tf.Variable(0.0)
    return optimizer


def check(model, losses, norms, values):
    np.testing.assert_allclose(losses, values["loss"], rtol=RELATIVE)
    np.testing.assert_allclose(norms, values["grad_norm"], rtol=RELATIVE)
    np.testing.assert_allclose(model(values["x"][0]), values["final_logits"], atol=ABSOLUTE)


def test_trainer_repeats_the_authors_losses(golden):
    kind, model, values = golden
    batch_size = values["x"].shape[1]
    dataset = tf.data.Dataset.from_tensor_slices(
        {
            "waveform": values["x"],
            "target": values["y"],
            "lengths": np.zeros((6, batch_size), np.int32),
            "weight": np.full((6, batch_size), 1 / batch_size, np.float32),
            "seeds": np.zeros((6, batch_size, 2), np.int32),
        }
    )
    optimizer = recording_optimizer()
    loss = LOSSES[kind](from_logits=True, reduction=None)
    trainer = ASTTrainer(model, optimizer, loss, dataset)
    losses, norms = [], []
    for _ in range(6):
        losses.append(trainer.train(tf.constant(1))["loss"])
        norms.append(optimizer.last_norm.numpy())
    check(model, losses, norms, values)


def test_fit_repeats_the_authors_losses(golden):
    kind, model, values = golden
    optimizer = recording_optimizer()
    model.compile(optimizer, LOSSES[kind](from_logits=True))
    losses, norms = [], []
    for x, y in zip(values["x"], values["y"], strict=True):
        losses += model.fit(x, y, batch_size=len(x), verbose=0).history["loss"]
        norms.append(optimizer.last_norm.numpy())
    check(model, losses, norms, values)

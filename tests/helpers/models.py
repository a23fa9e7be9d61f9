"""Tiny models, each built once for all tests and loaded from disk after that.

Building and randomising a model takes seconds, loading a saved one a tenth of that.
"""

import functools
import json
import pathlib
import tempfile


def tiny_classifier(**settings):
    """Returns `from_preset("ast_test", **settings)` with random weights, the same every time.

    Args:
        settings: Arguments of `from_preset`; left out, 3 classes and 98 frames (one second).
    """
    from ast_keras import from_preset

    return from_preset(saved_classifier(**settings))


def saved_classifier(**settings):
    """Returns the folder of a saved `tiny_classifier`, which tests must not change.

    Args:
        settings: Arguments of `from_preset`; without them, 3 classes and 98 frames (one second).
    """
    return _saved(json.dumps({"num_classes": 3, "num_frames": 98, **settings}))


@functools.cache
def _saved(settings):
    import keras

    from ast_keras import from_preset, save_to_preset

    keras.utils.set_random_seed(1)  # the same weights for every padding mode and dtype
    model = from_preset("ast_test", **json.loads(settings))
    rng = keras.random.SeedGenerator(5)
    for weight in model.trainable_weights:  # heads and biases that tell sounds apart
        weight.assign(weight + 0.05 * keras.random.normal(weight.shape, seed=rng))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ast_keras_test_"), "model")
    save_to_preset(model, folder)
    return folder


def attentive_causal_classifier(past_blocks=2, **settings):
    """Returns a causal model whose attention is far from uniform, so that masks have an effect.

    Args:
        past_blocks: Number of earlier blocks that a token attends to.
        settings: Arguments of `from_preset`.
    """
    import keras

    from ast_keras import from_preset, to_causal

    keras.utils.set_random_seed(1)
    model = from_preset("ast_test", num_classes=5, num_frames=310, **settings)
    for weight in model.backbone.weights:
        if weight.path.endswith(("qkv/kernel", "positions/embedding", "tokens")):
            weight.assign(8 * weight)
    model.head.kernel.assign(50 * model.head.kernel)
    return to_causal(model, block_columns=5, past_blocks=past_blocks)


def block_logits(model, spectrogram):
    """Returns the logits of every block of a causal model, `[batch, blocks, classes]`."""
    tokens = model.backbone(spectrogram)
    return model.classify(model.backbone.pool_blocks(tokens)).numpy()


def expressive_classifier(**settings):
    """Returns a `tiny_classifier` whose scores differ much between sounds.

    Attention, positions and head are scaled up. Without that, small random weights make a
    transformer whose output hardly depends on its input, and errors would go unnoticed.

    Args:
        settings: Arguments of `tiny_classifier`.
    """
    model = tiny_classifier(**settings)
    for weight in model.backbone.weights:
        if weight.path.endswith(("qkv/kernel", "positions/embedding")):
            weight.assign(8 * weight)
    model.head.kernel.assign(20 * model.head.kernel)
    return model

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

    return from_preset(_saved(json.dumps({"num_classes": 3, "num_frames": 98, **settings})))


@functools.cache
def _saved(settings):
    import keras

    from ast_keras import from_preset, save_to_preset

    model = from_preset("ast_test", **json.loads(settings))
    rng = keras.random.SeedGenerator(5)
    for weight in model.trainable_weights:  # heads and biases that tell sounds apart
        weight.assign(weight + 0.05 * keras.random.normal(weight.shape, seed=rng))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ast_keras_test_"), "model")
    save_to_preset(model, folder)
    return folder

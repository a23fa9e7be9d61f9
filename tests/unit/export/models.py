"""The classifier of the export tests."""

import keras
import numpy as np

from ast_keras import from_preset
from ast_keras.labels import LabelSet

LABELS = LabelSet(("dog", "cow", "hen", "cat", "fox"))
# float32 sums of a few hundred terms in another order, filterbank included, for scores; the scaled
# head multiplies the differences. Seen 1e-6 with AVX2, and 1.1e-5 for streams with SSE4.1.
EXACT = 3e-5


def round_to_16_bits(waveform):
    """Returns the waveform as it is decoded from a WAV file of 16 bits."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.float32) / 32768


def labelled_classifier(**settings):
    """Returns a tiny classifier of five labelled classes whose scores differ between sounds.

    Args:
        settings: Arguments of `from_preset`.
    """
    keras.utils.set_random_seed(5)
    model = from_preset("ast_test", labels=LABELS, **{"num_frames": 98, **settings})
    # The scores of a random head are nearly the same for every sound.
    model.head.kernel.assign(60 * model.head.kernel)
    return model

"""Where tests find the checkout, stored values and real recordings."""

import os
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
# A folder with esc10/, sc9/, sc30_tiny/ and decoder_samples/, or None.
DATA = os.environ.get("AST_KERAS_DATA")

"""Builders for tensorflow-datasets: sounds as ArrayRecord files, which `data.kind=built` reads.

    tfds build ast_keras/data/builders/esc50 --data_dir FOLDER
    tfds build ast_keras/data/builders/speech_commands_v2 --data_dir FOLDER
    tfds build ast_keras/data/builders/audioset --data_dir FOLDER --manual_dir CLIPS
    python -m ast_keras.train --recipe esc50 --set data.kind=built --set data.path=FOLDER/esc50

With `--manual_dir` the first two are built from a local copy, else they are downloaded. Elsewhere
than in a checkout: `tfds build esc50 --imports ast_keras.data.builders.esc50`.

A record holds the clip's file unchanged, as bytes (`ast_keras.audio.load_audio` decodes them), so
that not a sample differs; records are not compressed a second time, which would double the time to
read a WAV file for a quarter of its size. Beside them lies an index of names and labels.
"""

import pathlib
import sys

# `tfds build PATH` imports this folder as "builders", also where ast_keras is not installed.
if __name__ == "builders":
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[3]))

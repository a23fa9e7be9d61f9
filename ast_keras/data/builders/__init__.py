"""Builders for tensorflow-datasets: data sets as ArrayRecord files, which `data.kind=built` reads.

    tfds build ast_keras/data/builders/esc50 --data_dir FOLDER
    tfds build ast_keras/data/builders/speech_commands_v2 --data_dir FOLDER
    tfds build ast_keras/data/builders/audioset --data_dir FOLDER --manual_dir CLIPS
    python -m ast_keras.train --recipe esc50 --set data.kind=built --set data.path=FOLDER/esc50

With `--manual_dir` the first two are built from a local copy, otherwise they are downloaded.
Outside of a checkout: `tfds build esc50 --imports ast_keras.data.builders.esc50`.

| module | holds |
|---|---|
| `esc50`, `speech_commands_v2`, `audioset` | a builder each |
| `sound_builder` | `SoundBuilder`, their base class |
| `audioset_beam` | the Apache Beam pipeline of AudioSet |

A record holds the unchanged bytes of an audio file (`ast_keras.audio.load_audio` decodes them), so
that every sample is the same. Records are not compressed again, which would double the time to
read a WAV file and save a quarter of its size. Paths and labels are in an index next to the
records.
"""

import pathlib
import sys

# `tfds build PATH` imports this folder as "builders", also where ast_keras is not installed.
if __name__ == "builders":
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[3]))

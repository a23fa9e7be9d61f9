"""Sources of a live stream: a file in real time, the microphone."""

import time

import numpy as np
import pytest
import soundfile

from ast_keras.audio import load_audio
from ast_keras.commands.streams import file_stream, microphone_stream
from ast_keras.errors import CommandError
from tests.helpers.audio import RATE, noise


@pytest.mark.parametrize("fast", [False, True])
def test_file_is_read_in_real_time_unless_fast(tmp_path, fast):
    soundfile.write(tmp_path / "a.wav", noise(RATE), RATE)
    began = time.monotonic()
    pieces = list(file_stream(str(tmp_path / "a.wav"), RATE, fast))
    assert len(pieces) == 10
    if not fast:
        assert time.monotonic() - began > 0.99
    np.testing.assert_array_equal(np.concatenate(pieces), load_audio(tmp_path / "a.wav"))


def test_microphone_names_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CommandError) as error:
        next(microphone_stream(RATE))
    assert str(error.value) == (
        "The microphone needs sounddevice: pip install sounddevice. Received: "
        "PortAudio library not found"
    )

"""WAV files decoded in a graph: the samples of `load_audio`, or one line with what was received."""

import struct
import warnings

import numpy as np
import pytest
import tensorflow as tf

from ast_keras.audio import load_audio
from ast_keras.audio.encoding import flac_bytes
from ast_keras.errors import AudioWarning
from ast_keras.export.wav_decoding import decode_wav
from tests.helpers.audio import RATE, encode, noise

SAMPLES = (noise((2000, 2)) * 32768).astype("<i2")
AUDIO = SAMPLES.tobytes()
TAG_GUID = bytes.fromhex("000000001000800000aa00389b71")
B_FORMAT_GUID = bytes.fromhex("00002107d3118644c8c1ca000000")


@pytest.fixture(scope="module")
def decode():
    signature = [tf.TensorSpec((), tf.string)]
    graph = tf.function(lambda file: decode_wav(file, RATE), input_signature=signature)
    return lambda content: graph(tf.constant(content)).numpy()


def chunk(name, content, size=None, order="<"):
    stated = len(content) if size is None else size
    return name + struct.pack(order + "I", stated) + content + b"\0" * (len(content) % 2)


def plain(tag=1, channels=2, rate=RATE, bits=16, order="<"):
    block = channels * bits // 8
    return struct.pack(order + "HHIIHH", tag, channels, rate, rate * block, block, bits)


def extensible(tag=1, guid=TAG_GUID, valid_bits=16, mask=3, **fields):
    extension = struct.pack("<HHIH", 22, valid_bits, mask, tag) + guid
    return plain(0xFFFE, **fields) + extension


def wav(*chunks, magic=b"RIFF", size=None, order="<"):
    return chunk(magic, b"WAVE" + b"".join(chunks), size, order)


DATA = chunk(b"data", AUDIO)
PLAIN, EXTENSIBLE = chunk(b"fmt ", plain()), chunk(b"fmt ", extensible())
LIST = chunk(b"LIST", b"INFO" + b"x" * 3001)
LARGE = struct.pack("<QQQI", 2**33, len(AUDIO), 2000, 0)
BIG = wav(
    chunk(b"fmt ", plain(order=">"), order=">"),
    chunk(b"data", SAMPLES.astype(">i2").tobytes(), order=">"),
    magic=b"RIFX",
    order=">",
)
ACCEPTED = {
    "plain": wav(PLAIN, DATA),
    "extensible": wav(EXTENSIBLE, DATA),
    "extensible, mono": wav(chunk(b"fmt ", extensible(channels=1, mask=4)), DATA),
    "extensible, 8 channels": wav(chunk(b"fmt ", extensible(channels=8, mask=255)), DATA),
    "extensible, 12 valid bits": wav(chunk(b"fmt ", extensible(valid_bits=12)), DATA),
    "B-format": wav(chunk(b"fmt ", extensible(guid=B_FORMAT_GUID, mask=0)), DATA),
    "fmt of 18 bytes": wav(chunk(b"fmt ", plain() + b"\0\0"), DATA),
    "chunk of odd size": wav(chunk(b"LIST", b"INFOabc"), EXTENSIBLE, chunk(b"abcd", b"x"), DATA),
    "chunk of size 0": wav(EXTENSIBLE, chunk(b"JUNK", b""), DATA),
    "long chunk": wav(chunk(b"JUNK", bytes(80_001)), EXTENSIBLE, DATA),
    "chunk after": wav(EXTENSIBLE, DATA, LIST),
    "tag after": wav(EXTENSIBLE, DATA, b"ID3\3" + b"\1" * 2000),
    "zeros after": wav(EXTENSIBLE, DATA, bytes(4000)),
    "stated 0": wav(EXTENSIBLE, chunk(b"data", AUDIO, 0), size=0),
    "streamed": wav(EXTENSIBLE, chunk(b"data", AUDIO, 0xFFFFFFFF), size=0xFFFFFFFF),
    "streamed, signed": wav(EXTENSIBLE, chunk(b"data", AUDIO, 0x7FFFFFFF)),
    "streamed, odd": wav(EXTENSIBLE, chunk(b"data", AUDIO + b"\1", 0xFFFFFFFF)),
    "cut short": wav(EXTENSIBLE, DATA)[:-1001],
    "interrupted": wav(EXTENSIBLE, chunk(b"data", AUDIO, 400)),
    "RF64": wav(
        chunk(b"ds64", LARGE), EXTENSIBLE, chunk(b"data", AUDIO, 2**32 - 1), LIST, magic=b"RF64"
    ),
    "RIFX": BIG,
    "written by libsndfile": encode(noise((2000, 2)), container="WAVEX"),
}
REFUSED = {
    "a WAV file of format tag 1 (PCM), 24 bits, 2": wav(chunk(b"fmt ", plain(bits=24)), DATA),
    "tag 1 (PCM), extensible header, 8 bits": wav(chunk(b"fmt ", extensible(bits=8)), DATA),
    "tag 3 (IEEE float), 32 bits, 1": wav(chunk(b"fmt ", plain(3, 1, bits=32)), DATA),
    "tag 6 (A-law), extensible header, 8 bits": wav(chunk(b"fmt ", extensible(6, bits=8)), DATA),
    "tag 65534, extensible": wav(chunk(b"fmt ", extensible(guid=bytes(14))), DATA),
    "tag 99, 16 bits": wav(chunk(b"fmt ", plain(99)), DATA),
    "16 bits, 0 channel(s)": wav(chunk(b"fmt ", plain(channels=0)), DATA),
    "a WAV file without a data chunk": wav(EXTENSIBLE, LIST),
    "a WAV file without a format chunk": wav(DATA, EXTENSIBLE),
    "have samples: leave it out. Received: a WAV": wav(EXTENSIBLE, chunk(b"data", b""), LIST),
    "sampled at 16000 Hz: resample it before sending it. Received: sample_rate=8000": wav(
        chunk(b"fmt ", extensible(rate=8000)), DATA
    ),
    "begin with fLaC": flac_bytes(noise(100), RATE),
    "begin with RIFF AVI ": b"RIFF\0\0\0\0AVI LIST",
    "4 bytes that begin with 255 251 144 0": b"\xff\xfb\x90\0",
    "an empty file": b"",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_samples_equal_those_of_load_audio(name, decode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        expected = load_audio(ACCEPTED[name], RATE)
    assert len(expected) >= 500
    # Sums of up to eight channels in another order.
    np.testing.assert_allclose(decode(ACCEPTED[name]), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("received", REFUSED)
def test_other_files_are_refused_in_one_line_that_names_what_was_received(received, decode):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(REFUSED[received])
    line = next(line for line in caught.value.message.splitlines() if "The audio must" in line)
    assert received in line
    assert "Received: " in line

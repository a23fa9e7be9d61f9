"""Decoding of 16-bit PCM WAV files in a TensorFlow graph, as a model server needs it.

`tf.audio.decode_wav` refuses WAVE_FORMAT_EXTENSIBLE, RF64 and the sizes that a stream or an
interrupted recorder leaves. `decode_wav` gives the samples of `ast_keras.audio.load_audio` for all
of these. It works with ordinary TensorFlow operators, so a server needs no library and no Python.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from ast_keras.audio.pcm_headers import CHUNKS, MAX_SIZE, PADDING_BYTES, TRAILERS

_PCM, _EXTENSIBLE = 1, 0xFFFE
_TAGS = {
    _PCM: "PCM",
    2: "Microsoft ADPCM",
    3: "IEEE float",
    6: "A-law",
    7: "mu-law",
    17: "IMA ADPCM",
    49: "GSM 6.10",
    85: "MP3",
}
# Second to fourth field of the identifiers that hold a format tag: Microsoft's, and B-format's.
_SUBFORMATS = {
    (0, 0x10): b"\x80\x00\x00\xaa\x00\x38\x9b\x71",
    (0x0721, 0x11D3): b"\x86\x44\xc8\xc1\xca\x00\x00\x00",
}
_RULE = "The audio must be a 16-bit PCM WAV file: convert it before sending it. Received: "


class _Chunks(NamedTuple):
    """Positions of the contents of chunks, -1 for those not found, and where the search goes on."""

    position: tf.Tensor
    format: tf.Tensor
    large_sizes: tf.Tensor  # "ds64" of RF64
    data: tf.Tensor


class _Reader:
    """Numbers and names at positions of a file; beyond its end all bytes are 0."""

    def __init__(self, file: tf.Tensor) -> None:
        self.file = file
        self.size = tf.cast(tf.strings.length(file), tf.int64)
        self.is_big_endian = tf.equal(self.text(0, 4), b"RIFX")

    def text(self, position, length):
        start = tf.maximum(tf.minimum(self.size, position), 0)
        return tf.strings.substr(self.file, start, tf.cast(length, tf.int64))

    def octets(self, position, length):
        text = self.text(position, length)
        return tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=length), tf.int64)

    def number(self, position, length):
        octets = self.octets(position, length)
        octets = tf.where(self.is_big_endian, octets[::-1], octets)
        return tf.reduce_sum(octets * [256**index for index in range(length)])


@tf.autograph.experimental.do_not_convert  # nothing to convert, which takes seconds
def decode_wav(file: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Decodes a 16-bit PCM WAV file to the mean of its channels.

    RIFF, RIFX and RF64 are read, with a plain or an extensible header and any chunks before the
    audio. If the header states no size, more than there is (a stream), or too little (a recorder
    was interrupted), all of the audio is used.

    Args:
        file: String scalar, the content of the file.
        sample_rate: Required sample rate in Hz.

    Returns:
        float32 `[samples]` in [-1, 1), as from `load_audio`.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if the file is of another format or rate or
            has no samples. The message is one line that names what was received.

    Example:

    >>> from ast_keras.audio.encoding import wav_bytes
    >>> decode_wav(tf.constant(wav_bytes([0.5, -0.25], 16_000)), 16_000).numpy().tolist()
    [0.5, -0.25]
    """
    reader = _Reader(file)
    chunks = _find_chunks(reader)
    channels, is_pcm_16, description = _read_format(reader, tf.maximum(chunks.format, 0))
    rate = reader.number(chunks.format + 4, 4)
    frame_bytes = 2 * tf.maximum(channels, 1)
    num_bytes = _count_bytes(reader, chunks) // frame_bytes * frame_bytes
    problem = _first_problem(
        (tf.equal(reader.size, 0), _RULE + "an empty file"),
        (~_is_wave(reader), tf.strings.join([_RULE, _describe_start(reader)])),
        (chunks.data < 0, _RULE + "a WAV file without a data chunk"),
        (chunks.format < 0, _RULE + "a WAV file without a format chunk before its data"),
        (~is_pcm_16, tf.strings.join([_RULE, description])),
        (
            tf.not_equal(rate, sample_rate),
            tf.strings.join(
                [
                    f"The audio must be sampled at {sample_rate} Hz: resample it before sending "
                    "it. Received: sample_rate=",
                    tf.strings.as_string(rate),
                ]
            ),
        ),
        (num_bytes < 1, "The audio must have samples: leave it out. Received: a WAV file of none"),
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
        audio = tf.strings.substr(file, tf.maximum(chunks.data, 0), num_bytes)
    integers = tf.cond(
        reader.is_big_endian,
        lambda: tf.io.decode_raw(audio, tf.int16, little_endian=False),
        lambda: tf.io.decode_raw(audio, tf.int16),
    )
    samples = tf.cast(integers, tf.float32) / 32768.0
    return tf.reduce_mean(tf.reshape(samples, [-1, channels]), axis=1)


def _find_chunks(reader: _Reader) -> _Chunks:
    """Returns the positions of the chunks up to the first "data"."""
    unknown = tf.constant(-1, tf.int64)

    def is_before_data(chunks):
        return (chunks.data < 0) & (chunks.position + 8 <= reader.size)

    def read_chunk(chunks):
        name = reader.text(chunks.position, 4)
        start, size = chunks.position + 8, reader.number(chunks.position + 4, 4)

        def start_if(expected, found):
            return tf.where(tf.equal(name, expected), start, found)

        return (
            _Chunks(
                start + size + size % 2,
                start_if(b"fmt ", chunks.format),
                start_if(b"ds64", chunks.large_sizes),
                start_if(b"data", chunks.data),
            ),
        )

    first = _Chunks(tf.constant(12, tf.int64), unknown, unknown, unknown)
    return tf.while_loop(is_before_data, read_chunk, [first])[0]


def _read_format(reader: _Reader, start: tf.Tensor):
    """Returns the number of channels, whether they are 16-bit PCM, and a description."""
    tag, channels = reader.number(start, 2), reader.number(start + 2, 2)
    bits = reader.number(start + 14, 2)
    is_extensible = tf.equal(tag, _EXTENSIBLE)
    middle = [reader.number(start + 28, 2), reader.number(start + 30, 2)]
    end = reader.text(start + 32, 8)
    is_known = tf.reduce_any(
        [
            tf.reduce_all(tf.equal(middle, fields)) & tf.equal(end, last)
            for fields, last in _SUBFORMATS.items()
        ]
    )
    tag = tf.where(is_extensible & is_known, reader.number(start + 24, 4), tag)
    names = [f" ({name})" for name in _TAGS.values()]
    description = tf.strings.join(
        [
            "a WAV file of format tag ",
            tf.strings.as_string(tag),
            tf.strings.reduce_join(tf.where(tf.equal(tag, list(_TAGS)), names, "")),
            tf.where(is_extensible, ", extensible header, ", ", "),
            tf.strings.as_string(bits),
            " bits, ",
            tf.strings.as_string(channels),
            " channel(s)",
        ]
    )
    # As in libsndfile: up to 16 valid bits are stored in 16, and the stated frame size is ignored.
    is_pcm_16 = tf.equal(tag, _PCM) & (channels > 0) & (bits > 8) & (bits <= 16)
    return channels, is_pcm_16, description


def _count_bytes(reader: _Reader, chunks: _Chunks):
    """Returns the bytes of audio that are there, whatever the header states."""
    stated = reader.number(chunks.data - 4, 4)
    is_large = (chunks.large_sizes >= 0) & (tf.equal(stated, 0) | tf.equal(stated, MAX_SIZE))
    stated = tf.where(is_large, reader.number(chunks.large_sizes + 8, 8), stated)
    found = reader.size - chunks.data
    end = chunks.data + stated
    is_too_large = (stated < 0) | (stated > found)  # below 0: 2**63 or more
    return tf.where(is_too_large | _is_audio(reader, end, stated), found, stated)


def _is_audio(reader: _Reader, end, stated):
    """Returns whether audio follows its stated end: the rule of `ast_keras.audio.pcm_headers`."""
    start = tf.maximum(end + end % 2, 0)
    rest, is_unstated = reader.size - end, tf.equal(stated, 0)
    follows = (rest >= PADDING_BYTES) | (is_unstated & (rest > 0))
    name, length = reader.text(start, 4), reader.number(start + 4, 4)
    octets = reader.octets(start, 4)
    is_name = tf.reduce_all((octets >= 32) & (octets < 127))
    is_chunk = tf.reduce_any(tf.equal(name, list(CHUNKS))) | (end + 7 + length <= reader.size)
    is_trailer = [tf.equal(reader.text(start, len(tag)), tag) for tag in TRAILERS]
    is_other = (is_name & is_chunk) | tf.reduce_any(is_trailer) | (start + 8 > reader.size)
    return follows & ~is_other & (is_unstated | _has_content(reader, start))


def _has_content(reader: _Reader, position):
    rest = tf.io.decode_raw(reader.text(position, reader.size), tf.uint8)
    return tf.reduce_any(tf.not_equal(rest, 0))


def _is_wave(reader: _Reader):
    magic = tf.reduce_any(tf.equal(reader.text(0, 4), [b"RIFF", b"RIFX", b"RF64"]))
    return magic & tf.equal(reader.text(8, 4), b"WAVE")


def _describe_start(reader: _Reader):
    """Returns the size of a file and its first bytes, as text if they are text."""
    start, form = reader.text(0, 4), reader.text(8, 4)
    octets = tf.strings.as_string(tf.io.decode_raw(start, tf.uint8))
    name = tf.where(tf.equal(start, b"RIFF"), tf.strings.join([start, form], " "), start)
    shown = tf.where(
        tf.strings.regex_full_match(name, "[ -~]+"),
        name,
        tf.strings.reduce_join(octets, separator=" "),
    )
    size = tf.strings.as_string(reader.size)
    return tf.strings.join([size, " bytes that begin with ", shown])


def _first_problem(*cases):
    """Returns the message of the first condition that is true, or an empty string."""
    message = tf.constant("")
    for condition, text in reversed(cases):
        message = tf.where(condition, text, message)
    return message

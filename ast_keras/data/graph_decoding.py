"""Decoding of audio files inside a TensorFlow graph, for pipelines of `tf.data`."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ast_keras.audio.decoding import intact_info
from ast_keras.audio.loading import LOUD_PEAK, check_rate, convert_frames, load_audio
from ast_keras.audio.opening import source_name
from ast_keras.errors import ArgumentError, AudioError, AudioWarning

Array = npt.NDArray[Any]

# The longest path of Linux. Paths contain no zero byte, headers of audio files do.
_MAX_PATH_BYTES = 4096
# tensorflow-io allocates what a header states.
_MAX_SAMPLES = 2**31
# First bytes of WAV, FLAC, Ogg and MP3.
_MAGICS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff")
# What tensorflow-io 0.37 decodes correctly: its function and dtype for each codec. Of 32-bit
# integers in WAV it returns the bits as floats, and on Ogg without Vorbis it may crash.
_DECODERS: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("WAV", "PCM_U8"): ("decode_wav", {"dtype": "uint8"}),
    ("WAV", "PCM_16"): ("decode_wav", {"dtype": "int16"}),
    ("WAV", "PCM_24"): ("decode_wav", {"dtype": "int32"}),
    ("WAV", "FLOAT"): ("decode_wav", {"dtype": "float32"}),
    ("FLAC", "PCM_S8"): ("decode_flac", {"dtype": "uint8"}),
    ("FLAC", "PCM_16"): ("decode_flac", {"dtype": "int16"}),
    ("FLAC", "PCM_24"): ("decode_flac", {"dtype": "int32"}),
    ("MP3", "MPEG_LAYER_III"): ("decode_mp3", {}),
    ("OGG", "VORBIS"): ("decode_vorbis", {}),
}


def decode_audio(path_or_bytes: Any, sample_rate: int = 16_000) -> Any:
    """Decodes an audio file within a TensorFlow graph, as in `tf.data.Dataset.map`.

    The samples are those of `load_audio`: equal for WAV and FLAC; those of MP3 and Ogg Vorbis
    differ by at most 1e-5 of full scale, a third of a step of 16 bits.

    Intact WAV, FLAC, MP3 and Ogg Vorbis files are decoded by tensorflow-io where its library loads.
    `load_audio` decodes everything else, such as damaged files, MP3 that does not state its length
    and FLAC without a checksum, and all files where that library does not load. It is the faster of
    the two (`benchmarks/decoding.py`). Files are opened and resampled in Python, in the
    process that made the graph, so the graph cannot be saved. Use `export_saved_model` for a model
    that takes encoded bytes.

        files = tf.data.Dataset.from_tensor_slices(paths)
        waveforms = files.map(ast_keras.decode_audio, num_parallel_calls=tf.data.AUTOTUNE)

    Args:
        path_or_bytes: Path of a file, or the bytes of a whole file: a string tensor `[]`, str,
            bytes or path. Text of 1 to 4,096 bytes without a zero byte is a path.
        sample_rate: Sample rate of the result in Hz.

    Returns:
        A float32 tensor `[samples]`, mono, with a full scale of 1.

    Raises:
        ArgumentError: If `path_or_bytes` is not a single string.
        AudioError: If the audio cannot be decoded (see `load_audio`). In a graph TensorFlow raises
            `tf.errors.InvalidArgumentError` instead, whose first line is the same message.

    Warns:
        AudioWarning: As `load_audio` does.

    Example:

    >>> import io, soundfile, tensorflow as tf
    >>> file = io.BytesIO()
    >>> soundfile.write(file, np.zeros((44_100, 2)), 44_100, format="FLAC")
    >>> dataset = tf.data.Dataset.from_tensors(file.getvalue()).map(decode_audio)
    >>> [waveform.shape for waveform in dataset]
    [TensorShape([16000])]
    """
    import tensorflow as tf

    if isinstance(path_or_bytes, os.PathLike):
        path_or_bytes = os.fspath(path_or_bytes)
    text = tf.convert_to_tensor(path_or_bytes)
    if text.dtype != tf.string or text.shape.rank not in (None, 0):
        raise ArgumentError(
            "decode_audio takes one path or the bytes of one file: map it before batching. "
            f"Received: dtype={text.dtype.name}, shape={text.shape}"
        )
    check_rate("sample_rate", sample_rate, "<tensor>")
    decode = functools.partial(_decode, sample_rate=sample_rate, tfio=_tensorflow_io())
    if tf.executing_eagerly():
        return tf.constant(decode(text.numpy()))
    decode = tf.autograph.experimental.do_not_convert(functools.partial(_decode_node, decode))
    samples = tf.numpy_function(decode, [text], tf.float32)
    samples.set_shape([None])
    return samples


@functools.cache
def _tensorflow_io() -> Any:
    """Returns tensorflow-io's decoders, or None if its library is missing or does not load."""
    import tensorflow as tf

    try:
        import tensorflow_io as tfio

        empty_wav = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data"
        tfio.audio.decode_wav(empty_wav + bytes(4), dtype="int16")  # loads the library
    except (ImportError, NotImplementedError, tf.errors.OpError):
        return None
    return tfio.audio


def _decode_node(decode: Callable[[bytes], Array], text: bytes) -> Array:
    try:
        return decode(text)
    except AudioError as error:  # TensorFlow also shows its causes, in fifty lines
        raise error.with_traceback(None) from None


def _decode(text: bytes, sample_rate: int, tfio: Any) -> Array:
    is_path = 0 < len(text) <= _MAX_PATH_BYTES and b"\0" not in text
    source = os.fsdecode(text) if is_path else text
    decoded = None if tfio is None else _decode_with_tensorflow_io(source, tfio)
    if decoded is None:
        return load_audio(source, sample_rate)
    frames, rate = decoded
    notes: list[str] = []
    samples = convert_frames(frames, rate, sample_rate, "mix", source_name(source), notes)
    for note in notes:
        warnings.warn(note, AudioWarning, stacklevel=2)
    return samples


def _decode_with_tensorflow_io(source: str | bytes, tfio: Any) -> tuple[Array, int] | None:
    """Returns the frames and rate of a file; None if it is left to `load_audio`."""
    import tensorflow as tf

    try:
        contents = source if isinstance(source, bytes) else _read_candidate(source)
        info = intact_info(source) if contents.startswith(_MAGICS) else None
        if info is None or not 0 < (info.frames or 0) * info.channels < _MAX_SAMPLES:
            return None
        container = "WAV" if info.container == "WAVEX" else info.container
        if (container, info.codec) not in _DECODERS:
            return None
        function, dtype = _DECODERS[container, info.codec]
        frames = getattr(tfio, function)(contents, **dtype).numpy()
    except (AudioError, OSError, tf.errors.OpError):
        return None
    if frames.shape != (info.frames, info.channels):
        return None
    if container == "FLAC" and not _has_checksum(frames, contents):
        return None
    if container == "MP3" and np.abs(frames).max() > LOUD_PEAK:  # a sign of damage
        return None
    return frames, info.sample_rate


def _read_candidate(path: str) -> bytes:
    """Returns the bytes of a file; the first four if it is none of those that are handled here."""
    with open(path, "rb") as file:
        head = file.read(4)
        return head + file.read() if head.startswith(_MAGICS) else head


def _has_checksum(frames: Array, contents: bytes) -> bool:
    """Returns whether decoded FLAC has the checksum (MD5) of its header.

    tensorflow-io reports damaged frames on the terminal only.
    """
    if contents[:4] != b"fLaC":  # a tag comes first
        return False
    if frames.dtype == np.uint8:
        data = (frames ^ np.uint8(128)).tobytes()
    elif frames.dtype == np.int32:  # 24 bits, in the upper bytes
        data = frames.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    else:
        data = frames.astype("<i2", copy=False).tobytes()
    return hashlib.md5(data, usedforsecurity=False).digest() == contents[26:42]

"""`decode_audio` gives the samples and errors of `load_audio`, with tensorflow-io and without."""

import pathlib

import numpy as np
import pytest

from ast_keras import decode_audio, load_audio
from ast_keras.data import graph_decoding
from ast_keras.errors import ArgumentError, AudioError, AudioWarning
from tests.helpers.audio import encode, noise

tf = pytest.importorskip("tensorflow")

# Container, codec, and whether tensorflow-io decodes it.
LOSSLESS = [
    ("WAV", "PCM_U8", True),
    ("WAV", "PCM_16", True),
    ("WAV", "PCM_24", True),
    ("WAV", "PCM_32", False),
    ("WAV", "FLOAT", True),
    ("WAVEX", "PCM_16", True),
    ("WAVEX", "PCM_24", True),
    ("RF64", "PCM_16", False),
    ("FLAC", "PCM_S8", True),
    ("FLAC", "PCM_16", True),
    ("FLAC", "PCM_24", True),
    ("AIFF", "PCM_16", False),
]
LOSSY = [("MP3", "MPEG_LAYER_III", True), ("OGG", "VORBIS", True), ("OGG", "OPUS", False)]
BOUND = 1e-5  # stated by the docstring; 1.6e-6 was measured, on noise that overshoots full scale


@pytest.fixture(params=["tensorflow-io", "load_audio"])
def route(request, monkeypatch):
    if request.param == "load_audio":
        monkeypatch.setattr(graph_decoding, "_tensorflow_io", lambda: None)
    elif graph_decoding._tensorflow_io() is None:
        pytest.skip(reason="tensorflow-io is not installed, or its library does not load")
    return request.param


@pytest.fixture
def loaded(monkeypatch):
    """The sources that `decode_audio` leaves to `load_audio`."""
    sources = []

    def load(source, sample_rate):
        sources.append(source)
        return load_audio(source, sample_rate)

    monkeypatch.setattr(graph_decoding, "load_audio", load)
    return sources


def decode_in_graph(sources, **options):
    dataset = tf.data.Dataset.from_tensor_slices(sources)
    dataset = dataset.map(lambda source: decode_audio(source, **options), num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec([None], tf.float32)
    return [waveform.numpy() for waveform in dataset]


@pytest.mark.parametrize(("container", "codec", "is_native"), LOSSLESS + LOSSY)
def test_samples_are_those_of_load_audio(container, codec, is_native, route, loaded):
    files = [
        encode(noise(shape), rate, container, codec)
        for shape, rate in [((3_000,), 16_000), ((3_000, 2), 24_000)]
    ]
    bound = BOUND if (container, codec, is_native) in LOSSY and is_native else 0
    for data, waveform in zip(files, decode_in_graph(files), strict=True):
        np.testing.assert_allclose(waveform, load_audio(data), rtol=0, atol=bound)
    assert len(loaded) == (0 if is_native and route == "tensorflow-io" else 2)


@pytest.mark.parametrize(
    ("container", "codec"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
)
@pytest.mark.parametrize("damage", ["cut", "zeroed", "overwritten"])
@pytest.mark.filterwarnings("ignore::ast_keras.errors.AudioWarning")
def test_samples_of_damaged_files_are_those_of_load_audio(container, codec, damage, route):
    data = bytearray(encode(noise(90_000) / 4, container=container, codec=codec))
    middle = len(data) // 2
    if damage == "cut":
        del data[middle:]
    else:
        rubbish = bytes(300) if damage == "zeroed" else np.random.default_rng(1).bytes(300)
        data[middle : middle + 300] = rubbish
    (waveform,) = decode_in_graph([bytes(data)])
    np.testing.assert_array_equal(waveform, load_audio(bytes(data)))


def test_paths_and_bytes_are_told_apart(tmp_path, route):
    data = encode(noise(1_600))
    path = tmp_path / "Regen über Dächern.wav"
    path.write_bytes(data)
    expected = load_audio(path, 8_000)
    for waveform in decode_in_graph([str(path), data], sample_rate=8_000):
        np.testing.assert_array_equal(waveform, expected)
    for source in (path, str(path), data, tf.constant(data)):
        np.testing.assert_array_equal(decode_audio(source, 8_000), expected)


def test_error_names_the_file_in_the_first_line(tmp_path, route):
    empty, text, missing = (tmp_path / f"{name} ü.wav" for name in ("empty", "text", "missing"))
    empty.write_bytes(b"")
    text.write_text("no audio" * 1_000)
    for path in (empty, text, missing):
        with pytest.raises(AudioError) as expected:
            load_audio(path)
        with pytest.raises(tf.errors.InvalidArgumentError) as failure:
            decode_in_graph([str(path)])
        first_line = failure.value.message.splitlines()[0]
        assert first_line.endswith(f"{type(expected.value).__name__}: {expected.value}")
        assert path.name in first_line
        with pytest.raises(type(expected.value), match=path.name):
            decode_audio(path)
    with pytest.raises(AudioError, match="source=<bytes>"):
        decode_audio(text.read_bytes())


def test_defects_give_the_warning_of_load_audio(route):
    wave = noise(1_600)
    data = encode(np.stack([wave, -wave], axis=1))
    with pytest.warns(AudioWarning) as expected:
        load_audio(data)
    with pytest.warns(AudioWarning) as found:
        decode_audio(data)
    assert [str(w.message) for w in found] == [str(w.message) for w in expected]


def test_other_inputs_are_refused():
    for value in (["a.wav", "b.wav"], np.zeros(3, np.float32)):
        with pytest.raises(ArgumentError, match="one path or the bytes of one file"):
            decode_audio(value)
    with pytest.raises(AudioError, match="sample_rate"):
        decode_audio(pathlib.Path("a.wav"), sample_rate=16)

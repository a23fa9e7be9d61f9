"""Embeddings equal the tokens of the model, for the valid part of the sound."""

import sys

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from ast_keras.audio import load_audio
from ast_keras.errors import ArgumentError, InferenceError
from ast_keras.inference.embedder import Embedder
from ast_keras.inference.embedding_files import check_output, write_embeddings
from tests.helpers.audio import RATE
from tests.helpers.models import tiny_classifier

# The sums of normalised tokens, in float32 and in another order.
SUMS = 1e-5


@pytest.fixture(scope="module", params=["original", "masked"])
def model(request):
    return tiny_classifier(num_frames=298, padding=request.param)


@pytest.fixture(scope="module")
def embedders(model):
    """One embedder of each kind, compiled once."""
    return {kind: Embedder(model, kind) for kind in ("pooled", "seconds", "tokens")}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 29), 1600)
    soundfile.write(path, rng.uniform(-1, 1, 46_400) * loudness, RATE)  # 2.9 s
    return str(path)


def tokens_of(model, path):
    """Returns the tokens of a sound and its number of valid patches along time."""
    waveform = load_audio(path)
    tokens = model.backbone(model.spectrogram(waveform[None]))[0].numpy()
    columns = (model.frontend.count_frames(len(waveform)) - 16) // 10 + 1
    return tokens, columns


def test_pooled_is_the_input_of_the_head(model, embedders, recording):
    ((path, start, end, mel, vector),) = embedders["pooled"].embed(recording)
    assert (path, start, end, mel) == (recording, 0.0, 2.9, -1)
    tokens, _ = tokens_of(model, recording)
    np.testing.assert_allclose(vector, tokens[:2].mean(axis=0), rtol=0, atol=SUMS)


def test_tokens_are_those_of_valid_patches_with_their_times(model, embedders, recording):
    found = list(embedders["tokens"].embed(recording))
    tokens, columns = tokens_of(model, recording)
    assert columns == 28
    grid = tokens[2:].reshape(12, -1, 48)
    assert len(found) == 12 * columns
    for number, (_, start, end, mel, vector) in enumerate(found):
        column, row = divmod(number, 12)
        assert (start, mel) == (pytest.approx(0.1 * column), row)
        assert end == pytest.approx(0.1 * column + 0.175)  # 16 frames of 25 ms, every 10 ms
        np.testing.assert_allclose(vector, grid[row, column], rtol=0, atol=SUMS)


def test_seconds_are_means_of_their_patches(model, embedders, recording):
    found = list(embedders["seconds"].embed(recording))
    assert [(e.start, e.end) for e in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.9)]
    tokens, columns = tokens_of(model, recording)
    grid = tokens[2:].reshape(12, -1, 48)[:, :columns]
    middles = 0.1 * np.arange(columns) + 0.0875
    for second, embedding in enumerate(found):
        expected = grid[:, middles.astype(int) == second].mean(axis=(0, 1))
        np.testing.assert_allclose(embedding.vector, expected, rtol=0, atol=SUMS)


def test_windows_are_embedded_like_separate_files(model, embedders, recording, tmp_path):
    found = list(Embedder(model, window_seconds=1.0).embed(recording))
    assert [(e.start, e.end) for e in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.9)]
    sound = load_audio(recording)
    for embedding in found:
        part = sound[round(embedding.start * RATE) : round(embedding.end * RATE)]
        soundfile.write(tmp_path / "part.wav", part, RATE, subtype="FLOAT")
        (alone,) = embedders["pooled"].embed(str(tmp_path / "part.wav"))
        np.testing.assert_allclose(embedding.vector, alone.vector, rtol=0, atol=SUMS)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_file_holds_the_embeddings(embedders, recording, tmp_path, suffix):
    expected = list(embedders["tokens"].embed(recording))
    path = tmp_path / f"out{suffix}"
    assert write_embeddings(expected, path, {"kind": "tokens"}) == len(expected)
    if suffix == ".npz":
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        assert columns.pop("about").tolist() == [["kind", "tokens"]]
    else:
        table = pyarrow.parquet.read_table(path)
        assert table.schema.metadata[b"kind"] == b"tokens"
        columns = {n: np.array(table[n].to_pylist()) for n in table.column_names}
    assert list(columns) == ["path", "start", "end", "mel", "embedding"]
    np.testing.assert_array_equal(columns["embedding"], [e.vector for e in expected])
    np.testing.assert_array_equal(columns["start"], [e.start for e in expected])
    np.testing.assert_array_equal(columns["mel"], [e.mel for e in expected])


def test_unknown_kinds_suffixes_and_long_windows_are_rejected(model, tmp_path, monkeypatch):
    with pytest.raises(InferenceError, match="one of pooled, seconds, tokens"):
        Embedder(model, "cls")
    with pytest.raises(InferenceError, match=r"\.parquet or \.npz"):
        check_output(tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InferenceError, match="pip install pyarrow"):
        check_output(tmp_path / "a.parquet")
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        Embedder(tiny_classifier(frontend=None))
    if model.padding == "original":
        with pytest.raises(InferenceError, match="--padding masked"):
            Embedder(model, window_seconds=5.0)


def failing():
    yield from ()
    raise OSError("the disk is full")


def test_failure_leaves_no_partial_file(tmp_path):
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(OSError, match="full"):
            write_embeddings(failing(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_of_a_half_precision_model_are_float32(recording):
    model = tiny_classifier(num_frames=298, dtype="mixed_bfloat16")
    (embedding,) = Embedder(model).embed(recording)
    assert embedding.vector.dtype == np.float32
    assert np.isfinite(embedding.vector).all()

"""Embeddings: what the model computes, for the sound's own time, in one file."""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import tensorflow as tf

import ast_keras
from ast_keras import embed
from ast_keras.audio import load_audio
from ast_keras.errors import InferenceError
from ast_keras.inference.embedder import Embedder, check_output, write_embeddings

ROOT = pathlib.Path(embed.__file__).parents[1]
RATE = 16000
# float32 sums in another order, on normalised tokens.
SUMS = 1e-5


@pytest.fixture(scope="module", params=["original", "masked"])
def model(request):
    keras.utils.set_random_seed(1)
    return ast_keras.from_preset("ast_test", num_classes=2, num_frames=298, padding=request.param)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 29), 1600)
    soundfile.write(path, rng.uniform(-1, 1, 46_400) * loudness, RATE)  # 2.9 s
    return str(path)


def tokens_of(model, path):
    """Returns a sound's tokens and its number of patches along time."""
    waveform = load_audio(path)
    tokens = model.backbone(model.spectrogram(waveform[None]))[0].numpy()
    columns = (model.frontend.count_frames(len(waveform)) - 16) // 10 + 1
    return tokens, columns


def test_pooled_is_what_the_head_reads(model, recording):
    ((path, start, end, mel, vector),) = Embedder(model).embed(recording)
    assert (path, start, end, mel) == (recording, 0.0, 2.9, -1)
    tokens, _ = tokens_of(model, recording)
    np.testing.assert_allclose(vector, tokens[:2].mean(axis=0), rtol=0, atol=SUMS)


def test_tokens_are_those_of_the_sound_with_their_times(model, recording):
    found = list(Embedder(model, "tokens").embed(recording))
    tokens, columns = tokens_of(model, recording)
    assert columns == 28
    grid = tokens[2:].reshape(12, -1, 48)
    assert len(found) == 12 * columns
    for number, (_, start, end, mel, vector) in enumerate(found):
        column, row = divmod(number, 12)
        assert (start, mel) == (pytest.approx(0.1 * column), row)
        assert end == pytest.approx(0.1 * column + 0.175)  # 16 frames of 25 ms, every 10 ms
        np.testing.assert_allclose(vector, grid[row, column], rtol=0, atol=SUMS)


def test_seconds_are_means_of_their_patches(model, recording):
    found = list(Embedder(model, "seconds").embed(recording))
    assert [(e.start, e.end) for e in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.9)]
    tokens, columns = tokens_of(model, recording)
    grid = tokens[2:].reshape(12, -1, 48)[:, :columns]
    middles = 0.1 * np.arange(columns) + 0.0875
    for second, embedding in enumerate(found):
        expected = grid[:, middles.astype(int) == second].mean(axis=(0, 1))
        np.testing.assert_allclose(embedding.vector, expected, rtol=0, atol=SUMS)


def test_windows_are_embedded_like_sounds_of_their_own(model, recording, tmp_path):
    found = list(Embedder(model, window_seconds=1.0).embed(recording))
    assert [(e.start, e.end) for e in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.9)]
    sound = load_audio(recording)
    for embedding in found:
        part = sound[round(embedding.start * RATE) : round(embedding.end * RATE)]
        soundfile.write(tmp_path / "part.wav", part, RATE, subtype="FLOAT")
        (alone,) = Embedder(model).embed(str(tmp_path / "part.wav"))
        np.testing.assert_allclose(embedding.vector, alone.vector, rtol=0, atol=SUMS)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_file_holds_what_was_embedded(model, recording, tmp_path, suffix):
    expected = list(Embedder(model, "tokens").embed(recording))
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


def test_what_cannot_be_embedded_is_an_error(model, tmp_path, monkeypatch):
    with pytest.raises(InferenceError, match="one of pooled, seconds, tokens"):
        Embedder(model, "cls")
    with pytest.raises(InferenceError, match=r"\.parquet or \.npz"):
        check_output(tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InferenceError, match="pip install pyarrow"):
        check_output(tmp_path / "a.parquet")
    if model.padding == "original":
        with pytest.raises(InferenceError, match="--padding masked"):
            Embedder(model, window_seconds=5.0)


def failing():
    yield from ()
    raise OSError("the disk is full")


def test_no_half_written_file_is_left(tmp_path):
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(OSError, match="full"):
            write_embeddings(failing(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_command_embeds_a_folder_for_the_probe_of_the_readme(tmp_path, monkeypatch):
    # Two kinds of noise in folders of their own, told apart by what README shows.
    keras.utils.set_random_seed(1)
    model = ast_keras.from_preset("ast_test", num_classes=2, num_frames=98)
    ast_keras.save_to_preset(model, tmp_path / "model")
    rng = np.random.default_rng(0)
    for kind in ("low", "high"):
        (tmp_path / "sounds" / kind).mkdir(parents=True)
        for number in range(10):
            noise = rng.standard_normal(RATE)
            smooth = np.convolve(noise, np.ones(8) / 8, "same")
            wave = smooth if kind == "low" else noise - smooth
            soundfile.write(tmp_path / "sounds" / kind / f"{number}.wav", 0.1 * wave, RATE)
    (tmp_path / "sounds" / "low" / "broken.wav").write_text("no sound")
    output = tmp_path / "vectors.parquet"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ast_keras.embed", "--model", str(tmp_path / "model")),
            *("--output", str(output), str(tmp_path / "sounds")),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1  # one sound is none; the others are there
    assert "error: The audio cannot be decoded" in done.stderr
    assert done.stdout.strip() == f"20 vectors of 20 sounds: {output}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    probe = next(example for example in examples if "LogisticRegression" in example)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(probe, "README.md", "exec"), names)
    assert names["accuracies"].mean() > 0.9


def test_tokens_follow_half_precision(recording):
    model = ast_keras.from_preset("ast_test", num_classes=2, num_frames=298, dtype="mixed_bfloat16")
    (embedding,) = Embedder(model).embed(recording)
    assert embedding.vector.dtype == np.float32
    assert tf.math.reduce_all(tf.math.is_finite(embedding.vector))

"""Decoding of clips: shared between splits, and robust to unreadable files."""

import concurrent.futures
import threading

import numpy as np
import pytest

from ast_keras.audio import loading
from ast_keras.audio.encoding import write_wav
from ast_keras.data.clips import Clips, SharedDecoder
from ast_keras.data.dataset import Split
from ast_keras.errors import AudioError


@pytest.fixture
def decoded(monkeypatch):
    """Returns a list that collects the files that are decoded."""
    files, load_audio = [], loading.load_audio

    def load_and_record(path, *args, **settings):
        files.append(path)
        return load_audio(path, *args, **settings)

    monkeypatch.setattr("ast_keras.audio.loading.load_audio", load_and_record)
    return files


def write_files(folder, count):
    """Writes `count` files of 800 samples; file i has the level i / 10. Returns their paths."""
    paths = [str(folder / f"{index}.wav") for index in range(count)]
    for index, path in enumerate(paths):
        write_wav(path, np.full(800, 0.1 * index), 16000)
    return paths


def test_files_are_decoded_once_while_they_fit(tmp_path, decoded):
    paths = write_files(tmp_path, 3)
    clips = Clips(paths, clip_samples=800, cache_bytes=2 * 800 * 4)
    first, second = ([clips[index] for index in range(3)] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert sorted(decoded) == sorted([*paths, paths[2]])  # two fit; the third is decoded again


def test_splits_of_a_shared_decoder_decode_a_file_once(tmp_path, decoded):
    paths = write_files(tmp_path, 3)
    decoder = SharedDecoder(16000, clip_samples=700, cache_bytes=10**6)
    splits = [Split(sources=paths[:2], targets=[(0,)] * 2), Split(paths[1:], [(1,)] * 2)]
    for split in splits:
        wrapped = decoder.wrap(split)
        assert wrapped.targets == split.targets
        for index, path in enumerate(split.sources):
            assert wrapped.source_name(index) == path
            expected = loading.load_audio(path, 16000)[:700]
            decoded.pop()  # the line above
            np.testing.assert_array_equal(wrapped.sources[index], expected)
    assert sorted(decoded) == paths


def test_full_shared_decoder_gives_paths(tmp_path, decoded):
    paths = write_files(tmp_path, 3)
    split = Split(paths, [(0,)] * 3)
    sources = SharedDecoder(16000, clip_samples=800, cache_bytes=0).wrap(split).sources
    assert list(sources) == paths
    sources = SharedDecoder(16000, clip_samples=800, cache_bytes=800 * 4).wrap(split).sources
    kinds = [type(source) for source in (*sources, *sources)]
    # The second file is decoded to find that it does not fit.
    assert kinds == [np.ndarray, np.ndarray, str, np.ndarray, str, str]
    assert decoded == paths[:2]


def test_shared_decoder_leaves_records_alone():
    split = Split((b"one", b"two"), [(0,)] * 2)
    assert SharedDecoder(16000, clip_samples=800, cache_bytes=10**6).wrap(split) is split


def test_lengths_of_unreadable_files_are_those_of_whole_clips(tmp_path):
    paths = write_files(tmp_path, 1)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    split = Split([*paths, str(tmp_path / "broken.wav")], [(0,)] * 2)
    for sources in (split.sources, SharedDecoder(16000, 1000, 10**6).wrap(split).sources):
        assert Clips(sources, clip_samples=1000).lengths().tolist() == [800, 1000]


def test_file_that_two_threads_find_unreadable_is_logged_once(monkeypatch):
    both, messages = threading.Barrier(2), []

    def fail(*_, **settings):
        both.wait(timeout=10)
        raise AudioError("broken")

    monkeypatch.setattr("ast_keras.audio.loading.load_audio", fail)
    monkeypatch.setattr("absl.logging.warning", lambda *args: messages.append(args))
    sources = [b"broken", np.zeros(80, "float32")]
    clips = Clips(sources, clip_samples=80, skip_unreadable=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert [index for index, _ in pool.map(clips.readable, [0, 0])] == [1, 1]
    assert len(messages) == 1


@pytest.mark.parametrize(("count", "stops"), [(99, False), (100, True)])
def test_a_hundred_unreadable_files_in_a_row_are_an_error(count, stops):
    good = np.zeros(80, "float32")
    clips = Clips([b"broken"] * count + [good], clip_samples=80, skip_unreadable=True)
    if stops:
        with pytest.raises(AudioError, match="Too many files in a row"):
            clips.readable(0)
    else:
        assert clips.readable(0)[0] == 99
    assert clips.readable(1)[0] == count

"""The twelve classes of Speech Commands: their counts, their parts of the noise, their order."""

import collections
import itertools
import os

import numpy as np
import pytest
import soundfile

from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.speech_commands import TEN_WORDS
from ast_keras.data.segment import Segment
from tests.helpers.errors import error_of

NUM_CLIPS = {"train": 7, "validation": 2, "test": 3}  # of each word
OTHERS = ("bed", "cat", "zero")
NOISE_SECONDS = {"hum.wav": 30.0, "rain.wav": 12.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech_commands")
    lists = collections.defaultdict(list)
    for word in (*TEN_WORDS, *OTHERS):
        (root / word).mkdir()
        for split, count in NUM_CLIPS.items():
            for number in range(count):
                name = f"{word}/{split}{number}_nohash_0.wav"
                (root / name).touch()
                lists[split].append(name)
    (root / "validation_list.txt").write_text("\n".join(lists["validation"]))
    (root / "testing_list.txt").write_text("\n".join(lists["test"]))
    (root / "_background_noise_").mkdir()
    for name, seconds in NOISE_SECONDS.items():
        noise = np.arange(round(1000 * seconds)) % 100 / 100
        soundfile.write(root / "_background_noise_" / name, noise, 1000)
    return root


def of_label(dataset, split, label):
    target, examples = dataset.labels.names.index(label), dataset.split(split)
    pairs = zip(examples.sources, examples.targets, strict=True)
    return [source for source, targets in pairs if targets == (target,)]


def test_twelve_classes_have_the_counts_of_the_original(folder):
    dataset = load_dataset("speech_commands", folder, subset="twelve")
    assert dataset.labels.names == ("_silence_", "_unknown_", *TEN_WORDS)
    assert dataset.labels.ids[2:4] == ("/m/spcmd28", "/m/spcmd22")
    assert dataset.notes == ()
    for split, count in NUM_CLIPS.items():
        # 10 percent of the clips of the ten words, rounded up: 7 of 70, 2 of 20, 3 of 30.
        wanted = -(-count * 10 // 10)
        assert len(of_label(dataset, split, "_silence_")) == wanted
        assert len(of_label(dataset, split, "_unknown_")) == wanted
        assert len(dataset.split(split)) == 10 * count + 2 * wanted
        for clip in of_label(dataset, split, "_unknown_"):
            word, name = os.path.relpath(clip, folder).split("/")
            assert word in OTHERS
            assert name.startswith(split)
    again = load_dataset("speech_commands", folder, subset="twelve")
    assert again.split("train").sources == dataset.split("train").sources


def test_no_second_of_noise_is_in_two_splits(folder):
    dataset = load_dataset("speech_commands", folder, subset="twelve", silence_fraction=0.5)
    spans = collections.defaultdict(lambda: collections.defaultdict(list))
    for split, count in NUM_CLIPS.items():
        silence = of_label(dataset, split, "_silence_")
        assert len(silence) == 5 * count
        for segment in silence:
            assert isinstance(segment, Segment)
            name = os.path.basename(segment.path)
            assert 0 <= segment.start_seconds < segment.end_seconds <= NOISE_SECONDS[name]
            assert segment.duration_seconds == pytest.approx(1.0)
            spans[name][split].append((segment.start_seconds, segment.end_seconds))
    for name, by_split in spans.items():
        assert set(by_split) == set(NUM_CLIPS)
        limits = [(min(s for s, _ in p), max(e for _, e in p)) for p in by_split.values()]
        for (_, end), (start, _) in itertools.pairwise(sorted(limits)):
            assert end <= start + 1e-3, name
    (first,) = of_label(dataset, "test", "_silence_")[:1]
    expected = soundfile.read(first.path)[0][27_000:28_000]  # the last tenth of 30 s
    np.testing.assert_allclose(first.load(1000), expected, atol=1e-4)


def test_words_may_include_unknown_and_silence(folder):
    words = ("go", "_unknown_", "bed")
    dataset = load_dataset("speech_commands", folder, words=words, unknown_fraction=1.0)
    assert dataset.labels.names == words
    assert len(of_label(dataset, "train", "_unknown_")) == 14
    names = {os.path.relpath(s, folder).split("/")[0] for s in of_label(dataset, "train", words[1])}
    assert not names & {"go", "bed"}
    assert "_background_noise_ ignored: it is not a word" in dataset.notes
    few = load_dataset("speech_commands", folder, subset="twelve", unknown_fraction=0.5)
    assert few.notes[0] == "_unknown_ has 21 of 35 train clips: other words have no more"


def test_what_cannot_be_read_as_twelve_classes_is_refused(folder, tmp_path):
    def error(**settings):
        return error_of(load_dataset, "speech_commands", folder, **settings)

    assert 'must be "twelve", without words' in error(subset="ten")
    assert 'must be "twelve", without words' in error(subset="twelve", words=("go",))
    assert "unknown_fraction must not be negative" in error(subset="twelve", unknown_fraction=-1)
    os.symlink(folder / "go", tmp_path / "go")
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).touch()
    message = error_of(load_dataset, "speech_commands", tmp_path, words=("go", "_silence_"))
    assert "_silence_ is cut from the recordings in _background_noise_, which has none" in message
    assert "no recording of 'yes'" in error_of(
        load_dataset, "speech_commands", tmp_path, subset="twelve"
    )

"""A built data set gives the examples, order and batches of the folder that it was built from."""

import concurrent.futures
import json
import os
import pathlib

import numpy as np
import pytest

from ast_keras.data.dataset import fingerprint
from ast_keras.data.packed import PackedPaths, PackedTargets
from ast_keras.data.pipeline import Pipeline
from ast_keras.data.readers import load_dataset
from ast_keras.data.readers.array_record import BuiltSet, read_built
from ast_keras.data.readers.array_record_index import Index, index_path
from ast_keras.data.readers.audioset import read_audioset
from ast_keras.data.readers.esc50 import read_esc50
from ast_keras.data.readers.speech_commands import read_speech_commands
from ast_keras.errors import DatasetError
from tests.helpers.arrays import assert_same
from tests.helpers.data_folders import (
    IDS,
    build,
    write_audioset,
    write_esc50,
    write_speech_commands,
)

pytest.importorskip("importlib_resources", reason="tensorflow-datasets needs it to build a set")
tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def esc50(tmp_path_factory):
    from ast_keras.data.builders.esc50 import Esc50

    root = tmp_path_factory.mktemp("esc50")
    return write_esc50(root / "ESC-50-master"), build(Esc50, root, root / "built")


@pytest.fixture(scope="module")
def speech_commands(tmp_path_factory):
    from ast_keras.data.builders.speech_commands_v2 import SpeechCommandsV2

    root = tmp_path_factory.mktemp("speech_commands")
    return write_speech_commands(root / "copy"), build(SpeechCommandsV2, root, root / "built")


def assert_same_batches(folder, built, stride=1):
    """Asserts that two data sets are equal, and that every `stride`-th of their batches is."""
    assert fingerprint(built) == fingerprint(folder)
    assert built.labels == folder.labels
    assert list(built.splits) == list(folder.splits)
    for name in folder.splits:
        settings = {
            "num_classes": len(folder.labels), "clip_samples": 800, "batch_size": 4, "seed": 3,
            "training": name == "train", "mixup_rate": 0.5, "shift_samples": 50, "gain_db": 6.0,
        }  # fmt: skip
        pipelines = [Pipeline(data.split(name), **settings) for data in (folder, built)]
        for step in range(0, 2 * pipelines[0].steps_per_epoch, stride):  # of two epochs
            first, second = (pipeline.batch(step) for pipeline in pipelines)
            assert_same(first, second)


@pytest.mark.parametrize("subset", ["esc50", "esc10"])
@pytest.mark.parametrize("fold", [1, 2, 3])
def test_built_esc50_gives_the_batches_of_its_folder(esc50, fold, subset):
    folder, data_dir = esc50
    assert_same_batches(
        read_esc50(str(folder), fold=fold, subset=subset),
        read_built(str(data_dir), fold=fold, subset=subset),
    )


@pytest.mark.parametrize("words", [None, ("yes", "no"), ("no",)])
def test_built_speech_commands_gives_the_batches_of_its_folder(speech_commands, words):
    folder, data_dir = speech_commands
    assert_same_batches(
        read_speech_commands(str(folder), words=words), read_built(str(data_dir), words=words)
    )


def test_built_set_keeps_files_unchanged(esc50):
    folder, data_dir = esc50
    split = read_built(str(data_dir)).split("train")
    assert {pathlib.Path(split.source_name(i)).suffix for i in range(len(split))} == {
        ".wav", ".flac",
    }  # fmt: skip
    for index in range(len(split)):
        assert split.sources[index] == (folder / split.source_name(index)).read_bytes()


def test_records_are_read_by_many_threads(speech_commands):
    folder, data_dir = speech_commands
    split = read_built(str(data_dir)).split("train")
    wanted = np.random.default_rng(0).integers(len(split), size=2_000).tolist()
    truth = [(folder / split.source_name(i)).read_bytes() for i in range(len(split))]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(split.sources.__getitem__, wanted))
    assert all(sound == truth[index] for sound, index in zip(found, wanted, strict=True))


def test_built_set_is_a_kind_of_data(esc50):
    _, data_dir = esc50
    dataset = load_dataset("built", str(data_dir / "esc50"), fold=2)
    assert str(dataset).startswith("esc50: 50 labels; 6 train, 3 test")


def test_built_set_keeps_the_notes_of_its_build(speech_commands):
    _, data_dir = speech_commands
    notes = read_built(str(data_dir)).notes
    assert any(note.startswith("1 clips of testing_list.txt are missing") for note in notes)
    assert any("15 of 84,843 train, 2 of 9,981 validation, 1 of 11,005 test" in n for n in notes)


def test_partial_esc10_keeps_the_numbers_of_labels(tmp_path):
    from ast_keras.data.builders.esc50 import Esc50

    folder = write_esc50(tmp_path / "esc50")
    for file in (folder / "audio").glob("*-A-0.flac"):  # the first of the ten classes
        file.unlink()
    built = read_built(str(build(Esc50, folder, tmp_path / "built")), subset="esc10")
    assert_same_batches(read_esc50(str(folder), subset="esc10"), built)
    assert "3 of 9 files were missing" in built.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": ("yes",)}, "A built esc50 has no such setting. Received: words="),
        ({"subset": "esc20"}, 'subset must be "esc50" or "esc10"'),
        ({"fold": 4}, "fold must be one of 1, 2, 3. Received: fold=4"),
    ],
)
def test_built_esc50_rejects(esc50, settings, message):
    with pytest.raises(DatasetError, match=message):
        read_built(str(esc50[1]), **settings)


def test_built_speech_commands_rejects_an_unknown_word(speech_commands):
    with pytest.raises(DatasetError, match=r"no recording of 'yess'\. Did you mean 'yes'"):
        read_built(str(speech_commands[1]), words=("yess",))


def test_built_rejects_a_folder_with_several_sets(esc50, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(BuiltSet(str(esc50[1])).path)
    with pytest.raises(DatasetError, match=r"holds several built data sets.* a, b"):
        read_built(str(tmp_path))
    assert read_built(str(tmp_path / "b")).splits


def copy_of(built, target):
    """Copies a built data set as links, so that one of its files can be replaced."""
    target.mkdir()
    for file in pathlib.Path(BuiltSet(str(built)).path).iterdir():
        (target / file.name).symlink_to(file)
    return target


def test_built_rejects_records_of_another_build(esc50, tmp_path):
    copy = copy_of(esc50[1], tmp_path / "copy")
    index = Index.load(index_path(copy, "train"))
    order = np.arange(len(index))[::-1]
    index_path(copy, "train").unlink()
    columns = {name: column[order] for name, column in index.columns.items()}
    reversed_index = Index(index.paths.take(order), index.targets.take(order), columns)
    reversed_index.save(index_path(copy, "train"))
    with pytest.raises(DatasetError, match="The records do not match the index"):
        read_built(str(copy)).split("train").sources[0]


def test_built_rejects_an_index_of_another_length(esc50, tmp_path):
    copy = copy_of(esc50[1], tmp_path / "copy")
    index_path(copy, "train").unlink()
    paths = PackedPaths.pack(["audio/a.wav"])
    Index(paths, PackedTargets.pack([(0,)]), {"fold": np.array([1])}).save(
        index_path(copy, "train")
    )
    with pytest.raises(DatasetError, match=r"9 of 1 in 'train'"):
        read_built(str(copy))


def test_built_rejects_a_missing_or_damaged_index(esc50, tmp_path):
    copy = copy_of(esc50[1], tmp_path / "copy")
    index_path(copy, "train").unlink()
    with pytest.raises(DatasetError, match=r"The index .* cannot be read.*No such file"):
        read_built(str(copy))
    index_path(copy, "train").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(DatasetError, match=r"The index .* cannot be read"):
        read_built(str(copy))


def test_built_rejects_sets_of_other_builders(esc50, tmp_path):
    copy = copy_of(esc50[1], tmp_path / "copy")
    info = (copy / "dataset_info.json").read_text()
    (copy / "dataset_info.json").unlink()
    (copy / "dataset_info.json").write_text(info.replace('"esc50"', '"mnist"'))
    with pytest.raises(DatasetError, match="must be one of audioset, esc50, speech_commands_v2"):
        read_built(str(copy))


def test_index_of_two_parts_is_one_after_the_other(tmp_path):
    parts = [
        Index(PackedPaths.pack([f"{n}/a.wav", "b.wav"]), PackedTargets.pack([(n, 5), ()]),
              {"ytid": np.array([b"x", b"y"])})
        for n in range(2)
    ]  # fmt: skip
    Index.concatenate(parts).save(tmp_path / "index.npz")
    index = Index.load(tmp_path / "index.npz")
    assert [index.row(i) for i in range(4)] == [
        {"path": "0/a.wav", "targets": (0, 5), "ytid": b"x"},
        {"path": "b.wav", "targets": (), "ytid": b"y"},
        {"path": "1/a.wav", "targets": (1, 5), "ytid": b"x"},
        {"path": "b.wav", "targets": (), "ytid": b"y"},
    ]


@pytest.mark.skipif("AST_KERAS_DATA" not in os.environ, reason="needs AST_KERAS_DATA")
def test_built_recordings_give_the_batches_of_their_folder(tmp_path):
    from ast_keras.data.builders.esc50 import Esc50

    folder = pathlib.Path(os.environ["AST_KERAS_DATA"], "esc10")
    built = build(Esc50, folder, tmp_path)
    assert_same_batches(
        read_esc50(str(folder), fold=5, subset="esc10"),
        read_built(str(built), fold=5, subset="esc10"),
        stride=10,
    )


# --- AudioSet: built with Apache Beam, on its local runner ---


@pytest.fixture(scope="module")
def audioset(tmp_path_factory):
    pytest.importorskip("apache_beam", reason="AudioSet is built with Apache Beam")
    from ast_keras.data.builders.audioset import Audioset

    root = tmp_path_factory.mktemp("audioset")
    folder = write_audioset(root / "copy")
    # Several shards, for the order across them.
    config = tfds.download.DownloadConfig(manual_dir=folder, num_shards=3)
    Audioset(data_dir=root / "built").download_and_prepare(download_config=config)
    return folder, root / "built"


@pytest.mark.parametrize("subset", ["balanced", "unbalanced", "full"])
def test_built_audioset_gives_the_batches_of_its_folder(audioset, subset):
    folder, data_dir = audioset
    assert_same_batches(
        read_audioset(str(folder), subset=subset),
        read_built(str(data_dir), subset=subset),
        stride=5,
    )


def test_built_audioset_replaces_labels_by_enhanced_ones(audioset, tmp_path):
    folder, data_dir = audioset
    lines = (folder / "balanced_train_segments.csv").read_text().splitlines()[2:]
    enhanced = tmp_path / "enhanced.csv"
    enhanced.write_text("\n".join(f'{line[:11]}, "{IDS[7]}"' for line in lines[::2]))
    settings = {"subset": "full", "enhanced_labels": str(enhanced)}
    built = read_built(str(data_dir), **settings)
    assert_same_batches(read_audioset(str(folder), **settings), built, stride=5)
    assert (7,) in [built.split("train").targets[i] for i in range(10)]


def test_built_audioset_counts_missing_clips(audioset):
    notes = read_built(str(audioset[1])).notes
    assert "9 of 90 balanced clips were missing" in notes
    assert "13 of 130 unbalanced clips were missing" in notes
    assert "4 of 40 eval clips were missing" in notes


def test_built_audioset_rejects_a_subset_that_was_not_built(audioset, tmp_path):
    copy = copy_of(audioset[1], tmp_path / "copy")
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] != "unbalanced"]
    (copy / "dataset_info.json").unlink()
    (copy / "dataset_info.json").write_text(json.dumps(info))
    assert len(read_built(str(copy)).split("test")) == 36
    with pytest.raises(DatasetError, match="no clip of 'unbalanced'; it has balanced, eval"):
        read_built(str(copy), subset="full")

"""Small folders in the layout of public data sets, and data sets built from them."""

import csv
import os

import numpy as np
import soundfile

from ast_keras.labels import LabelSet

RATE = 16_000
# Not in alphabetical order: a built data set must keep the order of the table.
ESC50_ROWS = [
    (f"{fold}-{number}-A-{target}{suffix}", fold, target)
    for number, (target, suffix) in enumerate([(40, ".wav"), (0, ".flac"), (38, ".wav")])
    for fold in (2, 1, 3)
]
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)
# Clips in each of AudioSet's lists.
NUM_CLIPS = {"balanced_train": 90, "unbalanced_train": 130, "eval": 40}
IDS = LabelSet.load("audioset").ids


def write_sound(path, seed):
    """Writes a short file of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    samples = rng.integers(-9_000, 9_000, 600 + 37 * seed).astype(np.int16)
    soundfile.write(path, samples, RATE)


def write_esc50(root):
    """Writes nine clips of three folds and three classes."""
    names = LabelSet.load("esc50").names
    (root / "meta").mkdir(parents=True)
    with open(root / "meta" / "esc50.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for seed, (name, fold, target) in enumerate(ESC50_ROWS):
            # As published: the table has .wav, whatever suffix a copy has.
            published = os.path.splitext(name)[0] + ".wav"
            is_esc10 = str(target in ESC10_TARGETS)
            writer.writerow([published, fold, target, names[target], is_esc10, "0", "A"])
            write_sound(root / "audio" / name, seed)
    return root


def write_speech_commands(root):
    """Writes 18 clips of three words: two for validation, one for testing."""
    clips = [
        f"{w}/{s}_nohash_{n}" for w in ("yes", "no", "backward") for s in "bca" for n in (1, 0)
    ]
    for seed, clip in enumerate(clips):
        write_sound(root / f"{clip}.wav", seed)
    (root / "validation_list.txt").write_text("yes/c_nohash_0.wav\nno/a_nohash_1.wav\n")
    (root / "testing_list.txt").write_text("no/c_nohash_1.wav\nyes/absent_nohash_0.wav\n")
    return root


def write_audioset(root):
    """Writes the lists and all clips but every tenth."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, count in NUM_CLIPS.items():
        lines = ["# Segments csv", "# YTID, start_seconds, end_seconds, positive_labels"]
        for number in range(count):
            ytid = f"{name[0]}-{rng.integers(10**8):08d}-"
            mids = ",".join(IDS[i] for i in rng.choice(len(IDS), size=1 + number % 3))
            lines.append(f'{ytid}, 30.000, 40.000, "{mids}"')
            if number % 10:
                folder = root / "clips" / str(number % 2)
                write_sound(folder / f"Y{ytid}.{('wav', 'flac')[number % 2]}", number % 7)
        (root / f"{name}_segments.csv").write_text("\n".join(lines))
    return root


def build(builder_class, source, data_dir):
    """Builds a data set from a folder with tensorflow-datasets."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=source)
    builder_class(data_dir=data_dir).download_and_prepare(download_config=config)
    return data_dir

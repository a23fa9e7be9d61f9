"""The audit of a data set finds every planted defect and no others, and advises a command."""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ast_keras.audit import Options, main
from ast_keras.auditing import advice
from ast_keras.auditing.audit import audit, recognise
from ast_keras.auditing.text_report import describe
from ast_keras.commands.flags import parse_options
from ast_keras.commands.runner import run_command
from ast_keras.errors import DatasetError
from ast_keras.recipe import load_recipe, override
from tests.helpers.paths import DATA, ROOT
from tests.reference import kaldi_fbank
from tests.unit.auditing.sounds import direct, encoded, noise

# --- A data set ---


def write_manifest(folder, rows, name="sounds.csv"):
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return str(folder / name)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A manifest with many defects that can be read."""
    folder = tmp_path_factory.mktemp("odd")
    integers = np.round(32767 * noise(seed=1)).astype(np.int16)
    sounds = {
        "dog1.wav": encoded(integers),
        "dog2.flac": encoded(noise(seed=2), 44100, "FLAC"),
        "dog3.wav": encoded(np.stack([noise(seed=3), noise(seed=4)], 1), 22050),
        "hen1.wav": encoded(noise(12.0, 8000, seed=5), 8000),
        "hen2.wav": encoded(np.zeros(4000)),
        "hen3.wav": encoded(np.clip(30 * noise(seed=6), -1, 1)),
        "again.wav": encoded(integers),
        "copy.flac": encoded(integers, format="FLAC"),
        "level.ogg": encoded(0.5 * noise(seed=2), 44100, "OGG", "VORBIS"),
        "other.wav": encoded(noise(seed=7)),
        "hens.wav": encoded(noise(seed=8)),
    }
    for name, content in sounds.items():
        (folder / name).write_bytes(content)
    labels = {"dog": "train", "hen": "train"}
    rows = [(n, n[:3], labels[n[:3]]) for n in sounds if n[:3] in labels and n != "hens.wav"]
    rows += [("again.wav", "hen", "train"), ("copy.flac", "dog", "test"),
             ("level.ogg", "dog", "test"), ("other.wav", "cow", "test"),
             ("hens.wav", "hens", "test")]  # fmt: skip
    return write_manifest(folder, rows)


def test_audit_measures_the_requested_filterbank(tmp_path):
    rows = []
    for index in range(4):
        seconds = 0.2 if index < 3 else 1.5
        samples = noise(seconds, 256_000, seed=index).astype(np.float32)
        soundfile.write(tmp_path / f"{index}.wav", samples, 256_000, "FLOAT")
        rows.append((f"{index}.wav", "ab"[index % 2], ("train", "test")[index // 2]))
    path = write_manifest(tmp_path, rows)
    flags = ["sample_rate=256000", "f_min_hz=10000", "f_max_hz=120000", "num_mel_bins=64"]
    flags += ["frame_length_seconds=0.004", "frame_step_seconds=0.001"]
    flags = [f"frontend.{flag}" for flag in flags]
    frontend = override(load_recipe("finetune"), flags).frontend
    report = audit(path, frontend=frontend, num_workers=1)
    expected = np.concatenate(
        [
            kaldi_fbank.fbank(
                (x := noise(0.2, 256_000, seed=index).astype(np.float32)) - x.mean(),
                num_mel_bins=64,
                sample_rate=256_000,
                frame_length=1024,
                frame_step=256,
                f_min_hz=10_000.0,
                f_max_hz=120_000.0,
            )
            for index in (0, 1)
        ]
    )
    # Logarithms in float32 against float64.
    found = report["log_mel"]["unpadded"]
    assert (found["mean"], found["std"]) == pytest.approx(
        (expected.mean(), expected.std()), abs=1e-6
    )
    assert any("1 sounds are longer than 1.024 s" in remark for remark in report["remarks"])
    words = report["start"]["command"].split()
    settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
    advised = override(load_recipe("finetune"), settings)
    measured = {"mean": advised.frontend.mean, "std": advised.frontend.std}
    assert measured["mean"] == pytest.approx(report["log_mel"]["padded"]["mean"], abs=1e-5)
    wanted = dataclasses.replace(frontend, num_frames=advised.frontend.num_frames, **measured)
    assert advised.frontend == wanted
    for index in range(4):  # recordings that hold nothing in this range
        soundfile.write(tmp_path / f"{index}.wav", noise(0.2, seed=index), 16_000)
    problems = audit(path, frontend=frontend, num_workers=1)["problems"]
    assert [problem for problem in problems if "frequencies up to 8000 Hz" in problem]
    # 95 % of the sounds last up to 1.3 s, which are more than the 1,024 frames of a published AST.
    assert (advised.frontend.num_frames, advised.data.clip_seconds) == (1024, 1.024)


def names_of(group):
    return {os.path.basename(member["sound"]) for member in group}


@pytest.fixture(scope="module")
def report(odd):
    return audit(odd, num_workers=2)


def test_audit_finds_every_planted_defect(report):
    assert report["kind"] == "manifest"
    assert report["splits"] == {"train": 7, "test": 4}
    assert report["sample_rates"] == {"16000": 7, "44100": 2, "22050": 1, "8000": 1}
    assert report["channels"] == {"1": 10, "2": 1}
    assert report["formats"]["FLAC PCM_16"] == 2
    assert report["seconds"]["max"] == 12.0
    assert report["seconds"]["longer_than"] == {"1": 1, "5": 1, "10.24": 1}
    defects = {kind: names_of(found["examples"]) for kind, found in report["defects"].items()}
    assert defects == {"silent": {"hen2.wav"}, "clipped": {"hen3.wav"}}
    duplicates = report["duplicates"]
    assert duplicates["across_splits"]["count"] == 1
    assert names_of(duplicates["across_splits"]["examples"][0]) == {
        "dog1.wav", "again.wav", "copy.flac",
    }  # fmt: skip
    assert duplicates["other_labels"]["count"] == 1
    assert duplicates["within_split"]["count"] == 0
    (near,) = duplicates["near_across_splits"]["examples"]
    assert names_of(near["sounds"]) == {"dog2.flac", "level.ogg"}
    assert report["label_defects"]["not_in_train"] == ["cow", "hens"]
    assert report["label_defects"]["similar_names"] == [["hen", "hens"]]
    assert report["problems"] == []
    assert json.loads(json.dumps(report)) == report


def test_text_report_has_every_finding(report):
    text = "\n".join(describe(report))
    for part in (
        "sounds.csv: manifest, 4 labels; 7 train, 4 test",
        "16000 Hz (7)", "FLAC PCM_16 (2)", "longer than 1 s: 1, 5 s: 1, 10.24 s: 1",
        "silent: 1, below -60 dBFS\n    hen2.wav (train): digital silence",
        "the same sound in two splits: 1\n    dog1.wav (train) = again.wav (train) = copy.flac (t",
        "dog2.flac (train) = level.ogg (test), similarity 0.9",
        "tested but never trained: 2 (cow, hens)", "with similar names: 1 (hen / hens)",
        "padded, as in training", "--recipe finetune --set data.path=",
    ):  # fmt: skip
        assert part in text, part
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 100


def test_audit_is_independent_of_threads_and_statistics_are_optional(odd, report):
    assert audit(odd, num_workers=1) == report
    quick = audit(odd, statistics=False)
    assert "log_mel" not in quick
    assert not quick["duplicates"]["near_across_splits"]["searched"]
    same = ("splits", "labels", "sample_rates", "seconds", "defects")
    assert [quick[key] for key in same] == [report[key] for key in same]
    assert quick["duplicates"]["across_splits"] == report["duplicates"]["across_splits"]


def test_the_recommended_command_is_a_valid_recipe(odd, report):
    words = report["start"]["command"].split()
    assert words[:5] == ["python", "-m", "ast_keras.train", "--recipe", "finetune"]
    settings = [word for word in words[5:] if word != "--set"]
    recipe = override(load_recipe("finetune"), settings)
    # One of eleven sounds lasts 12 s, the others 1 s: the 95% quantile is half-way between.
    assert (recipe.frontend.num_frames, recipe.data.clip_seconds) == (704, 7.04)
    assert recipe.augment.time_mask_frames == 132
    assert recipe.data.path == odd


def test_progress_in_a_log_is_lines_and_off_by_default(odd, monkeypatch, capsys):
    monkeypatch.setattr("ast_keras.progress.LOG_SECONDS", 0.0)
    audit(odd, max_files=4, statistics=False)
    assert capsys.readouterr().err == ""
    audit(odd, max_files=4, statistics=False, progress=True)
    assert capsys.readouterr().err.splitlines()[-1].startswith("100% 3/3 [")


def test_audit_of_a_sample_counts_every_label(odd):
    report = audit(odd, max_files=4, statistics=False)
    assert report["num_inspected"] == 3
    assert report["splits"] == {"train": 7, "test": 4}
    assert "inspected: 3 of 11 sounds" in "\n".join(describe(report))


def folders(root, names, make=lambda seed: encoded(noise(0.3, seed=seed))):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make(seed))
    return str(root)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["train/dog/1.wav", "train/hen/2.wav"], "nothing to test on"),
        (["test/dog/1.wav", "test/hen/2.wav"], "nothing to train on"),
        (["dog/1.wav", "dog/2.wav"], "1 of the labels can be trained"),
    ],
)
def test_audit_gives_the_reason_why_data_cannot_be_trained_on(names, problem, tmp_path):
    report = audit(folders(tmp_path, names), statistics=False)
    assert problem in "; ".join(report["problems"])
    assert report["start"] is None
    assert "Cannot be trained on" in "\n".join(describe(report))


def test_unreadable_sounds_are_a_problem_and_missing_ones_a_setting(tmp_path):
    folders(tmp_path, ["a.wav", "b.wav", "c.wav"])
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    rows = [("a.wav", "dog", "train"), ("b.wav", "hen", "train"), ("c.wav", "dog", "test")]
    path = write_manifest(tmp_path, [*rows, ("gone.wav", "hen", "test")])
    report = audit(path, statistics=False)
    assert "1 of 4 files do not exist" in report["missing"]
    assert report["problems"] == []
    assert "--set data.allow_missing=true" in report["start"]["command"]
    report = audit(write_manifest(tmp_path, [*rows, ("broken.wav", "hen", "test")]))
    assert report["num_readable"] == 3
    assert "1 of 4 sounds cannot be read" in report["problems"][0]


def test_audit_of_several_labels_recommends_their_loss(tmp_path):
    folders(tmp_path, ["a.wav", "b.wav"])
    path = write_manifest(tmp_path, [("a.wav", "dog;hen", "train"), ("b.wav", "", "test")])
    report = audit(path, statistics=False)
    assert report["multi_label"]
    assert report["label_defects"]["without_label"] == 1
    assert "binary cross-entropy and mAP" in report["start"]["why"][1]


def test_recognise_finds_the_kind_by_its_files(tmp_path):
    for kind, name in (
        ("esc50", "meta/esc50.csv"),
        ("speech_commands", "validation_list.txt"),
        ("audioset", "eval_segments.csv"),
        ("folders", "dog/1.wav"),
    ):
        (tmp_path / kind / name).parent.mkdir(parents=True)
        (tmp_path / kind / name).touch()
    (tmp_path / "speech_commands" / "testing_list.txt").touch()
    for kind in ("esc50", "speech_commands", "audioset", "folders"):
        assert recognise(str(tmp_path / kind)) == kind
    (tmp_path / "any.csv").touch()
    assert recognise(str(tmp_path / "any.csv")) == "manifest"
    with pytest.raises(DatasetError, match="no such file or folder"):
        recognise(str(tmp_path / "gone"))


def test_known_data_gets_its_own_recipe():
    report = {"seconds": {"95%": 5.0}, "multi_label": False}
    start = advice.choose_recipe(report, "esc50", {"fold": 2}, "ESC 50")
    assert start["command"].endswith("--recipe esc50 --set 'data.path=ESC 50' --set data.fold=2")
    start = advice.choose_recipe(report, "esc50", {"fold": 2, "subset": "esc10"}, "ESC 50")
    assert start["recipe"] == "finetune"
    assert "data.kind=esc50" in start["command"]


@pytest.mark.parametrize(
    ("padded", "own"),
    [
        ((-4.2677393, 4.5689974), False),
        ((-5.5, 5.2), False),
        ((-6.6268077, 5.358466), True),  # ESC-50: the authors use its own statistics
        ((-6.845978, 5.5654526), True),  # Speech Commands: the authors use its own statistics
        ((-4.0, 2.5), True),
        ((float("nan"), float("nan")), False),
        (None, False),
    ],
)
def test_initial_statistics_are_kept_unless_the_data_is_far_from_them(padded, own):
    assert advice.choose_statistics(padded)[0] is own
    report = {"seconds": {"95%": 5.0}, "multi_label": False}
    if padded:
        report["log_mel"] = {"padded": dict(zip(("mean", "std"), padded, strict=True))}
    command = advice.choose_recipe(report, "manifest", {}, "x.csv")["command"]
    assert ("frontend.mean=" in command) is own


# --- The command ---


def command(*line):
    return run_command(main, parse_options(Options, [str(word) for word in line]))


def test_command_prints_writes_and_exits(odd, tmp_path, capsys):
    target = tmp_path / "report.json"
    assert command(odd, "--nostatistics", "--output", target) == 0
    assert json.loads(target.read_text()) == audit(odd, statistics=False)
    assert "--recipe finetune" in capsys.readouterr().out
    path = folders(tmp_path / "two", ["train/dog/1.wav", "train/hen/2.wav"])
    assert command(path, "--nostatistics") == 1
    assert "nothing to test on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["no/such/folder"], "There is no such file or folder"),
        ([ROOT / "pyproject.toml"], "lacks the column 'path'"),
        ([ROOT, "--kind", "esc50"], "ESC-50 is a folder with audio/"),
        ([ROOT / "pyproject.toml", "--set", "data.fould=1"], "Did you mean 'fold'?"),
    ],
)
def test_command_prints_an_error_in_one_line(line, message, capsys):
    assert command(*line, "--nostatistics") == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_command_without_data_prints_its_usage_without_loading_tensorflow():
    code = (
        "import sys\nimport ast_keras.audit\n"
        "try: ast_keras.audit.run()\nfinally: assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    assert "usage: python -m ast_keras.audit DATA" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="AST_KERAS_DATA is not set")
def test_statistics_of_real_recordings_equal_those_of_an_independent_filterbank():
    report = audit(str(pathlib.Path(DATA) / "esc10"))
    assert report["settings"] == {"fold": 1, "subset": "esc10"}
    folder = pathlib.Path(DATA) / "esc10" / "audio"
    waveforms = [
        soundfile.read(file, dtype="float32")[0]
        for file in sorted(folder.glob("*.flac"))
        if not file.name.startswith("1-")
    ]
    padded, own = direct(waveforms, 512)
    found = report["log_mel"]
    # float32 logarithms of weak bins, and sums in another order.
    for name, expected in (("padded", padded), ("unpadded", own)):
        assert (found[name]["mean"], found[name]["std"]) == pytest.approx(expected, abs=1e-6)

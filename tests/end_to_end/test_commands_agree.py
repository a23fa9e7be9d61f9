"""`audit`, `train`, `predict`, `embed` and `evaluate` say the same of each unusual recording.

One folder holds all the recordings, and each command runs once. `SOUNDS` names them, with what
every command must say of each. `REFUSED` names data that `audit`, `train` and `evaluate` refuse
with the same words.
"""

import dataclasses
import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from tests.helpers.audio import RATE, noise
from tests.helpers.commands import assert_one_line_error, run_in_process
from tests.helpers.models import saved_classifier

SPLITS = ("train", "test")
COMMANDS = ("audit", "train", "evaluate", "predict", "embed")
SECONDS = 1.0


def sound(path, samples=None, **settings):
    """Writes a recording of noise, or the given samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * noise(round(SECONDS * RATE)) if samples is None else samples
    soundfile.write(path, samples, RATE, **settings)
    return path


def chained_ogg(path):
    """Two Ogg streams one after the other, as a radio recorder writes."""
    sound(path)
    path.write_bytes(2 * path.read_bytes())


def stopped_recorder(path):
    """A WAV whose data chunk states 0 bytes."""
    sound(path)
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", 0)
    path.write_bytes(data)


def zeros_in_mp3(path):
    sound(path, 0.3 * noise(5 * RATE), format="MP3")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)


def without_ffmpeg(path):
    """A file that only ffmpeg reads."""
    path.write_bytes(b"\0\0\0\x18ftypM4A " + bytes(2000))


def inverted(path):
    left = 0.3 * noise(round(SECONDS * RATE))
    sound(path, np.stack([left, -left], axis=1))


def dead(path):
    left = 0.3 * noise(round(SECONDS * RATE))
    sound(path, np.stack([left, 0 * left], axis=1))


@dataclasses.dataclass(frozen=True)
class Sound:
    """A recording that is read.

    Args:
        name: Name of its file.
        write: Function that writes it.
        words: What every command says of it, in the line that names the file.
        seconds: Its length; None if it is left out.
    """

    name: str
    write: Callable[[pathlib.Path], object]
    words: tuple[str, ...] = ()
    seconds: float | None = SECONDS


SOUNDS = [
    Sound("stopped.wav", stopped_recorder, ("0 bytes",)),
    Sound("zeros.mp3", zeros_in_mp3, ("damaged",), seconds=5.0),
    Sound("inverted.wav", inverted, ("channel=0",)),
    Sound("dead.flac", dead, ("channel=0",)),
    Sound("0.wav", sound),
    Sound("0.flac", sound),
    Sound("chained.ogg", chained_ogg, seconds=2 * SECONDS),
    Sound("phone.M4A", without_ffmpeg, ("without ffmpeg",), seconds=None),
]


@pytest.fixture(scope="module")
def no_ffmpeg():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AST_KERAS_FFMPEG", "off")
        yield


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, no_ffmpeg):
    """Runs each command on one folder with all recordings: exit status, output and errors."""
    root = tmp_path_factory.mktemp("sounds")
    for split in SPLITS:
        for number in range(2):
            sound(root / split / "hen" / f"{number}.wav", 0.3 * noise(RATE, seed=number))
        for case in SOUNDS:
            (root / split / "dog").mkdir(exist_ok=True)
            case.write(root / split / "dog" / case.name)
    work = tmp_path_factory.mktemp("work")
    settings = [
        f"data.path={root}",
        "model.size=ast_test",
        "frontend.num_frames=98",
        "model.patch_size=128,16",
        "model.strides=128,16",
        "train.num_epochs=1",
        "train.batch_size=4",
    ]
    flags = [text for setting in settings for text in ("--set", setting)]
    model = f"--model={work / 'run'}"
    return {
        "audit": run_in_process("audit", root),
        "train": run_in_process(
            "train", "--recipe=own_sounds", f"--workdir={work / 'run'}", *flags
        ),
        "evaluate": run_in_process("evaluate", f"--workdir={work / 'run'}"),
        "predict": run_in_process("predict", model, "--format=json", root),
        "embed": run_in_process("embed", model, root, f"--output={work / 'embeddings.npz'}"),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_command_finishes(outputs, command):
    status, _, errors = outputs[command]
    assert status == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", [case for case in SOUNDS if case.words], ids=lambda c: c.name)
def test_command_says_what_is_wrong(outputs, command, case):
    _, output, errors = outputs[command]
    lines = [line for line in (output + errors).splitlines() if case.name in line]
    assert lines, output + errors
    for word in case.words:
        assert any(word in line for line in lines), lines


def test_recordings_have_their_whole_length(outputs):
    rows = json.loads(outputs["predict"][1])
    seconds = {
        pathlib.Path(row["file"]).name: row["seconds"] for row in rows if "dog" in row["file"]
    }
    assert seconds == pytest.approx(
        {case.name: case.seconds for case in SOUNDS if case.seconds is not None}, abs=0.01
    )


# --- Data that is refused ---


def direct(root):
    """A folder with sounds and no folder for each class."""
    for number in range(10):
        sound(root / f"{number}.wav")
    return root


def one_class(root):
    for number in range(3):
        sound(root / "dog" / f"{number}.wav", 0.3 * noise(RATE, seed=number))
    return root


def vanishing_class(root):
    for number in range(3):
        sound(root / "dog" / f"{number}.wav")
    (root / "hen").mkdir()
    without_ffmpeg(root / "hen" / "0.m4a")
    return root


def splits_and_classes(root):
    for folder in ("Train", "Test", "dog"):
        sound(root / folder / "hen" / "0.wav")
    return root


def table(text):
    """Returns the function that writes a table and the recordings that it may name."""

    def write(root):
        for name in ("a", "b", "c", "d"):
            sound(root / f"{name}.wav", 0.3 * noise(RATE, seed=ord(name)))
        path = root / "sounds.csv"
        path.write_text(text)
        return path

    return write


# Data, and words of the line with which every command refuses it.
REFUSED = {
    "direct": (direct, ("10 sounds",)),
    "vanishing_class": (vanishing_class, ("hen", "ffmpeg")),
    "splits_and_classes": (splits_and_classes, ("Train", "dog")),
    "nan": (table("path,labels\na.wav,dog\nb.wav,nan\n"), ("line 3", "nan")),
    "comma": (
        table('path,labels\na.wav,dog\nb.wav,cat\nc.wav,"dog,cat"\n'),
        ("line 4", "dog,cat"),
    ),
    "backwards": (
        table("path,labels,start,end\na.wav,dog,0.5,0.2\nb.wav,cat,0,1\n"),
        ("line 2", "0.2"),
    ),
    "torn_group": (
        table("path,labels,group,split\na.wav,dog,x,train\nb.wav,cat,x,test\n"),
        ("'x'",),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_commands_refuse_in_the_same_words(name, tmp_path, no_ffmpeg):
    write, words = REFUSED[name]
    path = write(tmp_path / "data")
    data = f"--set=data.path={path}"
    found = {
        "audit": run_in_process("audit", path),
        "train": run_in_process(
            "train", "--recipe=own_sounds", f"--workdir={tmp_path / 'run'}", data
        ),
        "evaluate": run_in_process(
            "evaluate", "--recipe=own_sounds", f"--model={saved_classifier()}", data
        ),
    }
    for status, _, errors in found.values():
        assert_one_line_error(status, errors, *words)
    assert len({errors for _, _, errors in found.values()}) == 1, found
    assert not (tmp_path / "run").exists()


def test_one_class_is_not_trained_on(tmp_path):
    path, words = one_class(tmp_path / "data"), ("1 of the labels can be trained", "dog")
    _, output, _ = run_in_process("audit", path)
    status, _, errors = run_in_process(
        "train", "--recipe=own_sounds", f"--workdir={tmp_path / 'run'}", f"--set=data.path={path}"
    )
    assert_one_line_error(status, errors, *words)
    assert all(word in output for word in words), output
    assert not (tmp_path / "run").exists()


def test_sounds_of_another_folder_are_counted_by_predict_and_embed(tmp_path, no_ffmpeg):
    path = vanishing_class(tmp_path / "data")
    model = f"--model={saved_classifier()}"
    for name, flags in (("predict", ()), ("embed", (f"--output={tmp_path / 'e.npz'}",))):
        status, _, errors = run_in_process(name, model, path, *flags)
        assert status == 0
        assert "hen/0.m4a" in errors
        assert "ffmpeg" in errors

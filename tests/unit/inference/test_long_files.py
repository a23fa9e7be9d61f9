"""Long files: read in blocks, heard in windows, aggregated, cut into events; folders, resumed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import soundfile

import ast_keras
from ast_keras import predict
from ast_keras.audio import load_audio
from ast_keras.audio.blocks import sound_blocks
from ast_keras.commands.resume import ResumeLog
from ast_keras.data.prefetch import prefetch
from ast_keras.errors import (
    AudioDecodeError,
    AudioEmptyError,
    AudioNotFoundError,
    AudioSampleError,
    AudioWarning,
    CommandError,
    InferenceError,
)
from ast_keras.inference.events import find_events, window_boundaries
from ast_keras.inference.formats import as_csv
from ast_keras.inference.predictor import Predictor, Windows
from ast_keras.inference.windows import ScoreAggregator, cut_windows
from ast_keras.labels import LabelSet

ROOT = pathlib.Path(predict.__file__).parents[1]
RATE = 16000


def noise(seconds, rate=RATE, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.3, 0.3, (round(seconds * rate), channels))


# --- Blocks ---


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_blocks_are_the_whole_file(tmp_path, ending, rate):
    path = tmp_path / f"sound.{ending}"
    soundfile.write(path, noise(5.3, rate, channels=2), rate)
    blocks = list(sound_blocks(path, block_seconds=1.7))
    whole = load_audio(path)
    assert len(blocks) >= 3
    # The decoder of MP3 rounds otherwise in pieces; all else is equal to the bit.
    atol = 2e-7 if ending == "mp3" else 0
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=atol)


def test_one_channel_can_be_chosen(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, channels=2), RATE)
    second = np.concatenate(list(sound_blocks(tmp_path / "a.wav", channel=1, block_seconds=0.3)))
    np.testing.assert_array_equal(second, load_audio(tmp_path / "a.wav", channel=1))


def test_blocks_of_what_is_no_sound_are_the_errors_of_load_audio(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    samples = noise(3)
    samples[40_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    for name, error in {
        "gone.wav": AudioNotFoundError,
        "text.wav": AudioDecodeError,
        "empty.wav": AudioEmptyError,
        "none.wav": AudioEmptyError,
        "nan.wav": AudioSampleError,
    }.items():
        for read in (load_audio, lambda path: list(sound_blocks(path, block_seconds=1))):
            with pytest.raises(error, match=name):
                read(tmp_path / name)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_file_that_ends_early_gives_what_there_is_and_a_warning(tmp_path, ending):
    path = tmp_path / f"cut.{ending}"
    soundfile.write(path, noise(10), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(AudioWarning, match=r"cut short|ends or is damaged"):
        blocks = np.concatenate(list(sound_blocks(path, block_seconds=1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(blocks, load_audio(path))
    assert 3 * RATE < len(blocks) < 6 * RATE


def test_a_loud_file_is_told_of_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", 10 * noise(3), RATE, subtype="FLOAT")
    with pytest.warns(AudioWarning) as told:
        list(sound_blocks(tmp_path / "a.wav", block_seconds=0.2))
    assert len(told) == 1


# --- Windows ---


@pytest.mark.parametrize("length", [1, 3, 10, 11, 12, 20, 21, 57])
@pytest.mark.parametrize(("window", "hop"), [(10, 10), (10, 5), (10, 1), (10, 7)])
@pytest.mark.parametrize("block", [1, 4, 100])
def test_windows_are_slices_that_hold_every_sample(length, window, hop, block):
    sound = np.arange(length, dtype="float32")
    blocks = [sound[i : i + block] for i in range(0, length, block)]
    windows = list(cut_windows(blocks, window, hop))
    heard = set()
    for number, (start, samples) in enumerate(windows):
        assert start == number * hop
        np.testing.assert_array_equal(samples, sound[start : start + window])
        heard |= set(range(start, start + len(samples)))
    assert heard == set(range(length))
    assert all(start + window < length for start, _ in windows[:-1])  # no window too many


def test_a_rest_of_less_than_a_frame_lengthens_the_last_window():
    sound = np.arange(23, dtype="float32")
    assert [(start, len(samples)) for start, samples in cut_windows([sound], 10, 10, least=4)] == [
        (0, 10),
        (10, 13),
    ]


def test_gap_between_windows_is_an_error():
    with pytest.raises(InferenceError, match="sound would go unheard"):
        list(cut_windows([np.zeros(9)], window=4, hop=5))


def test_aggregates_equal_their_definitions():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((11, 4)) * 30
    scores = rng.random((11, 4))
    weights = np.exp(logits - logits.max(axis=0))
    expected = {
        "max": scores.max(axis=0),
        "mean": scores.mean(axis=0),
        "attention": (weights * scores).sum(axis=0) / weights.sum(axis=0),
    }
    for kind, value in expected.items():
        aggregate = ScoreAggregator(kind)
        for part in (slice(0, 3), slice(3, 4), slice(4, 11)):
            aggregate.add(scores[part], logits[part])
        np.testing.assert_allclose(aggregate.scores(), value, rtol=1e-12)
    with pytest.raises(InferenceError, match="one of max, mean, attention"):
        ScoreAggregator("median")


# --- Events ---


def events_by_hand(scores, edges, high, low):
    """Returns events as (onset, offset, index), found cell by cell."""
    found = []
    for index in range(scores.shape[1]):
        start, reached = None, False
        for cell in range(len(scores) + 1):
            inside = cell < len(scores) and scores[cell, index] >= low
            if inside and start is None:
                start, reached = cell, False
            if inside:
                reached = reached or scores[cell, index] >= high
            if not inside and start is not None:
                if reached:
                    found.append((edges[start], edges[cell], index))
                start = None
    return sorted(found, key=lambda event: (event[0], event[2]))


@pytest.mark.parametrize("seed", range(20))
def test_events_equal_those_found_by_hand(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((int(rng.integers(1, 40)), 3))
    edges = np.cumsum(rng.random(len(scores) + 1))
    high = rng.uniform(0.3, 0.9)
    low = high * rng.uniform(0.3, 1.0)
    found = find_events(scores, edges, high, low)
    assert [(e.onset, e.offset, e.index) for e in found] == events_by_hand(scores, edges, high, low)
    for event in found:
        inside = (edges[:-1] >= event.onset) & (edges[:-1] < event.offset)
        assert event.score == scores[inside, event.index].max()


def test_hysteresis_makes_one_event_of_a_wavering_sound():
    scores = np.array([[0.1], [0.6], [0.45], [0.55], [0.1]])
    assert len(find_events(scores, np.arange(6.0), 0.5, 0.5)) == 2
    assert len(find_events(scores, np.arange(6.0), 0.5, 0.4)) == 1


def test_short_events_and_gaps():
    scores = np.array([[0.9], [0.0], [0.9], [0.9], [0.0], [0.0], [0.9]])
    found = find_events(scores, np.arange(8.0), max_gap_seconds=1.0, min_seconds=2.0)
    assert [(e.onset, e.offset) for e in found] == [(0.0, 4.0)]


@pytest.mark.parametrize(("high", "low"), [(0.5, 0.6), (1.5, 0.5), (0.5, -0.1), (np.nan, 0.1)])
def test_thresholds_out_of_order_are_an_error(high, low):
    with pytest.raises(InferenceError, match="0 <= threshold_off <= threshold <= 1"):
        find_events(np.zeros((3, 1)), np.arange(4.0), high, low)


def test_cells_share_the_time():
    edges = window_boundaries(np.array([0.0, 5.0, 10.0]), np.array([10.0, 15.0, 20.0]))
    assert edges.tolist() == [0.0, 7.5, 12.5, 20.0]
    assert window_boundaries(np.array([0.0]), np.array([3.0])).tolist() == [0.0, 3.0]


# --- Reading ahead and the journal ---


def test_read_ahead_keeps_order_and_lets_errors_through():
    def read(item):
        yield from range(item)
        if item == 3:
            raise OSError("broken")

    found = []
    for item, pieces in prefetch([2, 3, 0, 5], read, jobs=2, depth=1):
        try:
            found.append((item, list(pieces)))
        except OSError as error:
            found.append((item, str(error)))
    assert found == [(2, [0, 1]), (3, "broken"), (0, []), (5, [0, 1, 2, 3, 4])]


def test_read_ahead_is_bounded_and_leaves_no_thread_behind():
    made = []

    def read(item):
        for piece in range(1000):
            made.append(piece)
            yield piece

    before = threading.active_count()
    for _, pieces in prefetch(range(5), read, jobs=2, depth=3):
        next(pieces)
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert len(made) < 20


def test_journal_survives_a_torn_line_and_refuses_other_settings(tmp_path):
    journal = ResumeLog(tmp_path / "out.json", {"top": 1})
    journal.add("a", {"x": 1})
    with open(journal.path, "a") as file:
        file.write('{"item": "b", "resu')
    again = ResumeLog(tmp_path / "out.json", {"top": 1})
    assert again.done == {"a": {"x": 1}}
    again.add("c", {"x": 2})
    assert ResumeLog(tmp_path / "out.json", {"top": 1}).done == {"a": {"x": 1}, "c": {"x": 2}}
    with pytest.raises(CommandError, match="another command"):
        ResumeLog(tmp_path / "out.json", {"top": 2})
    again.close()
    assert list(tmp_path.iterdir()) == []


# --- The model over windows ---


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    labels = LabelSet(("dog", "cow", "hen"))
    made = ast_keras.from_preset(
        "ast_test", labels=labels, num_frames=98, score_activation="sigmoid"
    )
    for weight in made.backbone.weights:
        if weight.path.endswith(("qkv/kernel", "positions/embedding")):
            weight.assign(8 * weight)
    made.head.kernel.assign(30 * made.head.kernel)
    return made


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """11.2 s at 22.05 kHz, of a loudness that changes."""
    path = tmp_path_factory.mktemp("recording") / "long.flac"
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, 0, 30), 10_000)[:246_960, None]
    soundfile.write(path, loudness * noise(11.2, 22_050), 22_050)
    return str(path)


def test_windows_equal_their_slices_alone(model, recording):
    predictor = Predictor(model, Windows(1.0, 0.7))
    row = predictor.predict(recording, top=3)
    sound = load_audio(recording)
    assert row["seconds"] == 11.2
    assert len(row["windows"]) == 16
    scores = []
    for window in row["windows"]:
        begin, end = (round(window[name] * RATE) for name in ("start", "end"))
        expected = model.scores(model(sound[None, begin:end]))[0].numpy()
        scores.append(expected)
        for prediction in window["predictions"]:
            # Rounded to six digits.
            assert abs(prediction["score"] - expected[prediction["index"]]) < 1e-5
    assert row["windows"][-1]["end"] == 11.2
    assert np.ptp(scores, axis=0).max() > 0.05
    best = np.max(scores, axis=0)
    assert {p["index"]: p["score"] for p in row["predictions"]} == pytest.approx(
        dict(enumerate(best)), abs=1e-5
    )


def test_events_lie_where_the_scores_are(model, recording):
    windows = Windows(0.5, 0.1, events=True, threshold=0.6, threshold_off=0.55)
    row = Predictor(model, windows).predict(recording, top=3)
    assert row["events"]
    for event in row["events"]:
        assert 0 <= event["onset"] < event["offset"] <= 11.2
        inside = [
            p["score"]
            for w in row["windows"]
            for p in w["predictions"]
            if p["label"] == event["label"]
            and event["onset"] <= (w["start"] + w["end"]) / 2 <= event["offset"]
        ]
        assert max(inside) == pytest.approx(event["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        (Windows(2.0), r"hears 0.99 s at once.*--padding masked"),
        (Windows(0.01), "at least 25 ms"),
        (Windows(1.0, 1.5), "at most a window"),
        (Windows(1.0, 0.5, aggregate="sum"), "one of max, mean, attention"),
    ],
)
def test_windows_that_do_not_fit_are_an_error(model, windows, words):
    with pytest.raises(InferenceError, match=words):
        Predictor(model, windows)


def test_masked_model_takes_longer_windows_but_not_an_hour_at_once(model, recording, tmp_path):
    ast_keras.save_to_preset(model, tmp_path / "model")
    masked = ast_keras.from_preset(tmp_path / "model", padding="masked")
    assert len(Predictor(masked, Windows(5.0, 5.0)).predict(recording)["windows"]) == 3
    whole = Predictor(masked).predict(recording)
    expected = masked.scores(masked(load_audio(recording)[None]))[0].numpy().max()
    assert whole["predictions"][0]["score"] == pytest.approx(expected, abs=1e-5)
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 8000), 8000)
    with pytest.raises(InferenceError, match=r"more than 60 s.*--window_seconds"):
        Predictor(masked).predict(str(tmp_path / "long.flac"))


# --- The command ---


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    ast_keras.save_to_preset(model, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four sounds, one that is none, one with NaN, one cut short."""
    path = tmp_path_factory.mktemp("sounds")
    for number in range(4):
        soundfile.write(path / f"{number}.wav", noise(2 + number, seed=number), RATE)
    (path / "bad.wav").write_text("no sound")
    samples = noise(3)
    samples[30_000] = np.nan
    soundfile.write(path / "nan.wav", samples, RATE, subtype="FLOAT")
    whole = (path / "3.wav").read_bytes()
    (path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    return path


def command(saved, *arguments, module="predict", **options):
    return subprocess.run(
        [sys.executable, "-m", f"ast_keras.{module}", "--model", str(saved), *map(str, arguments)],
        capture_output=True,
        cwd=ROOT,
        **options,
    )


WINDOWS = ("--window_seconds", "1", "--hop_seconds", "0.5")


def test_folder_goes_on_past_what_cannot_be_heard(saved, folder, tmp_path):
    output = tmp_path / "out.json"
    done = command(saved, folder, *WINDOWS, "--format", "json", "--output", output)
    errors = done.stderr.decode()
    assert done.returncode == 1
    assert "error: The audio cannot be decoded" in errors
    assert "error: The samples must be finite" in errors
    assert "warning: The file is cut short" in errors
    rows = json.loads(output.read_text())
    assert [pathlib.Path(row["file"]).name for row in rows] == [
        *("0.wav", "1.wav", "2.wav", "3.wav", "cut.wav")
    ]
    assert [row["seconds"] for row in rows] == [2.0, 3.0, 4.0, 5.0, 2.499]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_killed_command_goes_on_where_it_was(saved, folder, tmp_path):
    arguments = (folder, *WINDOWS, "--format", "csv", "--output", tmp_path / "out.csv")
    expected = command(saved, *arguments[:-2]).stdout.decode()
    process = subprocess.Popen(
        [sys.executable, "-m", "ast_keras.predict", "--model", str(saved), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    journal = tmp_path / "out.csv.journal"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None or journal.exists()
        time.sleep(0.01)
        if process.poll() is not None:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode == -signal.SIGKILL:  # else it was faster than the kill
        assert not (tmp_path / "out.csv").exists()
        other = command(saved, *arguments, "--top", "2")
        assert "error: A journal holds results of another command" in other.stderr.decode()
    again = command(saved, *arguments)
    if process.returncode == -signal.SIGKILL:
        assert "files were heard before" in again.stderr.decode()
    assert (tmp_path / "out.csv").read_text() == expected
    assert not journal.exists()


def test_standard_input_gives_what_the_file_gives(saved, model, recording):
    arguments = (*WINDOWS, "--format", "csv")
    with open(recording, "rb") as file:
        from_input = command(saved, "-", *arguments, stdin=file).stdout.decode()
    row = Predictor(model, Windows(1.0, 0.5)).predict(recording)
    # Commands compute with oneDNN, tests with what TensorFlow chooses: seen 1e-6 of difference.
    found, wanted = (
        [line.rpartition(",") for line in text.splitlines()]
        for text in (from_input, as_csv([{**row, "file": "-"}]))
    )
    assert [line[0] for line in found] == [line[0] for line in wanted]
    assert found[0] == wanted[0]  # the names of the columns
    scores = [[float(line[2]) for line in lines[1:]] for lines in (found, wanted)]
    np.testing.assert_allclose(*scores, rtol=0, atol=5e-6)
    assert from_input.count("\n") == 1 + 22 * 3


@pytest.mark.slow
def test_broken_standard_input_is_called_by_its_name(saved):
    broken = command(saved, "-", input=b"no sound").stderr.decode()
    assert "error: The audio cannot be decoded" in broken
    assert "source=standard input" in broken


@pytest.mark.slow
def test_events_as_audacity_labels(saved, recording, folder, tmp_path):
    arguments = (*WINDOWS, "--events", "--threshold", "0.55", "--format", "audacity")
    track = command(saved, recording, *arguments).stdout.decode()
    for line in track.splitlines():
        onset, offset, label = line.split("\t")
        assert 0 <= float(onset) < float(offset) <= 11.2
        assert label.split()[0] in ("dog", "cow", "hen")
    assert track
    assert "one label track for each file" in command(saved, folder, *arguments).stderr.decode()
    command(saved, folder, *arguments, "--output", tmp_path / "tracks")
    names = sorted(path.name for path in (tmp_path / "tracks").iterdir())
    assert names == ["0.txt", "1.txt", "2.txt", "3.txt", "cut.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--events",), "need windows: add --window_seconds"),
        (("--format", "audacity"), "add --events"),
        (("--window_seconds", "3"), "--padding masked"),
        (("--window_seconds", "1", "--threshold", "2", "--events"), "threshold <= 1"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(saved, recording, arguments, words):
    done = command(saved, recording, *arguments)
    assert done.returncode == 1
    assert words in done.stderr.decode().strip().splitlines()[-1]
    assert b"Traceback" not in done.stderr


def test_csv_of_events_of_nothing_has_its_heading():
    assert as_csv([{"file": "a", "events": []}]) == "file,onset,offset,index,label,score\n"


# --- Memory ---


def write_long(path, rate, seconds):
    rng = np.random.default_rng(0)
    minute = (rng.standard_normal(60 * rate) * 8).astype("int16")
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(round(seconds / 60)):
            file.write(minute)


PEAK = """
import re, sys
from absl import flags
from ast_keras import predict
sys.argv = ["predict", *sys.argv[1:]]
try:
    predict.run()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "rate"), [("wav", 16000), ("flac", 44100)])
def test_three_hours_need_no_more_memory_than_a_minute(saved, tmp_path, ending, rate):
    peaks = []
    for seconds in (60, 3 * 3600):
        path = tmp_path / f"sound.{ending}"
        write_long(path, rate, seconds)
        arguments = [path, "--model", saved, "--window_seconds", "1", "--hop_seconds", "1"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, arguments), "--output", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]))
        path.unlink()
    print(f"{ending} at {rate} Hz: {peaks[0] / 1e3:.0f} and {peaks[1] / 1e3:.0f} MB")
    assert peaks[1] < 1.1 * peaks[0], peaks

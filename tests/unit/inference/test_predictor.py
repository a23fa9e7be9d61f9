"""Files classified at once or in windows, with events."""

import numpy as np
import pytest
import soundfile

from ast_keras.audio import load_audio
from ast_keras.errors import ArgumentError, AudioWarning, InferenceError
from ast_keras.inference.explanation import explain_file
from ast_keras.inference.formats import as_csv, write_rows
from ast_keras.inference.predictor import Predictor, Windows
from ast_keras.labels import LabelSet
from tests.helpers.audio import RATE
from tests.helpers.models import expressive_classifier, tiny_classifier

SETTINGS = {"score_activation": "sigmoid"}


@pytest.fixture(scope="module")
def model():
    made = expressive_classifier(**SETTINGS)
    made.labels = LabelSet(("dog", "cow", "hen"))
    return made


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """5.6 s at 22.05 kHz, whose loudness changes."""
    path = tmp_path_factory.mktemp("recording") / "long.flac"
    rng = np.random.default_rng(0)
    loudness = np.repeat(10 ** rng.uniform(-3, -0.5, 15), 10_000)[:123_480]
    soundfile.write(path, loudness * rng.uniform(-1, 1, 123_480), 22_050)
    return str(path)


def test_windows_equal_the_model_on_each_window(model, recording):
    row = Predictor(model, Windows(1.0, 0.7)).predict(recording, top=3)
    sound = load_audio(recording)
    assert row["seconds"] == 5.6
    assert len(row["windows"]) == 8
    scores = []
    for window in row["windows"]:
        begin, end = (round(window[name] * RATE) for name in ("start", "end"))
        expected = model.scores(model(sound[None, begin:end]))[0].numpy()
        scores.append(expected)
        for prediction in window["predictions"]:
            # Rounded to six digits.
            assert abs(prediction["score"] - expected[prediction["index"]]) < 1e-5
    assert row["windows"][-1]["end"] == 5.6
    assert np.ptp(scores, axis=0).max() > 0.05
    best = np.max(scores, axis=0)
    assert {p["index"]: p["score"] for p in row["predictions"]} == pytest.approx(
        dict(enumerate(best)), abs=1e-5
    )


def test_events_lie_where_the_scores_are(model, recording):
    scores = Predictor(model, Windows(0.5, 0.1)).predict(recording, top=3)["windows"]
    values = [p["score"] for window in scores for p in window["predictions"]]
    high, low = float(np.quantile(values, 0.8)), float(np.quantile(values, 0.7))
    windows = Windows(0.5, 0.1, events=True, threshold=high, threshold_off=low)
    row = Predictor(model, windows).predict(recording, top=3)
    assert row["events"]
    for event in row["events"]:
        assert 0 <= event["onset"] < event["offset"] <= 5.6
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
        (Windows(2.0), r"processes 0.99 s at once.*--padding masked"),
        (Windows(0.01), "at least 25 ms"),
        (Windows(0.9, 1.5), r"at most a window.* window=0\.9 s, hop=1\.5 s"),
        (Windows(1.0, 0.5, aggregate="sum"), "one of max, mean, attention"),
    ],
)
def test_windows_that_do_not_fit_are_rejected(model, windows, words):
    with pytest.raises(InferenceError, match=words):
        Predictor(model, windows)


def test_a_file_longer_than_the_model_is_cut_with_a_warning(model, recording):
    message = r"is 5.6 s long; .* only the first 1.0 s. --window_seconds .* processes all of it\.$"
    with pytest.warns(AudioWarning, match=message):
        row = Predictor(model).predict(recording, top=3)
    sound = load_audio(recording)[None, : model.frontend.num_samples]
    expected = model.scores(model(sound))[0].numpy()
    for prediction in row["predictions"]:
        assert prediction["score"] == pytest.approx(expected[prediction["index"]], abs=1e-5)
    assert row["seconds"] == 5.6


def test_explanation_of_a_long_file_advises_another_part(model, recording):
    with pytest.warns(AudioWarning, match=r"first 1.0 s. --start_seconds .* another part\.$"):
        explain_file(model, recording, "attention")


def test_masked_model_processes_a_minute_at_once_but_no_more(recording, tmp_path):
    masked = expressive_classifier(padding="masked", **SETTINGS)
    with pytest.warns(AudioWarning, match="windows: 5.00 s"):
        predictor = Predictor(masked, Windows(5.0, 5.0))
    assert len(predictor.predict(recording)["windows"]) == 2
    with pytest.warns(AudioWarning, match=r"long.flac: 5.60 s"):
        whole = Predictor(masked).predict(recording)
    expected = masked.scores(masked(load_audio(recording)[None]))[0].numpy().max()
    assert whole["predictions"][0]["score"] == pytest.approx(expected, abs=1e-5)
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 8000), 8000)
    with pytest.raises(InferenceError, match=r"longer than 60 s.*--window_seconds"):
        Predictor(masked).predict(str(tmp_path / "long.flac"))


def test_model_of_spectrograms_is_rejected():
    with pytest.raises(ArgumentError, match="takes spectrograms"):
        Predictor(tiny_classifier(frontend=None))


def test_csv_without_events_has_a_heading():
    assert as_csv([{"file": "a", "events": []}]) == "file,onset,offset,index,label,score\n"


def test_label_tracks_of_files_with_one_name_get_different_names(tmp_path):
    rows = [{"file": f"{folder}/1.wav", "events": []} for folder in "ab"]
    write_rows(rows, "audacity", str(tmp_path / "tracks"))
    names = sorted(path.name for path in (tmp_path / "tracks").iterdir())
    assert names == ["1.txt", "b_1.wav.txt"]

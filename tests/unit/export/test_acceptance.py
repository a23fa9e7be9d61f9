"""The report on an exported file, its reference clips and the isolated run."""

import json
import math
import pathlib

import numpy as np
import pytest
import soundfile

from ast_keras import from_preset
from ast_keras.audio import load_audio
from ast_keras.export import ExportError
from ast_keras.export.acceptance import DEFAULT_TOLERANCE, Tolerance, compare
from ast_keras.export.isolated_run import Measurement, measure
from ast_keras.export.reference_clips import comparison_clips, keras_scores
from ast_keras.files import write_json


@pytest.fixture(scope="module")
def model():
    return from_preset("ast_test", num_classes=3, num_frames=32)


def report(scores, bounds):
    expected = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    measurement = Measurement(np.array(scores, np.float32), 0.01, 1000)
    return compare(
        "int8", "4 clips", bounds, expected, measurement, size_bytes=5, operators={"ADD": 1}
    )


SCORES = [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]]


def test_report_has_the_differences():
    found = report(SCORES, Tolerance(agreement=0.75, max_error=0.11, mean_error=0.02))
    assert found.agreement == 0.75
    # float32 scores against float64 ones.
    assert found.max_error == pytest.approx(0.1, abs=1e-7)
    assert found.mean_error == pytest.approx(0.2 / 12, abs=1e-8)
    assert found.violations == ""


@pytest.mark.parametrize(
    ("bounds", "violation"),
    [
        (Tolerance(agreement=0.76), "agreement 0.7500 < 0.76"),
        (Tolerance(agreement=0, max_error=0.09), "largest error 1.00e-01 > 9.00e-02"),
        (Tolerance(agreement=0, mean_error=0.01), "mean error 1.67e-02 > 1.00e-02"),
    ],
)
def test_each_limit_can_be_violated(bounds, violation):
    assert report(SCORES, bounds).violations == violation


@pytest.mark.parametrize("bounds", DEFAULT_TOLERANCE.values())
def test_nan_violates_every_tolerance(bounds):
    assert report(np.full((4, 3), math.nan), bounds).violations


def test_report_is_valid_json(tmp_path):
    write_json(tmp_path / "report.json", report(SCORES, Tolerance()).to_dict())
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["bounds"] == {"agreement": 1.0, "max_error": None, "mean_error": None}
    assert stored["operators"] == {"ADD": 1}


def test_rendered_clips_are_reproducible(model):
    first, source = comparison_clips(model, 5200, num_clips=4)
    second, _ = comparison_clips(model, 5200, num_clips=4)
    assert first.shape == (4, 5200)
    assert first.dtype == np.float32
    assert source == "4 rendered sounds"
    np.testing.assert_array_equal(first, second)
    assert (np.abs(first).max(axis=1) > 0.01).all()


def test_folder_gives_the_first_clip_of_every_file_then_the_second(model, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", rng.uniform(-0.5, 0.5, 16000), 16000)
    soundfile.write(tmp_path / "b.flac", rng.uniform(-0.5, 0.5, 11025), 22050)
    (tmp_path / "notes.txt").write_text("no audio")
    clips, source = comparison_clips(model, 5200, tmp_path, num_clips=5)
    a, b = (load_audio(tmp_path / name, 16000) for name in ("a.wav", "b.flac"))
    expected = [a[:5200], b[:5200], a[5200:10400], np.pad(b[5200:], (0, 10400 - 8000))]
    np.testing.assert_array_equal(clips[:4], expected)
    np.testing.assert_array_equal(clips[4], a[10400:15600])
    assert source == f"5 clips from {tmp_path}"
    with pytest.raises(ExportError, match=r"lower --num_clips.*which gives 6"):
        comparison_clips(model, 5200, tmp_path, num_clips=7)


def test_folder_without_audio_is_rejected(model, tmp_path):
    with pytest.raises(ExportError, match="no audio files in this folder"):
        comparison_clips(model, 5200, tmp_path)


def test_keras_scores_are_those_of_the_model(model):
    clips, _ = comparison_clips(model, 5200, num_clips=9)
    expected = model.scores(model(clips)).numpy()
    # Another batch size: sums in another order.
    np.testing.assert_allclose(keras_scores(model, clips), expected, rtol=0, atol=1e-6)


def test_file_that_does_not_run_is_named_in_the_error(tmp_path):
    broken = pathlib.Path(tmp_path, "broken.tflite")
    broken.write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"does not run: .*broken\.tflite"):
        measure("tflite", broken, np.zeros((1, 100), np.float32))

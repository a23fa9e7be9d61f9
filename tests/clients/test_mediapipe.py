"""MediaPipe's AudioClassifier, as used by apps: clips and streams."""

import numpy as np
import pytest
import soxr

from tests.clients.conftest import ERRORS, LABELS

pytestmark = pytest.mark.clients

# MediaPipe's resampler and soxr attenuate the highest frequencies differently.
RESAMPLED = 0.05


@pytest.mark.parametrize("quantize", ERRORS)
def test_clips_get_keras_scores_and_labels(
    quantize, run_client, tflite_files, clips_file, expected
):
    file = tflite_files / f"{quantize}.tflite"
    found = run_client("run_mediapipe.py", file, clips_file, 16000, 1, "clip")
    assert tuple(found["labels"]) == LABELS
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=ERRORS[quantize])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_any_rate_and_channels(rate, channels, run_client, tflite_files, clips, expected, tmp_path):
    path = tmp_path / "clips.npy"
    np.save(path, np.stack([soxr.resample(clip, 16000, rate) for clip in clips]))
    found = run_client(
        "run_mediapipe.py", tflite_files / "none.tflite", path, rate, channels, "clip"
    )
    error = ERRORS["none"] if rate == 16000 else RESAMPLED
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=error)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_streams_get_a_result_for_every_length(
    rate, channels, run_client, tflite_files, clips, expected, tmp_path
):
    path = tmp_path / "clips.npy"
    np.save(path, soxr.resample(clips.ravel(), 16000, rate).reshape(len(clips), rate))
    file = tflite_files / "none.tflite"
    found = run_client("run_mediapipe.py", file, path, rate, channels, "stream")
    error = ERRORS["none"] if rate == 16000 else RESAMPLED
    # The last result is missing when the resampler has not yet emitted its last samples.
    count = len(found["scores"])
    assert count >= len(clips) - (rate != 16000)
    np.testing.assert_allclose(found["scores"], expected[:count], rtol=0, atol=error)

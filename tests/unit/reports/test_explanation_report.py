"""Pictures of evidence over a spectrogram."""

import io

import numpy as np
import pytest
from PIL import Image

from ast_keras.errors import ArgumentError
from ast_keras.reports.explanation_report import Sound, evidence_picture, smoothed
from tests.helpers.audio import RATE


def test_picture_shows_the_evidence_at_its_time():
    log_mel = np.random.default_rng(0).normal(-8, 1, (198, 128)).astype("float32")
    sound = Sound("a.wav", np.zeros(2 * RATE, "float32"), RATE, log_mel, 0.01, (20.0, 8000.0))
    evidence = np.zeros_like(log_mel)
    evidence[140:160] = 1.0
    png = evidence_picture(sound, evidence, "dog, 0.9")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    below = pixels[round(0.65 * height) : round(0.88 * height)]
    colour = np.abs(below - below.mean(axis=2, keepdims=True)).max(axis=2).mean(axis=0)
    seconds = (np.arange(width) / width - 0.08) / 0.90 * 2.0
    assert colour[(seconds > 1.42) & (seconds < 1.58)].min() > 30
    assert colour[(seconds > 0.1) & (seconds < 1.3)].max() < 5  # grey
    with pytest.raises(ArgumentError, match="shape"):
        evidence_picture(sound, evidence[:9], "dog")


def test_smoothing_keeps_the_sum():
    values = np.zeros((30, 30), "float32")
    values[12, 15] = 1.0
    assert smoothed(values, 5).sum() == pytest.approx(1.0)

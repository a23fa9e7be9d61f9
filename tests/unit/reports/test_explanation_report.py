"""Pictures and page of an explanation."""

import io

import numpy as np
import pytest
import soundfile

from ast_keras.errors import ArgumentError
from ast_keras.reports.explanation_report import Sound, evidence_picture, write_evidence_page
from tests.helpers.arrays import random
from tests.helpers.html import Page, assert_self_contained

pytest.importorskip("matplotlib")

WAVEFORM = np.round(random(8000) * 3000) / 32768
SOUND = Sound("<b>dog</b>.wav", WAVEFORM, 16000, random(48, 32), 0.01, (20.0, 8000.0))


def test_page_is_self_contained_and_plays_the_sound(tmp_path):
    picture = evidence_picture(SOUND, random(48, 32, seed=1), "dog & hen")
    scores = [("dog & hen", 0.9), ("<i>rain</i>", 0.1)]
    write_evidence_page(
        SOUND, [("dog & hen", picture)], scores, "A method.", tmp_path / "page.html"
    )
    page = Page(tmp_path / "page.html")
    assert_self_contained(page)
    assert not page.all("b")
    for text in ("<b>dog</b>.wav", "dog & hen", "<i>rain</i>", "0.50 s at 16000 Hz. A method."):
        assert text in page.text
    assert page.data("image/png") == [picture]
    decoded, _ = soundfile.read(io.BytesIO(page.data("audio/flac")[0]), dtype="float32")
    np.testing.assert_array_equal(decoded, WAVEFORM)
    (cursor,) = page.all("i")
    assert cursor["data-seconds"] == "0.5"


def test_picture_needs_evidence_of_the_spectrograms_shape():
    with pytest.raises(ArgumentError, match=r"same shape.* evidence\.shape=\(48, 31\)"):
        evidence_picture(SOUND, random(48, 31), "dog")

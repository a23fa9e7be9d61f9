"""Segments of recordings as the sources of a split: decoded by span, everywhere alike."""

import numpy as np
import pytest
import soundfile

from ast_keras.audio import loading
from ast_keras.auditing.audit import audit
from ast_keras.auditing.inspect_sound import inspect_sound
from ast_keras.data.clips import Clips, SharedDecoder
from ast_keras.data.dataset import Split
from ast_keras.data.segment import Segment
from ast_keras.errors import AudioEmptyError, AudioWarning
from ast_keras.recipe import load_recipe, override
from ast_keras.training import build

RATE = 16_000


@pytest.fixture
def recording(tmp_path):
    """Returns a file of 3 s whose sample k is k / 65536."""
    path = str(tmp_path / "monday.wav")
    soundfile.write(path, np.arange(3 * RATE) / 65_536, RATE, subtype="FLOAT")
    return path


def ramp(start_seconds, end_seconds):
    return np.arange(round(start_seconds * RATE), round(end_seconds * RATE)) / 65_536


def test_a_segment_gives_the_samples_of_its_span_only(recording):
    segments = [Segment(recording, 0.5, 1.25), Segment(recording, 2.5), Segment(recording, 0, 0.25)]
    split = Split(sources=segments, targets=[(0,)] * 3)
    expected = [ramp(0.5, 1.25), ramp(2.5, 3.0), ramp(0, 0.25)]
    for sources in (split.sources, SharedDecoder(RATE, 10 * RATE, 10**6).wrap(split).sources):
        clips = Clips(sources, clip_samples=10 * RATE)
        for index, samples in enumerate(expected):
            np.testing.assert_array_equal(clips[index], samples)
        assert clips.lengths().tolist() == [len(samples) for samples in expected]
    assert split.source_name(0) == f"{recording}[0.5-1.25 s]"


def test_a_segment_after_the_end_of_its_recording_is_reported(recording):
    with pytest.warns(AudioWarning, match=r"ends 1 s after its recording.*\[2.5-4 s\]"):
        samples = Segment(recording, 2.5, 4.0).load(RATE)
    np.testing.assert_array_equal(samples, ramp(2.5, 3.0))
    with pytest.raises(AudioEmptyError, match=r"monday.wav\[3.5-4 s\]"):
        Segment(recording, 3.5, 4.0).load(RATE)
    assert inspect_sound(Segment(recording, 2.5, 4.0)).defects["past_end"] == "by 1 s"
    assert "unreadable" in inspect_sound(Segment(recording, 3.5, 4.0)).defects


def test_the_audit_inspects_the_span(recording):
    found = inspect_sound(Segment(recording, 0.5, 1.25))
    assert (found.seconds, found.sample_rate, found.format) == (0.75, RATE, "WAV FLOAT")
    assert found.defects == {"offset": f"mean {ramp(0.5, 1.25).mean():+.3f}"}
    assert inspect_sound(Segment(recording, 1.0)).seconds == 2.0


def test_one_channel_of_a_segment_can_be_chosen(tmp_path):
    path, sound = str(tmp_path / "stereo.wav"), np.sin(np.arange(RATE)) / 2
    soundfile.write(path, np.stack([sound, -sound], 1), RATE, subtype="FLOAT")
    segment = Segment(path, 0.25, 0.75)
    np.testing.assert_array_equal(segment.load(RATE, channel=1), -sound[4000:12000].astype("f4"))
    assert "inverted_channel" in inspect_sound(segment).defects
    assert inspect_sound(segment, channel=1).defects == {}
    for sources in (
        [segment],
        SharedDecoder(RATE, RATE, 10**6, 1).wrap(Split([segment], [(0,)])).sources,
    ):
        clips = Clips(sources, clip_samples=RATE, channel=1)
        np.testing.assert_array_equal(clips[0], segment.load(RATE, channel=1))


def test_the_recipe_and_the_audit_take_one_channel(tmp_path):
    sound = np.sin(np.arange(2 * RATE)) / 2
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", np.stack([sound, -sound], 1), RATE)
    rows = [f"{name}.wav,{label}" for name, label in zip("abcd", ("dog", "hen") * 2, strict=True)]
    (tmp_path / "farm.csv").write_text("\n".join(["path,labels", *rows]))
    path = f"data.path={tmp_path / 'farm.csv'}"
    recipe = override(load_recipe("finetune"), [path, "data.channel=1"])
    pipeline = build.make_pipeline(recipe, build.make_dataset(recipe), "test")
    expected = loading.load_audio(tmp_path / "a.wav", RATE, channel=1)
    np.testing.assert_array_equal(pipeline.waveform(0), expected)
    report = audit(str(tmp_path / "farm.csv"), statistics=False)
    assert report["defects"]["inverted_channel"]["count"] == 4
    report = audit(str(tmp_path / "farm.csv"), statistics=False, channel=1)
    assert report["defects"] == {}
    assert "--set data.channel=1" in report["start"]["command"]
